package refresh

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"os"
	"sync"
	"time"

	"tenure"
	"tenure/internal/supervise"
)

// broken are the revisions that could not be brought back to their places when the daemon started. Their
// services are not started: there is nothing to start them from, or another base than they want.
type broken struct {
	mu  sync.Mutex
	why map[tenure.Ref]breakage
}

type breakage struct {
	since time.Time
	err   error
}

// note is what became of ref; nil is that it is as it should be.
func (b *broken) note(ref tenure.Ref, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if err == nil {
		delete(b.why, ref)
		return
	}
	if b.why == nil {
		b.why = make(map[tenure.Ref]breakage)
	}
	b.why[ref] = breakage{since: time.Now(), err: err}
}

// of is why ref cannot be used; nil if it can.
func (b *broken) of(ref tenure.Ref) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.why[ref].err
}

// under is why services cannot be started from what their specs say; nil if they can.
func (b *broken) under(specs []supervise.Spec) error {
	for i := range specs {
		spec := &specs[i]
		if why := cmp.Or(b.of(tenure.Ref{Snap: spec.Unit.Snap, Revision: spec.Revision}), b.of(spec.Base)); why != nil {
			return fmt.Errorf("start %s: %w", spec.Unit, why)
		}
	}
	return nil
}

func (b *broken) all() map[tenure.Ref]breakage {
	b.mu.Lock()
	defer b.mu.Unlock()
	return maps.Clone(b.why)
}

// bringBack mounts a revision that is kept, unless its file is not what it was. What is in the file is not
// read for that: the machine would wait for it at every start. The kernel says of most damage, with an error to
// whoever reads it, that it is there.
func (m *Manager) bringBack(ctx context.Context, ref tenure.Ref, known kept) error {
	err := m.intact(ref, known)
	if err == nil {
		err = m.mountRevision(ctx, ref)
	}
	m.broken.note(ref, err)
	return err
}

// intact compares the file of a revision, which may not be mounted, with what is known of it.
func (m *Manager) intact(ref tenure.Ref, known kept) error {
	if _, mounted, err := m.cfg.Table.Mounted(m.cfg.Mounts.Dir(ref.Snap, ref.Revision)); err != nil || mounted {
		return err
	}
	path := m.cfg.Mounts.File(ref.Snap, ref.Revision)
	info, err := os.Stat(path)
	if err != nil {
		return fmt.Errorf("mount %s: %w", ref, err)
	}
	if info.Size() != known.Size {
		return fmt.Errorf("mount %s: its file %s is damaged: it has %d bytes, and had %d", ref, path, info.Size(), known.Size)
	}
	return nil
}

// storageTroubles are warnings about what is kept.
func (m *Manager) storageTroubles() ([]Warning, error) {
	var found []Warning
	recovery, err := m.cfg.Journal.LastRecovery()
	if err != nil {
		return nil, err
	}
	if recovery != nil && !recovery.Pending {
		found = append(found, Warning{Added: recovery.Found, Message: recoveryText(recovery)})
	}
	if since, err := m.cfg.Journal.NoBackup(); err != nil {
		found = append(found, Warning{Added: since, Message: Advised(err).Error()})
	}
	for ref, why := range m.broken.all() {
		state, err := m.snaps.Get(ref.Snap)
		if err != nil {
			return nil, err
		}
		if state == nil || !state.Line.Has(ref.Revision) {
			continue
		}
		text := fmt.Sprintf("revision %s of %q cannot be used: %v", ref.Revision, ref.Snap, Advised(why.err))
		if ref.Revision == state.Line.Current {
			text += fmt.Sprintf("; its services are not started. Go back with tenure revert %s, or forward with tenure refresh %s (for a file: tenure refresh --dangerous FILE); its data is as it was",
				ref.Snap, ref.Snap)
		}
		found = append(found, Warning{Added: why.since, Message: text})
	}
	return found, nil
}
