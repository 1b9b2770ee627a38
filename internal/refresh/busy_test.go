package refresh

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"

	"tenure"
	"tenure/internal/mount"
	"tenure/internal/mount/mounttest"
)

// refusing is a mount table that refuses to unmount, as one does whose mount has just come into use, until it does no more.
type refusing struct {
	*mounttest.Twin

	refuses func() bool
}

func (r refusing) Unmount(ctx context.Context, dir string) error {
	if r.refuses() {
		return fmt.Errorf("unmount %s: %w", dir, mount.ErrBusy)
	}
	return r.Twin.Unmount(ctx, dir)
}

// forgotten is a machine whose collector has just forgotten a revision that is mounted.
func forgotten(t *testing.T, table refusing) (*harness, tenure.Ref) {
	t.Helper()
	h := newHarness(t)
	ref := tenure.Ref{Snap: probe, Revision: tenure.LocalRevision(1)}
	dir := h.cfg.Mounts.Dir(ref.Snap, ref.Revision)
	file := filepath.Join(h.dir, "file")
	err := errors.Join(os.WriteFile(file, nil, 0o600), os.MkdirAll(h.cfg.Paths.Data(ref), 0o700), h.snaps.Put(probe, h.state(tenure.LocalRevision(2))))
	if _, failed := table.Mount(t.Context(), file, dir); err != nil || failed != nil {
		t.Fatal(err, failed)
	}
	cfg := h.cfg
	cfg.Table = table
	engine := h.engine
	h.Manager = New(cfg)
	h.Use(engine)
	return h, ref
}

// A revision that somebody begins to use between the look at who does and its unmount is collected when they end, and nothing
// else happens.
func TestCollectsWhatBecameBusy(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		left := 2
		refuses := func() bool { left--; return left >= 0 }
		// It ends when it is looked for.
		user := mount.Use{Process: tenure.Process{PID: 1 << 30}, What: mount.Cwd}
		uses := func(string) []mount.Use {
			if left < 0 {
				return nil
			}
			return []mount.Use{user}
		}
		h, ref := forgotten(t, refusing{mounttest.NewTwin(uses), refuses})
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error)
		go func() { ended <- h.Collect(ctx) }()
		synctest.Wait()
		if !isMissing(h.cfg.Paths.Data(ref)) || left >= 0 {
			t.Errorf("%s is not collected: it may be refused %d times more", ref, left)
		}
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}

// One that is in use, and nobody is seen who uses it, is looked at again.
func TestCollectsWhatNobodyWasSeenToUse(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		left := 3
		refuses := func() bool { left--; return left >= 0 }
		h, ref := forgotten(t, refusing{mounttest.NewTwin(nil), refuses})
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error)
		go func() { ended <- h.Collect(ctx) }()
		pass(2 * lastLook)
		if !isMissing(h.cfg.Paths.Data(ref)) || left >= 0 {
			t.Errorf("%s is not collected: it may be refused %d times more", ref, left)
		}
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}
