package daemon

import (
	"context"
	"errors"
	"os"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"tenure/client"
)

// successor is a daemon that begins in the place of another one.
func successor(t *testing.T, handed Handed, signs *[]string) *parts {
	t.Helper()
	p := parted(Config{Root: t.TempDir(), Handed: handed, Manager: Manager{
		Watchdog: time.Minute,
		Notify: func(_ context.Context, state string) error {
			*signs = append(*signs, state)
			return nil
		},
	}})
	err := errors.Join(os.MkdirAll(p.paths.Run(), 0o755), os.MkdirAll(p.paths.State(), 0o755))
	if err == nil {
		err = writeUpgrade(p.paths, client.Upgrade{From: "old", To: Version, Status: client.UpgradeDoing})
	}
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// TestSignsOfLifeOfASuccessor: who manages the process hears of it from its beginning on, also when it may take longer
// to get ready than is waited for a sign.
func TestSignsOfLifeOfASuccessor(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var signs []string
		s := successor(t, Handed{is: true}, &signs).succeed(t.Context())
		time.Sleep(80 * time.Second) //nolint:forbidigo // In the bubble this is the clock.
		synctest.Wait()
		if diff := cmp.Diff([]string{"WATCHDOG=1", "WATCHDOG=1", "WATCHDOG=1"}, signs); diff != "" {
			t.Errorf("signs in 80 s (-want +got):\n%s", diff)
		}
		s.ready()
		synctest.Wait()
		before := len(signs)
		time.Sleep(5 * time.Minute) //nolint:forbidigo // In the bubble this is the clock.
		if len(signs) != before {
			t.Errorf("%d signs when it is ready are not its own", len(signs)-before)
		}
	})
}

// TestNoWayBack: one that is late, and has written what the program before cannot read, goes on and takes over.
func TestNoWayBack(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		file, err := os.Open(os.DevNull)
		if err != nil {
			t.Fatal(err)
		}
		handed := Handed{is: true, previous: &program{file: file}, estate: estate{Patience: time.Second, Schema: 1 << 40}}
		var signs []string
		p := successor(t, handed, &signs)
		s := p.succeed(t.Context())
		time.Sleep(2 * time.Second) //nolint:forbidigo // In the bubble this is the clock.
		synctest.Wait()
		s.ready()
		record, err := readUpgrade(p.paths)
		if err != nil || record.Status != client.UpgradeDone {
			t.Errorf("the upgrade is %+v, %v", record, err)
		}
		if err := file.Close(); !errors.Is(err, os.ErrClosed) {
			t.Errorf("the program before is still open: %v", err)
		}
	})
}

// TestRestarted: a new program that had to begin twice has taken over all the same.
func TestRestarted(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		from, to string
		want     string
	}{
		{"old", Version, client.UpgradeDone},
		{Version, "new", client.UpgradeError},
	} {
		var signs []string
		p := successor(t, Handed{}, &signs)
		if err := writeUpgrade(p.paths, client.Upgrade{From: c.from, To: c.to, Status: client.UpgradeDoing}); err != nil {
			t.Fatal(err)
		}
		p.succeed(t.Context()).ready()
		if record, err := readUpgrade(p.paths); err != nil || record.Status != c.want {
			t.Errorf("from %s to %s: %+v, %v, want %s", c.from, c.to, record, err, c.want)
		}
	}
}
