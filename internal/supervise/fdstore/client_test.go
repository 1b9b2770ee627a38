package fdstore_test

import (
	"os"
	"testing"

	"github.com/google/go-cmp/cmp"

	"tenure/internal/supervise/fdstore"
)

func doomedClient() error { return nil }

func TestPutGetRemove(t *testing.T) {
	t.Parallel()
	r := newRoot(t)
	c := r.client(t)
	u := unit(t, "virt.virtd")
	f, err := os.CreateTemp(t.TempDir(), "kept")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for _, kind := range []fdstore.Kind{fdstore.Listen, fdstore.Stored, fdstore.Stored, fdstore.Notify} {
		if err := c.Put(t.Context(), u, kind, "x", f); err != nil {
			t.Fatal(err)
		}
	}
	items, err := c.List(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	want := []fdstore.Item{{Unit: u, Kind: fdstore.Listen, Name: "x"}, {Unit: u, Kind: fdstore.Stored, Name: "x"}, {Unit: u, Kind: fdstore.Notify, Name: "x"}}
	if diff := cmp.Diff(want, items); diff != "" {
		t.Error(diff)
	}
	if err := c.Remove(t.Context(), u, fdstore.Stored); err != nil {
		t.Fatal(err)
	}
	kept, err := c.Get(t.Context(), u)
	if err != nil {
		t.Fatal(err)
	}
	if len(kept) != 2 {
		t.Errorf("%d kept, want 2", len(kept))
	}
	for _, k := range kept {
		k.File.Close()
	}
	if err := c.Forget(t.Context(), u); err != nil {
		t.Fatal(err)
	}
}
