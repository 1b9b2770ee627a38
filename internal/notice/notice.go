// Package notice remembers what has happened lately, for clients that wait for it.
//
// What has happened to one thing is one notice, whose times and count move on. No two
// notices have been repeated at the same time, so that who asks for what was repeated
// after the last that it knows misses nothing. A Book holds a bounded number of each type,
// the latest, none for longer than ExpireAfter, and nothing of it outlives the daemon.
//
// All methods of a Book may be called at the same time.
package notice

import (
	"cmp"
	"context"
	"hash/fnv"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// Type says what a notice is about, in snapd's words.
type Type string

// The types.
const (
	// ChangeUpdate is that a change has another status; its key is the change's id.
	ChangeUpdate Type = "change-update"
	// Warning is that something is not as it should be; its key is the sentence.
	Warning Type = "warning"
	// RefreshInhibit is that other snaps than before wait to be refreshed until their apps
	// have ended; its key is "-".
	RefreshInhibit Type = "refresh-inhibit"
	// SnapRunInhibit is that an app is not started while its snap is refreshed; its key is the
	// name of the snap.
	SnapRunInhibit Type = "snap-run-inhibit"
)

// Types are all types.
func Types() []Type { return []Type{ChangeUpdate, Warning, RefreshInhibit, SnapRunInhibit} }

// ExpireAfter is how long after it was last repeated a notice is forgotten.
const ExpireAfter = 7 * 24 * time.Hour

// keep is how many notices of one type a Book holds.
const keep = 1024

// Occasion is something that happens.
type Occasion struct {
	Type Type
	Key  string
	// User is who alone is to know of it; nil is everybody who may know of the type.
	User *uint32
	// Data are details of the last occurrence.
	Data map[string]string
}

// name tells notices apart; it is the same in every life of the daemon.
func (o *Occasion) name() string {
	user := ""
	if o.User != nil {
		user = strconv.FormatUint(uint64(*o.User), 10)
	}
	return strings.Join([]string{string(o.Type), user, o.Key}, "\x00")
}

// Notice is what has happened to one thing.
type Notice struct {
	Occasion

	// ID is a number that depends on what the notice is about, and on nothing else.
	ID                    string
	First, Last, Repeated time.Time
	Occurrences           int
}

// Filter selects notices. An empty field selects all.
type Filter struct {
	Types []Type
	Keys  []string
	// After selects what was repeated later than that.
	After time.Time
	// See, if set, says which ones may be seen.
	See func(*Notice) bool
}

func (f *Filter) match(n *Notice) bool {
	return (len(f.Types) == 0 || slices.Contains(f.Types, n.Type)) &&
		(len(f.Keys) == 0 || slices.Contains(f.Keys, n.Key)) &&
		n.Repeated.After(f.After) && (f.See == nil || f.See(n))
}

// Book is what has happened. Make one with New.
type Book struct {
	now func() time.Time

	mu      sync.Mutex
	notices map[string]*Notice
	last    time.Time
	// moved is closed, and replaced, when something happens.
	moved chan struct{}
}

// New makes a Book that goes by a clock.
func New(now func() time.Time) *Book {
	return &Book{now: now, notices: map[string]*Notice{}, moved: make(chan struct{})}
}

// Record notes that something happens now, wakes those who wait for it, and gives the
// id of its notice.
func (b *Book) Record(o Occasion) string {
	b.mu.Lock()
	defer b.mu.Unlock()
	at := b.now().UTC().Round(0)
	if !at.After(b.last) {
		at = b.last.Add(time.Nanosecond)
	}
	b.last = at
	n := b.put(o, at)
	close(b.moved)
	b.moved = make(chan struct{})
	return n.ID
}

// Recall notes what has happened before there was this Book: nothing, if it knows of
// anything as late, and nobody is woken.
func (b *Book) Recall(o Occasion, at time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if known := b.notices[o.name()]; known == nil || known.Last.Before(at) {
		b.put(o, at.UTC().Round(0))
	}
}

// Knows reports whether there is a notice of it.
func (b *Book) Knows(o Occasion) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.notices[o.name()] != nil
}

func (b *Book) put(o Occasion, at time.Time) *Notice {
	name := o.name()
	n := b.notices[name]
	if n == nil {
		b.makeRoom(o.Type)
		n = &Notice{ID: id(name), First: at}
		b.notices[name] = n
	}
	n.Occasion, n.Last, n.Repeated = o, at, at
	n.Occurrences++
	return n
}

// makeRoom forgets what is expired, and the oldest notice of a type that has too many.
func (b *Book) makeRoom(of Type) {
	b.expire()
	var oldest string
	count := 0
	for name, n := range b.notices {
		if n.Type != of {
			continue
		}
		count++
		if oldest == "" || n.Repeated.Before(b.notices[oldest].Repeated) {
			oldest = name
		}
	}
	if count >= keep {
		delete(b.notices, oldest)
	}
}

func (b *Book) expire() {
	limit := b.now().Add(-ExpireAfter)
	maps.DeleteFunc(b.notices, func(_ string, n *Notice) bool { return n.Repeated.Before(limit) })
}

func id(name string) string {
	sum := fnv.New64a()
	_, _ = sum.Write([]byte(name)) // It never fails.
	return strconv.FormatUint(sum.Sum64(), 10)
}

// List are the notices that f selects, in the order in which they were repeated.
func (b *Book) List(f Filter) []Notice {
	found, _ := b.list(f)
	return found
}

func (b *Book) list(f Filter) (found []Notice, moved <-chan struct{}) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.expire()
	for _, n := range b.notices {
		if f.match(n) {
			found = append(found, *n)
		}
	}
	slices.SortFunc(found, func(a, b Notice) int {
		return cmp.Or(a.Repeated.Compare(b.Repeated), cmp.Compare(a.ID, b.ID))
	})
	return found, b.moved
}

// Wait is List, and waits until there is at least one, or ctx ends, which is an error.
func (b *Book) Wait(ctx context.Context, f Filter) ([]Notice, error) {
	for {
		found, moved := b.list(f)
		if len(found) > 0 {
			return found, nil
		}
		select {
		case <-moved:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

// Get is the notice with an id, and whether there is one that may be seen.
func (b *Book) Get(id string, see func(*Notice) bool) (Notice, bool) {
	found := b.List(Filter{See: func(n *Notice) bool { return n.ID == id && see(n) }})
	if len(found) == 0 {
		return Notice{}, false
	}
	return found[0], true
}
