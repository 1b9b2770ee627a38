package journal

import (
	"errors"
	"slices"
	"testing"
)

// Documents that are remembered are those that are there: also after one was put, in a transaction that reads what it has
// written, and in one that was given up; and whoever reads one may modify it.
func TestRemember(t *testing.T) {
	t.Parallel()
	db := newDB(t)
	type doc struct{ Words []string }
	cloned := 0
	docs := NewCollection[doc](db, "docs").Remember(func(d doc) doc {
		cloned++
		return doc{slices.Clone(d.Words)}
	})
	want := func(words ...string) {
		t.Helper()
		got, found, err := docs.Get("a")
		if err != nil || !found || !slices.Equal(got.Words, words) {
			t.Errorf("read %v, %t, %v, want %v", got.Words, found, err, words)
		}
		if len(got.Words) > 0 {
			got.Words[0] = "modified"
		}
		all, err := docs.All()
		if err != nil || len(all) != 1 || !slices.Equal(all["a"].Words, words) {
			t.Errorf("read all %v, %v, want %v", all, err, words)
		}
	}
	put := func(words ...string) {
		t.Helper()
		if err := docs.Put("a", doc{words}); err != nil {
			t.Fatal(err)
		}
	}
	put("one")
	want("one")
	before := cloned
	want("one")
	// What is decoded and kept is cloned once, and so is what is remembered: four reads have decoded one.
	if cloned-before != 2 || before != 2 {
		t.Errorf("%d and then %d copies were made of what is remembered", before, cloned-before)
	}
	put("two", "three")
	want("two", "three")
	errGivenUp := errors.New("given up")
	err := db.Update(func(tx *Tx) error {
		in := docs.In(tx)
		if err := in.Put("a", doc{[]string{"given up"}}); err != nil {
			t.Error(err)
		}
		if got, _, err := in.Get("a"); err != nil || !slices.Equal(got.Words, []string{"given up"}) {
			t.Errorf("inside the transaction: %v, %v", got, err)
		}
		return errGivenUp
	})
	if !errors.Is(err, errGivenUp) {
		t.Errorf("the transaction: %v", err)
	}
	want("two", "three")
	docs.Forget()
	want("two", "three")
	if err := docs.Delete("a"); err != nil {
		t.Fatal(err)
	}
	if got, found, err := docs.Get("a"); err != nil || found {
		t.Errorf("read %v, %v of what was deleted", got, err)
	}
}
