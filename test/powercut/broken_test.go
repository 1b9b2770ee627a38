package powercut_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"tenure/internal/journal"
	"tenure/test/powercut"
	"tenure/test/rig"
)

// TestJournalOnABrokenDisk has the disk refuse any of the operations by which the journal is written, and one to
// nine that follow. What is written is there, what is said not to be may be there or not, nothing else is, and
// the journal goes on.
func TestJournalOnABrokenDisk(t *testing.T) {
	if dir := os.Getenv(inside); dir != "" {
		writeOn(t, dir)
		return
	}
	t.Parallel()
	struck := 0
	for after := range 24 {
		d := powercut.New(powercut.Config{})
		d.Break(powercut.Trouble{After: after + 8, Times: 1 + after%3*4, Error: unix.ENOSPC})
		other := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestJournalOnABrokenDisk$") //nolint:gosec // This test.
		other.Env = append(os.Environ(), inside+"="+mounted(t, d))
		if out, err := other.CombinedOutput(); err != nil {
			t.Errorf("%d operations before the trouble: %v\n%s", after+8, err, out)
		}
		if d.Mend() > 0 {
			struck++
		}
	}
	if struck == 0 {
		t.Error("nothing was refused")
	}
}

// writeOn writes to a journal at dir, whatever becomes of it, and checks what is there each time.
func writeOn(t *testing.T, dir string) {
	t.Helper()
	cfg := journal.Config{Path: filepath.Join(dir, "db")}
	db := openStubborn(t, cfg)
	texts := journal.NewCollection[string](db, "texts")
	may := []string{""}
	check := func(when string) {
		t.Helper()
		text, _, err := texts.Get("text")
		if word, _, _ := strings.Cut(text, " "); err != nil || !slices.Contains(may, word) {
			t.Errorf("%s there is %.20q, and may be %q: %v", when, text, may, err)
		}
	}
	for n := range 20 {
		word := fmt.Sprint("text", n)
		// It is on pages of its own, which become free with the next one.
		if err := texts.Put("text", strings.Repeat(word+" ", 100+500*(n%7))); err != nil {
			may = append(may, word)
		} else {
			may = []string{word}
		}
		check("after " + word)
		// What was refused is in memory until somebody reads the file, as whoever copies it does.
		_, err := os.ReadFile(cfg.Path)
		must(t, err)
	}
	must(t, db.Close())
	db = openStubborn(t, cfg)
	texts = journal.NewCollection[string](db, "texts")
	check("opened again")
	must(t, db.Close())
}

// openStubborn opens a journal on a disk that may still refuse some of it.
func openStubborn(t *testing.T, cfg journal.Config) (db *journal.DB) {
	t.Helper()
	var err error
	for range 20 {
		if db, err = journal.Open(cfg); err == nil {
			return db
		}
	}
	t.Fatal(err)
	return nil
}

// breakAll has the disk refuse something in the middle of different acts that are drawn.
func (p *premiere) breakAll(t *testing.T, seed, troubles uint64) {
	t.Helper()
	random := rand.New(rand.NewPCG(seed, 2)) //nolint:gosec // No secret.
	var commands []int
	for n := range p.acts {
		if a := &p.acts[n]; a.command != nil && !a.staged {
			commands = append(commands, n)
		}
	}
	struck := 0
	for range troubles {
		n := commands[random.IntN(len(commands))]
		a := &p.acts[n]
		trouble := powercut.Trouble{
			After: random.IntN(a.done - a.begun), Times: 1 + 2*random.IntN(2),
			Error: []syscall.Errno{syscall.EIO, syscall.EROFS, syscall.ENOSPC}[random.IntN(3)],
		}
		t.Run(fmt.Sprintf("%s, %s", a.name, trouble), func(t *testing.T) {
			if p.endure(t, n, trouble) {
				struck++
			}
		})
	}
	t.Logf("%d of %d commands were refused something by the disk", struck, troubles)
}

// endure does act n on a disk in trouble: it is done, or it is said that it is not, and nothing of it is
// there; also for a daemon that knows only what is on the disk.
func (p *premiere) endure(t *testing.T, n int, trouble powercut.Trouble) (struck bool) {
	t.Helper()
	a := &p.acts[n]
	d := p.log.Cut(powercut.Cut{Before: a.begun, Landed: powercut.All})
	p.boot(t, d, func(ctx context.Context, i *rig.Instance, _ map[string]string) error {
		s := &stage{Instance: i, t: t, disk: d, files: p.files}
		d.Break(trouble)
		result := i.Try(s.words(a)...)
		struck = d.Mend() > 0
		select {
		case <-i.Ended():
			return fmt.Errorf("the daemon has ended: %s", i.Said()) //nolint:err113 // For a test.
		default:
		}
		first, last := n, n+1
		switch {
		case result.Status == 0:
			first = last
		case !struck:
			return fmt.Errorf("without any trouble: %+v", result) //nolint:err113 // For a test.
		}
		_, err := settled(ctx, i)
		if err == nil {
			// What the disk refuses to remove of what is half-done goes with the next of its kind, or at the next start.
			err = p.becomes(ctx, i, d, first, last, "at var/lib/tenure/staging/upload-", "at var/lib/tenure/snapshots/.new-")
		}
		if err != nil {
			return fmt.Errorf("%+v: %w", result, err)
		}
		i.Kill()
		i.Start()
		if _, err = settled(ctx, i); err == nil {
			err = p.becomes(ctx, i, d, first, last)
		}
		if err != nil {
			return errors.Join(fmt.Errorf("after a restart of the daemon, %+v", result), err) //nolint:err113 // For a test.
		}
		return nil
	})
	return struck
}
