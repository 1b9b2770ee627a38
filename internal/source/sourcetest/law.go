// Package sourcetest is the law of package source: what every place that packages
// come from must do. It also has the in-memory twin, which keeps it.
//
// What always holds: Run asks nothing of an implementation that source.Source does
// not promise. Any number of Runs may go on at the same time.
package sourcetest

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"tenure"
	"tenure/internal/source"
)

// Place is a source under test, and the publisher's side of it.
type Place struct {
	source.Source
	// Publish makes a release that is right be there, with the bytes of its file. What
	// is there of that name already is replaced.
	Publish func(r source.Release, file []byte)
	// Spoil makes other bytes the file of a release that is there, and leaves what is
	// said of it.
	Spoil func(r source.Release, file []byte)
	// Withdraw takes a release back.
	Withdraw func(r source.Release)
}

// Of is a release of a snap, with the bytes of its file, that differs with its number
// in everything.
func Of(snap string, number int, channels ...source.Channel) (source.Release, []byte) {
	file := bytes.Repeat(fmt.Appendf(nil, "%s %d\n", snap, number), 100+number)
	sum := sha256.Sum256(file)
	if len(channels) == 0 {
		channels = []source.Channel{"latest/stable"}
	}
	return source.Release{
		Snap: snap, Revision: tenure.SourceRevision(number), Version: fmt.Sprintf("%d.0", number), Summary: "the snap " + snap,
		Channels: channels, Released: time.Date(2026, 1, number, 12, 0, 0, 0, time.UTC),
		Urgency: source.Urgencies()[number%4], Size: int64(len(file)), Digest: hex.EncodeToString(sum[:]),
	}, file
}

// Run holds the sources that make gives to the law.
func Run(t *testing.T, build func(t *testing.T) Place) {
	t.Helper()
	for name, law := range map[string]func(trial){
		"what is released is there":         trial.released,
		"only what was asked for is given":  trial.asked,
		"a file is the one that was said":   trial.fetched,
		"other bytes are refused":           trial.spoilt,
		"what was taken back is gone":       trial.withdrawn,
		"what was replaced is gone":         trial.replaced,
		"nobody waits who does not want to": trial.cancelled,
		"many may ask":                      trial.many,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			law(trial{build(t), t})
		})
	}
}

// trial is one law, tried on one source.
type trial struct {
	Place

	t *testing.T
}

func (p trial) publish(snap string, number int, channels ...source.Channel) (source.Release, []byte) {
	r, file := Of(snap, number, channels...)
	p.Publish(r, file)
	return r, file
}

// releases are those of one snap, by their numbers.
func (p trial) releases(snap string) []source.Release {
	t := p.t
	t.Helper()
	listing, err := p.Releases(t.Context(), snap)
	if err != nil {
		t.Fatal(err)
	}
	if len(listing.Problems) > 0 {
		t.Errorf("problems: %v", errors.Join(listing.Problems...))
	}
	slices.SortFunc(listing.Releases, func(a, b source.Release) int { return a.Revision.Compare(b.Revision) })
	return listing.Releases
}

func compare(t *testing.T, got, want any) {
	t.Helper()
	if diff := cmp.Diff(want, got, cmp.Comparer(func(a, b tenure.Revision) bool { return a == b })); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func (p trial) released() {
	t := p.t
	if found := p.releases("one"); len(found) > 0 {
		t.Errorf("an empty source has %v", found)
	}
	var want []source.Release
	for n, channels := range [][]source.Channel{{"latest/stable"}, {"latest/stable", "latest/edge/fix"}, {"2.0/beta"}} {
		r, _ := p.publish("one", n+1, channels...)
		want = append(want, r)
	}
	compare(t, p.releases("one"), want)
	again, _ := p.publish("one", 1, "latest/candidate")
	want[0] = again
	compare(t, p.releases("one"), want)
}

func (p trial) asked() {
	t := p.t
	one, _ := p.publish("one", 1)
	other, _ := p.publish("one-more", 1)
	compare(t, p.releases("one"), []source.Release{one})
	compare(t, p.releases("one-more"), []source.Release{other})
	for _, name := range []string{"on", "more", "", "*", "../one", "one_1"} {
		if found := p.releases(name); len(found) > 0 {
			t.Errorf("%q has %v", name, found)
		}
	}
	lister, ok := p.Source.(source.Lister)
	if !ok {
		return
	}
	all, err := lister.All(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	slices.SortFunc(all.Releases, func(a, b source.Release) int { return strings.Compare(a.Snap, b.Snap) })
	compare(t, all.Releases, []source.Release{one, other})
}

func (p trial) fetched() {
	t := p.t
	r, file := p.publish("one", 1)
	_, _ = p.publish("one", 2)
	var got bytes.Buffer
	if err := p.Fetch(t.Context(), r, &got); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got.Bytes(), file) {
		t.Errorf("%d bytes, not the %d that were published", got.Len(), len(file))
	}
	full := errors.New("the disk is full")
	if err := p.Fetch(t.Context(), r, failing{full}); !errors.Is(err, full) {
		t.Errorf("fetch to a full disk: %v", err)
	}
}

type failing struct{ err error }

func (f failing) Write([]byte) (int, error) { return 0, f.err }

func (p trial) spoilt() {
	t := p.t
	r, file := p.publish("one", 1)
	other := bytes.Clone(file)
	other[len(other)/2] ^= 1
	for what, bad := range map[string][]byte{
		"other": other, "longer": append(bytes.Clone(file), 'x'), "shorter": file[:len(file)-1], "none": {},
	} {
		p.Spoil(r, bad)
		var got bytes.Buffer
		if err := p.Fetch(t.Context(), r, &got); err == nil {
			t.Errorf("%s bytes are fetched", what)
		} else if what == "other" && !errors.Is(err, source.ErrDigest) {
			t.Errorf("%s bytes: %v", what, err)
		}
		if int64(got.Len()) > r.Size {
			t.Errorf("%s bytes: %d were written, of %d", what, got.Len(), r.Size)
		}
	}
	p.Spoil(r, file)
	if err := p.Fetch(t.Context(), r, &bytes.Buffer{}); err != nil {
		t.Errorf("the right bytes again: %v", err)
	}
}

func (p trial) withdrawn() {
	t := p.t
	r, _ := p.publish("one", 1)
	p.Withdraw(r)
	if found := p.releases("one"); len(found) > 0 {
		t.Errorf("still there: %v", found)
	}
	if err := p.Fetch(t.Context(), r, &bytes.Buffer{}); !errors.Is(err, source.ErrGone) {
		t.Errorf("fetch: %v", err)
	}
}

func (p trial) replaced() {
	t := p.t
	r, _ := p.publish("one", 1)
	file := []byte("something else")
	sum := sha256.Sum256(file)
	now := r
	now.Size, now.Digest = int64(len(file)), hex.EncodeToString(sum[:])
	p.Publish(now, file)
	if err := p.Fetch(t.Context(), r, &bytes.Buffer{}); !errors.Is(err, source.ErrGone) {
		t.Errorf("fetch what was replaced: %v", err)
	}
	if err := p.Fetch(t.Context(), now, &bytes.Buffer{}); err != nil {
		t.Errorf("fetch what replaced it: %v", err)
	}
}

func (p trial) cancelled() {
	t := p.t
	r, _ := p.publish("one", 1)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := p.Fetch(ctx, r, &bytes.Buffer{}); !errors.Is(err, context.Canceled) {
		t.Errorf("fetch: %v", err)
	}
}

func (p trial) many() {
	t := p.t
	r, file := p.publish("one", 1)
	var group sync.WaitGroup
	for range 8 {
		group.Go(func() {
			var got bytes.Buffer
			if err := p.Fetch(t.Context(), r, &got); err != nil || !bytes.Equal(got.Bytes(), file) {
				t.Errorf("fetch: %v", err)
			}
			if listing, err := p.Releases(t.Context(), "one"); err != nil || len(listing.Releases) != 1 {
				t.Errorf("releases: %v, %v", listing, err)
			}
		})
	}
	group.Wait()
}
