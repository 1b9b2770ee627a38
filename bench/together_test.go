package bench

import (
	"fmt"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"tenure/examples/clients/snaps"
	"tenure/test/rig"
)

// The gap of a snap with togetherServices services may be togetherFactor times that of one.
const (
	togetherServices = 20
	togetherFactor   = 2
)

// benchTogether is the gap of a refresh of a snap with many services against one with a single
// service, in turns.
func benchTogether(b *testing.B, t *table, n int) {
	i := newInstance(b)
	one, many := newTogether(b, i, "one", 1), newTogether(b, i, "many", togetherServices)
	hands := newHands(b, snap(b, 1), togetherServices)
	var ones, manies, floors series
	for range n {
		floors.add(hands.restart(b))
		ones.add(one.refresh(b))
		manies.add(many.refresh(b))
	}
	t.row(fmt.Sprintf("floor of the gap, %d services by hand at once", togetherServices), floors)
	t.row("gap, 1 service", ones)
	t.row(fmt.Sprintf("gap, %d services, the longest of three", togetherServices), manies)
	t.aimTime(fmt.Sprintf("gap with %d services, median, against %d x that of one", togetherServices, togetherFactor),
		manies.median(), togetherFactor*ones.median())
}

// hands are many services that are restarted by hand, side by side, and polled as those of together.
type hands struct {
	all     []*byHand
	pollers []*poller
}

func newHands(b *testing.B, file string, services int) *hands {
	b.Helper()
	h := &hands{}
	for k := range services {
		hand := newByHand(b, b.TempDir(), file)
		hand.start(b)
		h.all = append(h.all, hand)
		if k == 0 || k == services/2 || k == services-1 {
			h.pollers = append(h.pollers, poll(b, hand.socket, manyEvery))
		}
	}
	return h
}

func (h *hands) restart(b *testing.B) time.Duration {
	b.Helper()
	begin(b, h.pollers)
	var all sync.WaitGroup
	for _, hand := range h.all {
		all.Go(func() { hand.restart(b) })
	}
	all.Wait()
	return longestOf(b, h.pollers)
}

// together is an installed snap of services, of which the first, the last and one between are polled.
type together struct {
	i       *rig.Instance
	file    string
	pollers []*poller
}

func newTogether(b *testing.B, i *rig.Instance, name string, services int) *together {
	b.Helper()
	dir := b.TempDir()
	tree, err := snaps.Tree(b.Context(), "hello")
	if err != nil {
		b.Fatal(err)
	}
	s := &together{i: i, file: filepath.Join(dir, name+"_1.snap")}
	if err := packOne(i, filepath.Join(dir, name), name, tree, s.file, services); err != nil {
		b.Fatal(err)
	}
	i.Tenure("install", "--dangerous", s.file)
	polled := []int{0}
	if services > 1 {
		polled = []int{0, services / 2, services - 1}
	}
	for _, k := range polled {
		s.pollers = append(s.pollers, poll(b, i.Path(fmt.Sprintf("var/snap/%s/common/s%d.sock", name, k)), manyEvery))
	}
	return s
}

// refresh makes the same file the next revision, and returns the longest gap.
func (s *together) refresh(b *testing.B) time.Duration {
	b.Helper()
	begin(b, s.pollers)
	s.i.Tenure("refresh", "--dangerous", s.file)
	return longestOf(b, s.pollers)
}

// begin has all of pollers ask.
func begin(b *testing.B, pollers []*poller) {
	b.Helper()
	for _, p := range pollers {
		p.begin(b)
	}
}

// longestOf is the longest gap that pollers see.
func longestOf(b *testing.B, pollers []*poller) (longest time.Duration) {
	b.Helper()
	for _, p := range pollers {
		longest = max(longest, p.next(b).gap())
	}
	return longest
}
