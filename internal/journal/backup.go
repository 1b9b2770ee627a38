package journal

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"

	bolt "go.etcd.io/bbolt"

	"tenure/internal/durable"
)

// backups is what is known of the backups of a journal.
type backups struct {
	// news has an element when something was written that no backup has.
	news chan struct{}

	mu *sync.Mutex
	// written is that as well; failed is why the last attempt to make a backup failed, and since when they do.
	written bool
	failed  error
	since   time.Time
	// gap is closed when no change is in its gap any more; nil is that none is.
	gap chan struct{}
}

func newBackups() backups { return backups{news: make(chan struct{}, 1), mu: new(sync.Mutex)} }

// wrote is told of each write.
func (b *backups) wrote() {
	b.mu.Lock()
	b.written = true
	b.mu.Unlock()
	select {
	case b.news <- struct{}{}:
	default:
	}
}

// due reports whether a backup is to be made now.
func (b *backups) due() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.written && b.gap == nil
}

// begin is that a backup begins: what is written from now on it may not have.
func (b *backups) begin() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.written = false
}

// end is what became of it.
func (b *backups) end(err error) (news bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	news = (err == nil) != (b.failed == nil)
	if err != nil && b.failed == nil {
		b.since = time.Now()
	}
	if b.failed = err; err != nil {
		b.written = true
	}
	return news
}

// Gap hears when the first change enters its gap, and when the last has left it: no
// backup is made meanwhile, for services wait.
func (db *DB) Gap(begins bool) {
	db.backups.mu.Lock()
	defer db.backups.mu.Unlock()
	if gap := db.backups.gap; !begins && gap != nil {
		close(gap)
		db.backups.gap = nil
	} else if begins && gap == nil {
		db.backups.gap = make(chan struct{})
	}
}

// NoBackup is why no backup could be made of what was written, and since when that is; nil if that is not so.
func (db *DB) NoBackup() (since time.Time, err error) {
	db.backups.mu.Lock()
	defer db.backups.mu.Unlock()
	return db.backups.since, db.backups.failed
}

// Run keeps the room that the journal needs on a full disk, and backs up what is written, soon after, until ctx ends. What could
// not be backed up is tried again, also if nothing more is written.
func (db *DB) Run(ctx context.Context) error {
	db.refill()
	var again <-chan time.Time
	wait := db.cfg.BackupDelay
	if db.backups.due() {
		again = time.After(wait)
	}
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-db.backups.news:
		case <-again:
		}
		if !db.pause(ctx) {
			return nil
		}
		db.refill()
		again, wait = nil, max(db.cfg.BackupDelay, min(2*wait, longestWait))
		if db.tryBackup() {
			wait = db.cfg.BackupDelay
		} else {
			again = time.After(wait)
		}
	}
}

// longestWait is how long it takes at most until a backup that failed is tried again.
const longestWait = time.Minute

// pause waits until a write is to be backed up.
func (db *DB) pause(ctx context.Context) bool {
	select {
	case <-ctx.Done():
		return false
	case <-time.After(db.cfg.BackupDelay):
	}
	db.backups.mu.Lock()
	gap := db.backups.gap
	db.backups.mu.Unlock()
	if gap == nil {
		return true
	}
	select {
	case <-ctx.Done():
		return false
	case <-gap:
		return true
	}
}

// tryBackup is backUp for those who go on without one.
func (db *DB) tryBackup() (made bool) {
	if db.cfg.BackupDelay < 0 {
		return true
	}
	err := db.backUp()
	switch news := db.backups.end(err); {
	case news && err != nil:
		db.cfg.Logger.Warn("the journal has no backup of what was written last", slog.Any("error", err))
	case news:
		db.cfg.Logger.Info("the journal has a backup again")
	}
	return err == nil
}

// The backups of a journal are state.db.bak, made after it was last written, and state.db.bak.1, which is
// older by up to two days: for damage that shows late. What was there of schema 3 when it was migrated is in
// state.db.bak.schema3, for those who go back to a program that knows no other.
const (
	backupSuffix    = ".bak"
	oldBackupSuffix = ".bak.1"
	schemaSuffix    = ".bak.schema"
	oldBackupAge    = 24 * time.Hour
)

// What is not complete is called so: a backup, and the directory of a journal that is to take the place of a damaged one.
const (
	unfinishedBackup      = ".state.db.bak-*"
	linkedBackup          = ".state.db.bak-linked"
	unfinishedReplacement = ".state.db.new-*"
)

// sweep removes what a process has left that died while it made one. Only who has just opened the journal of
// the directory, and makes none yet, knows that nobody else does.
func sweep(dir string) error {
	var errs []error
	for _, pattern := range []string{unfinishedBackup, unfinishedReplacement} {
		left, err := durable.Left(dir, pattern)
		errs = append(errs, err)
		for _, name := range left {
			errs = append(errs, os.RemoveAll(name))
		}
	}
	return errors.Join(errs...)
}

// backupsOf are the backups that there are, the newest first.
func backupsOf(path string) []string {
	var found []string
	for _, suffix := range []string{backupSuffix, oldBackupSuffix} {
		if info, err := os.Stat(path + suffix); err == nil && info.Size() > 0 {
			found = append(found, path+suffix)
		}
	}
	return found
}

// lastWrite is when the file was last written: all of it up to then is there to be read.
func (db *DB) lastWrite() (time.Time, error) {
	writer, err := db.bolt.Load().Begin(true)
	if err != nil {
		return time.Time{}, err
	}
	defer writer.Rollback() //nolint:errcheck // Nothing was written.
	info, err := os.Stat(db.cfg.Path)
	if err != nil {
		return time.Time{}, err
	}
	return info.ModTime(), nil
}

// backUp replaces the newest backup, durably. It is a journal itself, without the free pages of this one,
// and has the time up to which it has everything.
func (db *DB) backUp() error {
	path := db.cfg.Path + backupSuffix
	db.backups.begin()
	asOf, err := db.lastWrite()
	if err != nil {
		return fmt.Errorf("back up journal: %w", err)
	}
	err = replaceBackup(path, func(tmp *os.File) error {
		return errors.Join(db.copyTo(tmp.Name()), os.Chtimes(tmp.Name(), asOf, asOf))
	}, func() error { return keepOld(path, db.cfg.Path+oldBackupSuffix) })
	if err != nil {
		return fmt.Errorf("back up journal: %w", err)
	}
	return nil
}

// replaceBackup puts what fill writes in the place of the file at path, durably. ready, if set, is called when that is
// on the disk, before it takes the place.
func replaceBackup(path string, fill func(*os.File) error, ready func() error) (err error) {
	tmp, err := os.CreateTemp(filepath.Dir(path), unfinishedBackup) // Its mode is 0600.
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.Remove(tmp.Name()))
		}
	}()
	if err := fill(tmp); err != nil {
		return errors.Join(err, tmp.Close())
	}
	if err := errors.Join(tmp.Sync(), tmp.Close()); err != nil {
		return err
	}
	if ready != nil {
		if err := ready(); err != nil {
			return err
		}
	}
	if err := os.Rename(tmp.Name(), path); err != nil {
		return err
	}
	return durable.Sync(filepath.Dir(path))
}

// maxCopied bounds what is in memory of a copy, in bytes.
const maxCopied = 1 << 20

// copyTo copies what is in the journal, if all of it can be read.
func (db *DB) copyTo(path string) error {
	return guard(func() error {
		if err := db.view(check); err != nil && !errors.Is(err, errOvertaken) {
			return err
		}
		dst, err := bolt.Open(path, fileMode, &bolt.Options{NoSync: true, NoGrowSync: true})
		if err != nil {
			return err
		}
		err = bolt.Compact(dst, db.bolt.Load(), maxCopied)
		if err == nil {
			// Its transactions are others.
			err = dst.Update(func(tx *bolt.Tx) error { return (&Tx{bolt: tx}).end() })
		}
		return errors.Join(err, dst.Close())
	})
}

// keepOld makes the backup that is about to be replaced the old one, unless that is young enough.
func keepOld(path, old string) error {
	newest, err := os.Stat(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if kept, err := os.Stat(old); err == nil {
		age := newest.ModTime().Sub(kept.ModTime())
		if age >= 0 && age < oldBackupAge || !whole(path) {
			return nil
		}
	}
	return link(path, old)
}

// link gives a file another name, which may be that of another file: it has that name at every time. Until either is replaced both are the same file.
func link(path, name string) error {
	begun := filepath.Join(filepath.Dir(name), linkedBackup)
	if err := os.Remove(begun); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	if err := os.Link(path, begun); err != nil {
		return err
	}
	err := os.Rename(begun, name)
	// It does nothing where both are one file already.
	if left := os.Remove(begun); left != nil && !errors.Is(left, os.ErrNotExist) {
		err = errors.Join(err, left)
	}
	return err
}

// whole reports whether a backup can be read, by this program.
func whole(path string) bool {
	err := guard(func() error {
		b, err := bolt.Open(path, fileMode, &bolt.Options{ReadOnly: true, Timeout: time.Second})
		if err != nil {
			return err
		}
		return errors.Join(b.View(func(tx *bolt.Tx) error {
			if version, err := readVersion(tx); err != nil || version > Schema() {
				return cmp.Or(err, ErrNewer)
			}
			return check(tx)
		}), b.Close())
	})
	return err == nil
}

// keepSchema backs the journal up before it is migrated from a version, and keeps that when the next backup is made.
func (db *DB) keepSchema(version uint64) error {
	if err := db.backUp(); err != nil {
		return err
	}
	kept := fmt.Sprint(db.cfg.Path, schemaSuffix, version)
	if err := link(db.cfg.Path+backupSuffix, kept); err != nil {
		return fmt.Errorf("back up journal: %w", err)
	}
	return durable.Sync(filepath.Dir(kept))
}

// behind reports whether the file was written after it was last backed up, by whatever clock.
func (db *DB) behind() bool {
	file, err := os.Stat(db.cfg.Path)
	if err != nil {
		return true
	}
	backup, err := os.Stat(db.cfg.Path + backupSuffix)
	return err != nil || !backup.ModTime().Equal(file.ModTime())
}
