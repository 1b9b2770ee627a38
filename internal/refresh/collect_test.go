package refresh

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"

	"tenure"
	"tenure/internal/supervise"
	"tenure/internal/supervise/supervisetest"
)

// A hook and its change that the next daemon ends before it listens for what ends are forgotten all the same.
func TestCollectsWhatEndedBefore(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		h := newHarness(t)
		run := supervise.Spec{
			Unit: tenure.UnitID{Snap: probe, Kind: tenure.HookRun, App: "configure", Serial: 1}, Revision: tenure.LocalRevision(1),
			Type: supervise.Oneshot, Command: supervisetest.Program{Exits: true}.Command("/probe"),
		}
		if err := errors.Join(h.snaps.Put(probe, h.state(run.Revision)), h.twin.Start(t.Context(), run)); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error)
		go func() { ended <- h.Collect(ctx) }()
		synctest.Wait()
		units, err := h.twin.Units(ctx)
		if err != nil || len(units) > 0 {
			t.Errorf("there still is %+v, %v", units, err)
		}
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}

// A snap that is listed and cannot be got, because a bit has turned in the journal, is not taken for one of which nothing is to be kept.
func TestWhatCannotBeGotIsKept(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		h := newHarness(t)
		var snaps []tenure.Instance
		for i := range 40 {
			snap := tenure.Instance(fmt.Sprintf("snap%02d", i))
			state := h.state(tenure.LocalRevision(1))
			state.Instance = snap
			if err := errors.Join(h.snaps.Put(snap, state), os.MkdirAll(h.data(snap), 0o755)); err != nil {
				t.Fatal(err)
			}
			snaps = append(snaps, snap)
		}
		turnBranches(t, filepath.Join(h.dir, "state.db"), "snap")
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error)
		go func() { ended <- h.Collect(ctx) }()
		synctest.Wait()
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
		lost := 0
		for _, snap := range snaps {
			if _, err := os.Stat(h.data(snap)); err != nil {
				t.Error(err)
			}
			if state, _ := h.snaps.Get(snap); state == nil {
				lost++
			}
		}
		if lost == 0 {
			t.Error("all of them can be got")
		}
	})
}

// data is where a snap has what it has at its first revision.
func (h *harness) data(snap tenure.Instance) string {
	return filepath.Join(h.cfg.Paths.DataDir(snap), tenure.LocalRevision(1).String())
}

// turnBranches turns a bit of each key in the branches of a journal that begins with prefix, but for the first.
func turnBranches(t *testing.T, path, prefix string) {
	t.Helper()
	file, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close() //nolint:errcheck // What is written to it is read.
	content, err := io.ReadAll(file)
	if err != nil {
		t.Fatal(err)
	}
	const pageSize, kind, kindBranch = 4096, 8, 1
	for at := range content {
		if content[at/pageSize*pageSize+kind] != kindBranch || !bytes.HasPrefix(content[at:], []byte(prefix)) || bytes.HasPrefix(content[at:], []byte(prefix+"00")) {
			continue
		}
		if _, err := file.WriteAt([]byte{content[at] ^ 4}, int64(at)); err != nil {
			t.Fatal(err)
		}
	}
}
