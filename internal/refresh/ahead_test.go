package refresh

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"tenure"
	"tenure/internal/snapfile"
)

// TestStarting has the programs of what starts by itself alone, each once.
func TestStarting(t *testing.T) {
	t.Parallel()
	info, err := snapfile.Parse([]byte(`name: many
version: '1'
summary: Services
description: Of all kinds.
apps:
  web: {command: bin/web --port 1, daemon: simple, command-chain: [bin/chain]}
  api: {command: bin/web --port 2, daemon: simple}
  off: {command: bin/off, daemon: simple, install-mode: disable}
  stays: {command: bin/stays, daemon: simple, lifecycle: {refresh: endure}}
  waits: {command: bin/waits, daemon: simple, lifecycle: {refresh: defer}}
  app: {command: bin/app}
`), nil)
	if err != nil {
		t.Fatal(err)
	}
	got := starting(info)
	slices.Sort(got)
	if diff := cmp.Diff([]string{"bin/chain", "bin/web"}, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// TestAheadLeavesAMountAlone has nobody read of a revision after end, and nothing read that is no program of it.
func TestAheadLeavesAMountAlone(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	outside := filepath.Join(t.TempDir(), "outside")
	err := errors.Join(
		os.WriteFile(filepath.Join(dir, "program"), make([]byte, 1<<20), 0o700), //nolint:gosec // A program.
		os.WriteFile(outside, nil, 0o700),                                       //nolint:gosec // A program.
		os.Symlink(outside, filepath.Join(dir, "link")),
	)
	if err != nil {
		t.Fatal(err)
	}
	var a aheads
	for rev := range 20 {
		ref := tenure.Ref{Snap: "many", Revision: tenure.LocalRevision(rev + 1)}
		a.begin(ref, dir, []string{"program", "link", "missing", "program"})
		if rev%2 == 0 {
			a.wait(t.Context(), ref)
		}
		a.end(ref)
		a.end(ref)
	}
	if len(a.of) != 0 {
		t.Errorf("%d revisions are still read of", len(a.of))
	}
	open, err := filepath.Glob("/proc/self/fd/*")
	if err != nil {
		t.Fatal(err)
	}
	for _, fd := range open {
		if target, err := os.Readlink(fd); err == nil && filepath.Dir(target) == dir {
			t.Errorf("%s is open", target)
		}
	}
}
