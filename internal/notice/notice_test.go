package notice_test

import (
	"context"
	"errors"
	"strconv"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"tenure/internal/notice"
)

func change(key string) notice.Occasion { return notice.Occasion{Type: notice.ChangeUpdate, Key: key} }

func keys(found []notice.Notice) (all []string) {
	for i := range found {
		all = append(all, found[i].Key)
	}
	return all
}

func TestWhatHappensAgainIsTheSameNotice(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := notice.New(time.Now)
		id := b.Record(change("1"))
		b.Record(change("2"))
		<-time.After(time.Hour)
		again := change("1")
		again.Data = map[string]string{"kind": "refresh-snap"}
		if b.Record(again) != id {
			t.Error("its id has changed")
		}
		n, found := b.Get(id, func(*notice.Notice) bool { return true })
		if !found || n.Occurrences != 2 || n.Last.Sub(n.First) < time.Hour || n.Data["kind"] != "refresh-snap" {
			t.Errorf("the notice is %+v (%t)", n, found)
		}
		if diff := cmp.Diff([]string{"2", "1"}, keys(b.List(notice.Filter{}))); diff != "" {
			t.Error(diff)
		}
		if _, found := b.Get(id, func(*notice.Notice) bool { return false }); found {
			t.Error("who may not see it can get it")
		}
	})
}

// Whoever asks for what was repeated after the last that it knows gets each once, also of
// what happens at one time.
func TestNothingIsMissed(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := notice.New(time.Now)
		var after time.Time
		for i := range 10 {
			b.Record(change(strconv.Itoa(i)))
			found := b.List(notice.Filter{After: after})
			if diff := cmp.Diff([]string{strconv.Itoa(i)}, keys(found)); diff != "" {
				t.Fatal(diff)
			}
			after = found[0].Repeated
		}
	})
}

func TestFilter(t *testing.T) {
	t.Parallel()
	b := notice.New(time.Now)
	one := uint32(1000)
	b.Record(change("1"))
	b.Record(change("2"))
	b.Record(notice.Occasion{Type: notice.SnapRunInhibit, Key: "2", User: &one})
	b.Record(notice.Occasion{Type: notice.SnapRunInhibit, Key: "2"})
	for name, c := range map[string]struct {
		filter notice.Filter
		want   int
	}{
		"all":   {notice.Filter{}, 4},
		"type":  {notice.Filter{Types: []notice.Type{notice.SnapRunInhibit, notice.Warning}}, 2},
		"key":   {notice.Filter{Keys: []string{"2"}}, 3},
		"both":  {notice.Filter{Types: []notice.Type{notice.ChangeUpdate}, Keys: []string{"2"}}, 1},
		"users": {notice.Filter{See: func(n *notice.Notice) bool { return n.User != nil && *n.User == one }}, 1},
		"later": {notice.Filter{After: time.Now().Add(time.Hour)}, 0},
	} {
		if found := b.List(c.filter); len(found) != c.want {
			t.Errorf("%s: %v", name, found)
		}
	}
}

func TestWait(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := notice.New(time.Now)
		b.Record(change("1"))
		got := make(chan []notice.Notice)
		go func() {
			found, err := b.Wait(t.Context(), notice.Filter{Keys: []string{"2"}})
			if err != nil {
				t.Error(err)
			}
			got <- found
		}()
		synctest.Wait()
		b.Record(change("3"))
		synctest.Wait()
		select {
		case found := <-got:
			t.Errorf("it did not wait: %v", found)
		default:
		}
		b.Record(change("2"))
		if diff := cmp.Diff([]string{"2"}, keys(<-got)); diff != "" {
			t.Error(diff)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if _, err := b.Wait(ctx, notice.Filter{Keys: []string{"4"}}); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("what never comes: %v", err)
		}
	})
}

// A type that has very many notices takes the room of no other, and what is old goes.
func TestTheBookIsBounded(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := notice.New(time.Now)
		b.Record(change("first"))
		for i := range 3000 {
			b.Record(notice.Occasion{Type: notice.SnapRunInhibit, Key: strconv.Itoa(i)})
		}
		found := b.List(notice.Filter{Types: []notice.Type{notice.SnapRunInhibit}})
		if len(found) != 1024 || found[len(found)-1].Key != "2999" {
			t.Errorf("%d are kept", len(found))
		}
		if !b.Knows(change("first")) {
			t.Error("another type was pushed out")
		}
		<-time.After(notice.ExpireAfter + time.Second)
		if found := b.List(notice.Filter{}); len(found) != 0 {
			t.Errorf("after a week there are %d", len(found))
		}
	})
}

func TestRecall(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := notice.New(time.Now)
		before := time.Now().Add(-time.Hour)
		b.Recall(change("1"), before)
		b.Recall(change("1"), before)
		b.Recall(change("old"), time.Now().Add(-notice.ExpireAfter-time.Second))
		if found := b.List(notice.Filter{}); len(found) != 1 || found[0].Occurrences != 1 || !found[0].Repeated.Equal(before) {
			t.Errorf("what happened before is %+v", found)
		}
		if found := b.List(notice.Filter{After: before}); len(found) != 0 {
			t.Errorf("it is news to who knows it: %+v", found)
		}
	})
}
