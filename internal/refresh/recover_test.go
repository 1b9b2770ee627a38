package refresh

import (
	"errors"
	"fmt"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"tenure"
	"tenure/internal/change"
	"tenure/internal/journal"
)

// damage has the next daemon of a machine find a journal that was restored from a backup, which knows all but what was last.
func (m *mortal) damage() {
	m.t.Helper()
	r := journal.Recovery{Found: time.Now(), Cause: "it is a test", Damaged: "state.db.damaged", Backup: "state.db.bak", Pending: true}
	if err := m.cfg.Journal.Update(func(tx *journal.Tx) error { return tx.PutRecovery(&r) }); err != nil {
		m.t.Fatal(err)
	}
}

// A snap that was removed, and of which a revision is still used, is none that is installed.
func TestRecoveryInstallsNothingThatWasRemoved(t *testing.T) {
	t.Parallel()
	used, top := usedUp(t), workplace(t)
	synctest.Test(t, func(t *testing.T) {
		m := newMortal(t, filepath.Join(top, "machine"), used)
		defer m.close()
		m.boot(-1)
		m.carryOut(install(lasting))
		state, err := m.snaps.Get(probe)
		if err != nil {
			t.Fatal(err)
		}
		// As after remove --leave.
		line := state.Line
		line.Sequence, line.Aside, line.Current, line.Active = nil, line.Sequence, tenure.Revision{}, false
		err = errors.Join(m.snaps.Put(probe, state.with(line)), m.link(t.Context(), linkParams{Snap: probe}))
		if err != nil {
			t.Fatal(err)
		}
		m.damage()
		m.cancel[0]()
		synctest.Wait()
		m.boot(-1)
		m.settle()
		after, err := m.snaps.Get(probe)
		if err != nil || after == nil || after.Line.Installed() {
			t.Fatalf("after the recovery it is %+v, %v", after, err)
		}
		if !reflect.DeepEqual(after.Line, line) || len(after.Kept) != 1 {
			t.Errorf("it has %+v and %d revisions, want %+v", after.Line, len(after.Kept), line)
		}
	})
}

// What was restored is told once, with all that was given up, and the numbers of changes go on behind the lost ones, wherever the
// daemon that restores it dies.
func TestRecoveryIsToldOnce(t *testing.T) {
	t.Parallel()
	used, top := usedUp(t), workplace(t)
	var g *grave
	machine := filepath.Join(top, "machine")
	last := change.ID(0)
	synctest.Test(t, func(t *testing.T) {
		m := newMortal(t, machine, used)
		m.boot(-1)
		m.carryOut(install(deferring), install(deferring))
		all := m.engine.List(change.Filter{Select: change.All})
		last = all[len(all)-1].ID
		m.damage()
		g = m.bury()
	})
	for at := range 12 {
		synctest.Test(t, func(t *testing.T) {
			m := newMortal(t, machine, g)
			defer m.close()
			if !m.boot(at) || !m.settle() {
				m.boot(-1)
				m.settle()
			}
			var told []string
			for _, c := range m.engine.List(change.Filter{Select: change.All}) {
				if c.Kind == kindRecover {
					told = append(told, fmt.Sprintf("%s: %s", c.ID, strings.Join(c.Tasks[0].Log, "\n")))
				}
			}
			if len(told) != 1 || !strings.HasPrefix(told[0], (last+lostChanges+1).String()+": ") || !strings.Contains(told[0], "was given up") {
				t.Errorf("killed at %d of its start, it is told: %q", at, told)
			}
		})
	}
}
