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
			p := poll(b, hand.socket)
			p.next(b)
			h.pollers = append(h.pollers, p)
		}
	}
	return h
}

func (h *hands) restart(b *testing.B) (longest time.Duration) {
	b.Helper()
	var all sync.WaitGroup
	for _, hand := range h.all {
		all.Go(func() { hand.restart(b) })
	}
	all.Wait()
	for _, p := range h.pollers {
		longest = max(longest, p.next(b).gap())
	}
	return longest
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
		p := poll(b, i.Path(fmt.Sprintf("var/snap/%s/common/s%d.sock", name, k)))
		p.next(b)
		s.pollers = append(s.pollers, p)
	}
	return s
}

// refresh makes the same file the next revision, and returns the longest gap.
func (s *together) refresh(b *testing.B) (longest time.Duration) {
	b.Helper()
	s.i.Tenure("refresh", "--dangerous", s.file)
	for _, p := range s.pollers {
		longest = max(longest, p.next(b).gap())
	}
	return longest
}
