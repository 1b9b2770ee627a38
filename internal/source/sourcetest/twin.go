package sourcetest

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"sync"

	"tenure"
	"tenure/internal/source"
)

// Twin is a source in memory. The zero value is empty.
type Twin struct {
	mu  sync.Mutex
	all map[key]published
}

type key struct {
	snap string
	rev  tenure.Revision
}

type published struct {
	source.Release

	file []byte
}

// Place is t with its publisher's side.
func (t *Twin) Place() Place {
	return Place{Source: t, Publish: t.Publish, Spoil: t.Publish, Withdraw: t.Withdraw}
}

// Publish makes a release be there.
func (t *Twin) Publish(r source.Release, file []byte) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.all == nil {
		t.all = map[key]published{}
	}
	t.all[key{r.Snap, r.Revision}] = published{r, file}
}

// Withdraw takes a release back.
func (t *Twin) Withdraw(r source.Release) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.all, key{r.Snap, r.Revision})
}

// All implements source.Lister.
func (t *Twin) All(context.Context) (source.Listing, error) {
	return t.list(func(string) bool { return true }), nil
}

// Releases implements source.Source.
func (t *Twin) Releases(_ context.Context, snap string) (source.Listing, error) {
	return t.list(func(name string) bool { return name == snap }), nil
}

func (t *Twin) list(wanted func(string) bool) source.Listing {
	t.mu.Lock()
	defer t.mu.Unlock()
	var listing source.Listing
	for _, p := range t.all {
		if wanted(p.Snap) {
			listing.Releases = append(listing.Releases, p.Release)
		}
	}
	return listing
}

// Fetch implements source.Source.
func (t *Twin) Fetch(ctx context.Context, r source.Release, to io.Writer) error {
	t.mu.Lock()
	p, found := t.all[key{r.Snap, r.Revision}]
	t.mu.Unlock()
	if !found || p.Digest != r.Digest {
		return fmt.Errorf("fetch %s: %w", r, source.ErrGone)
	}
	return source.Copy(ctx, to, bytes.NewReader(p.file), r)
}
