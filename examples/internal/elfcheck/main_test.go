package main

import (
	"slices"
	"strings"
	"testing"

	"tenure/examples/clients/snaps"
)

func TestCheckNamesWhatOnlyTheBaseHas(t *testing.T) {
	t.Parallel()
	base, err := snaps.Tree(t.Context(), "debian12")
	if err != nil {
		t.Fatal(err)
	}
	tree, err := snaps.Tree(t.Context(), "virt")
	if err != nil {
		t.Fatal(err)
	}
	alone, err := check(tree, nil)
	if err != nil || !slices.ContainsFunc(alone, func(line string) bool { return strings.HasPrefix(line, "libc.so.6: needed by ") }) {
		t.Errorf("without the base: %q, %v, want libc.so.6 among what is missing", alone, err)
	}
	if missing, err := check(tree, []string{base}); err != nil || len(missing) > 0 {
		t.Errorf("with the base: %q, %v, want nothing missing", missing, err)
	}
	if _, err := check(tree, []string{"/nonexistent"}); err == nil {
		t.Error("a base that does not exist is no error")
	}
}
