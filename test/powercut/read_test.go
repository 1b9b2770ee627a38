package powercut_test

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash/maphash"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"testing"

	"tenure/internal/journal"
	"tenure/test/powercut"
)

// readAll reads what states say, without a daemon: before and after waits for the disk,
// every way in which a model knows that things may land. Some of them, drawn, or all.
func (p *premiere) readAll(t *testing.T, seed, reads uint64) {
	t.Helper()
	var all []powercut.Cut
	for _, sync := range p.log.Syncs() {
		for _, before := range []int{sync, sync + 1} {
			for model := powercut.Ordered; model <= powercut.Posix; model++ {
				for landed := powercut.Nothing; landed <= powercut.Any; landed++ {
					all = append(all, powercut.Cut{Before: before, Model: model, Landed: landed, Seed: seed})
				}
			}
		}
	}
	random := rand.New(rand.NewPCG(seed, 1)) //nolint:gosec // No secret.
	random.Shuffle(len(all), func(a, b int) { all[a], all[b] = all[b], all[a] })
	seen := map[uint64]bool{}
	digests := maphash.MakeSeed()
	dir, err := os.MkdirTemp("/dev/shm", "powercut-") //nolint:usetesting // A disk would be waited for.
	must(t, err)
	defer os.RemoveAll(dir)                             //nolint:errcheck // In memory.
	for _, c := range all[:min(len(all), int(reads))] { //nolint:gosec // A few thousand.
		d := p.log.Cut(c)
		digest := d.Digest(digests)
		if seen[digest] {
			continue
		}
		seen[digest] = true
		if err := p.read(t.Context(), d, c, dir); err != nil {
			t.Errorf("%s, %s: %v", c, p.during(c.Before), err)
		}
	}
	t.Logf("read %d states of %d cuts", len(seen), len(all))
}

// kept is what the journal says of a snap that anybody can hold against the disk.
type kept struct {
	Kept map[string]struct {
		Digest string `json:"digest"`
	} `json:"kept"`
}

// read holds the journal of a state against what was done, and the files against the journal.
func (p *premiere) read(ctx context.Context, d *powercut.Disk, c powercut.Cut, dir string) error {
	first, _ := p.allowed(c.Before)
	path := filepath.Join(dir, "state.db")
	// Nothing of what was read before is a backup of this one.
	if err := errors.Join(os.RemoveAll(dir), os.Mkdir(dir, 0o700)); err != nil {
		return err
	}
	for _, name := range []string{"state.db", "state.db.bak", "state.db.bak.1"} {
		var err error
		if text, found := d.File("var/lib/tenure/" + name); found {
			err = errors.Join(err, os.WriteFile(filepath.Join(dir, name), text, 0o600))
		}
		if err != nil {
			return err
		}
	}
	db, err := journal.Open(journal.Config{Path: path})
	if err != nil {
		return err
	}
	return errors.Join(p.readChanges(ctx, db, first), readSnaps(db, d), db.Close())
}

func (p *premiere) readChanges(ctx context.Context, db *journal.DB, first int) error {
	saved, err := db.Changes().Load(ctx)
	if err != nil {
		return err
	}
	found := map[string]string{}
	for i := range saved.Changes {
		found[saved.Changes[i].ID.String()] = saved.Changes[i].Kind + " " + string(saved.Changes[i].Status)
	}
	for id, how := range p.ended[first] {
		if found[id] != how {
			err = errors.Join(err, fmt.Errorf("change %s was %s, and is %q", id, how, found[id])) //nolint:err113 // For a test.
		}
	}
	return err
}

func readSnaps(db *journal.DB, d *powercut.Disk) error {
	snaps, err := journal.NewCollection[kept](db, journal.Snaps).All()
	for name, snap := range snaps {
		for revision, k := range snap.Kept {
			text, found := d.File("var/lib/tenure/snaps/" + name + "_" + revision + ".snap")
			if sum := sha256.Sum256(text); hex.EncodeToString(sum[:]) != k.Digest {
				err = errors.Join(err, fmt.Errorf("the file of %s %s is damaged, there: %s", name, revision, strconv.FormatBool(found))) //nolint:err113 // For a test.
			}
		}
	}
	return err
}
