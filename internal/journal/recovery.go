package journal

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"tenure/internal/durable"
)

// Recovery is that a journal could not be read, or was not there, and what was done about it. It is in the
// journal that took its place, so that whoever knows what to look for on the machine does so also
// after a crash.
type Recovery struct {
	// Found is when that was; Cause is what was wrong.
	Found time.Time `json:"found"`
	Cause string    `json:"cause,omitempty"`
	// New is that there was no file, and no backup of one: so every journal begins.
	New bool `json:"new,omitempty"`
	// Damaged is where the file is kept that could not be read, if there was one, and Written when
	// that was last written.
	Damaged string    `json:"damaged,omitempty"`
	Written time.Time `json:"written,omitzero"`
	// Backup is the copy that was taken, if there was a good one, and AsOf up to when it has everything.
	Backup string    `json:"backup,omitempty"`
	AsOf   time.Time `json:"as-of,omitzero"`
	// Pending is that nobody has compared it with the machine yet. Notes are what was found then.
	Pending bool     `json:"pending,omitempty"`
	Notes   []string `json:"notes,omitempty"`
}

// Whole reports whether the backup has all that was ever written.
func (r *Recovery) Whole() bool {
	return r.Backup != "" && !r.Written.IsZero() && r.Written.Equal(r.AsOf)
}

// recoveries is the name of the collection, and lastRecovery the key of the only one that is kept.
const (
	recoveries   = "recoveries"
	lastRecovery = "last"
)

// LastRecovery is what is to be known of the last one: nil when it is settled.
func (db *DB) LastRecovery() (*Recovery, error) {
	r, found, err := NewCollection[Recovery](db, recoveries).Get(lastRecovery)
	if err != nil || !found {
		return nil, err
	}
	return &r, nil
}

// PutRecovery keeps r; nil settles it.
func (tx *Tx) PutRecovery(r *Recovery) error {
	docs := Documents[Recovery]{tx: tx, name: recoveries}
	if r == nil {
		return docs.Delete(lastRecovery)
	}
	return docs.Put(lastRecovery, *r)
}

// replace puts the newest good backup, or an empty journal, in the place of a file that is damaged. Nothing
// is deleted, and what is at the path is the one or the other at every time.
func replace(cfg Config, steps []migration, broken *DamagedError) (err error) {
	r := Recovery{Found: time.Now().UTC(), Cause: broken.Cause.Error(), Pending: true}
	dir := filepath.Dir(cfg.Path)
	place, err := os.MkdirTemp(dir, unfinishedReplacement)
	if err != nil {
		return fmt.Errorf("replace the journal: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(place)) }()
	fresh := cfg
	fresh.Path = filepath.Join(place, filepath.Base(cfg.Path))
	useless, err := restore(fresh, steps, cfg.Path, &r)
	if err != nil {
		return fmt.Errorf("replace the journal: %w", err)
	}
	if err := setAside(cfg.Path, &r); err != nil {
		return fmt.Errorf("keep the damaged journal: %w", err)
	}
	if err := finish(fresh, steps, &r); err != nil {
		return fmt.Errorf("replace the journal: %w", err)
	}
	if err := os.Rename(fresh.Path, cfg.Path); err != nil {
		return fmt.Errorf("replace the journal: %w", err)
	}
	// The next backup would take the place of one that is of no use to this program, and perhaps to another.
	for _, backup := range useless {
		if err := os.Rename(backup, asideOf(backup, &r)); err != nil {
			return fmt.Errorf("keep a backup of the journal: %w", err)
		}
	}
	cfg.Logger.Error("the journal was damaged and is replaced", slog.String("cause", r.Cause),
		slog.String("kept", cmp.Or(r.Damaged, "nothing")), slog.String("backup", cmp.Or(r.Backup, "none")), slog.Time("as_of", r.AsOf))
	return durable.Sync(dir)
}

// restore copies the newest backup of a journal that can be read to a new place. It returns those that are newer, and cannot.
func restore(fresh Config, steps []migration, path string, r *Recovery) (useless []string, err error) {
	var newer error
	for _, backup := range backupsOf(path) {
		info, err := os.Stat(backup)
		if err != nil {
			return nil, err
		}
		if err := copyFile(backup, fresh.Path); err != nil {
			return nil, err
		}
		db, err := openGood(fresh, steps)
		if _, bad := errors.AsType[*DamagedError](err); bad {
			fresh.Logger.Error("a backup of the journal is damaged", slog.String("backup", backup), slog.Any("error", err))
			useless = append(useless, backup)
			continue
		}
		if errors.Is(err, ErrNewer) {
			newer, useless = cmp.Or(newer, err), append(useless, backup)
			continue
		}
		if err != nil {
			return nil, err
		}
		r.Backup, r.AsOf = backup, info.ModTime().UTC()
		return useless, db.shut()
	}
	if newer != nil {
		return nil, newer // There is a program that can go on.
	}
	if err := os.Remove(fresh.Path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	return useless, nil
}

// asideOf is what a file is called that cannot be used, and is kept.
func asideOf(path string, r *Recovery) string {
	return path + ".damaged-" + r.Found.Format("20060102T150405.000Z")
}

// setAside keeps a damaged file under another name, too.
func setAside(path string, r *Recovery) error {
	info, err := os.Stat(path)
	if errors.Is(err, os.ErrNotExist) || err == nil && info.Size() == 0 {
		return nil
	}
	if err != nil {
		return err
	}
	r.Damaged, r.Written = asideOf(path, r), info.ModTime().UTC()
	return os.Link(path, r.Damaged)
}

// finish writes r into the journal that takes the place of the damaged one.
func finish(fresh Config, steps []migration, r *Recovery) error {
	db, err := openGood(fresh, steps)
	if err != nil {
		return err
	}
	err = db.update(func(tx *Tx) error { return tx.PutRecovery(r) })
	return errors.Join(err, db.shut())
}

func copyFile(from, to string) error {
	src, err := os.Open(from)
	if err != nil {
		return err
	}
	defer src.Close() //nolint:errcheck // Opened for reading.
	dst, err := os.OpenFile(to, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, fileMode)
	if err != nil {
		return err
	}
	_, err = io.Copy(dst, src)
	return errors.Join(err, dst.Sync(), dst.Close())
}
