package refresh

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"

	"github.com/google/go-cmp/cmp"
)

// Nothing that services put where the daemon makes and removes links of their data keeps a snap from a refresh, an undo or its removal.
func TestServicesAreInNobodysWay(t *testing.T) {
	t.Parallel()
	used := usedUp(t)
	top := workplace(t)
	synctest.Test(t, func(t *testing.T) {
		m := newMortal(t, filepath.Join(top, "machine"), used)
		defer m.close()
		m.boot(-1)
		m.carryOut(install(oneService))
		block := func() {
			t.Helper()
			data := filepath.Join(m.root(), "var/snap/probe")
			err := errors.Join(os.RemoveAll(filepath.Join(data, "current")), os.MkdirAll(filepath.Join(data, "current/full"), 0o700))
			for _, dir := range []string{data, filepath.Join(m.root(), "root/snap/probe")} {
				err = errors.Join(err, os.MkdirAll(filepath.Join(dir, ".current.next/full"), 0o700))
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		for _, c := range []struct {
			apps string
			want *model
		}{
			{badService, plain(1, 1).with(clean)},
			{oneService, plain(2, 1, 2).with(clean)},
		} {
			block()
			if err := install(c.apps)(t.Context(), m); err != nil {
				t.Fatal(err)
			}
			m.settle()
			if diff := cmp.Diff(c.want.facts(), m.look().facts); diff != "" {
				t.Errorf("after a refresh (-want +got):\n%s", diff)
			}
		}
		block()
		if err := onProbe(ActionRemove)(t.Context(), m); err != nil {
			t.Fatal(err)
		}
		m.settle()
		if diff := cmp.Diff((*model)(nil).facts(), m.look().facts); diff != "" {
			t.Errorf("after the removal (-want +got):\n%s", diff)
		}
	})
}
