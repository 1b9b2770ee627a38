package journal

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	bolt "go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"

	"tenure/internal/durable"
)

// Config is what a DB is made of.
type Config struct {
	// Path is the file, in a directory that exists. Required.
	Path string
	// LockTimeout is how long Open waits for another process to close the file,
	// by default one second.
	LockTimeout time.Duration
	// Logger hears about migrations; by default nobody does.
	Logger *slog.Logger
	// Trial is that it is only to be seen whether the journal can be worked on: a copy that was made by Keep stays.
	Trial bool
	// Gate, if set, is held while the first write begins, with which the copy that Keep has made goes: who has it
	// knows that there is none yet, or has been one.
	Gate sync.Locker
	// Boundary, if set, is called before and after everything that is made durable: a test may
	// want the process to die there. No transaction is open then.
	Boundary func()
}

const (
	defaultLockTimeout = time.Second
	fileMode           = 0o600
)

// ErrInUse is the kind of the error of Open when another process has the file.
var ErrInUse = errors.New("another tenured is running on this root")

// ErrNewer is the kind of the error of Open when a newer version of the program
// has written the file.
var ErrNewer = errors.New("written by a newer version of Tenure")

// DamagedError says that the file cannot be read. The file is as it was found.
type DamagedError struct {
	Path string
	// Backup is the last copy that could be read, or empty if there is none.
	Backup string
	Cause  error
}

// Error says what to do about it.
func (e *DamagedError) Error() string {
	what := fmt.Sprintf("journal %s is damaged: %v; ", e.Path, e.Cause)
	if e.Backup == "" {
		return what + "there is no backup: keep the file for examination, and move it away to start without any snap"
	}
	return what + fmt.Sprintf("keep a copy of it, and restore the last good one: cp %s %s", e.Backup, e.Path)
}

// Unwrap is why it cannot be read.
func (e *DamagedError) Unwrap() error { return e.Cause }

// DB is an open journal.
type DB struct {
	bolt *bolt.DB
	// begin is called before anything is written.
	begin    func() error
	boundary func()
}

// The top-level buckets.
const (
	bucketMeta      = "meta"
	bucketChanges   = "changes"
	bucketDocuments = "documents"
	bucketEvents    = "events"
	keyVersion      = "version"
)

// Open opens the journal, or makes a new one if there is neither a file nor a
// backup of one. Its errors are ErrInUse, ErrNewer, a *DamagedError, or those
// of the operating system.
func Open(cfg Config) (*DB, error) {
	return open(cfg, migrations())
}

func open(cfg Config, steps []migration) (*DB, error) {
	cfg.LockTimeout = cmp.Or(cfg.LockTimeout, defaultLockTimeout)
	cfg.Logger = cmp.Or(cfg.Logger, slog.New(slog.DiscardHandler))
	existed, err := examine(cfg.Path)
	if err != nil {
		return nil, err
	}
	b, err := openBolt(cfg)
	if err != nil {
		return nil, err
	}
	db := &DB{bolt: b, begin: func() error { return nil }, boundary: func() {}}
	if !cfg.Trial {
		db.begin = sync.OnceValue(cfg.discard)
	}
	if err := db.prepare(cfg, existed, steps); err != nil {
		return nil, errors.Join(err, b.Close())
	}
	if cfg.Boundary != nil {
		db.boundary = cfg.Boundary
	}
	return db, nil
}

// prepare brings a file that could be read to the present version.
func (db *DB) prepare(cfg Config, existed bool, steps []migration) error {
	if existed {
		if err := db.checkVersion(len(steps)); err != nil {
			return fmt.Errorf("open journal %s: %w", cfg.Path, err)
		}
		if err := db.backupTo(backupPath(cfg.Path)); err != nil {
			return fmt.Errorf("open journal %s: %w", cfg.Path, err)
		}
	}
	if err := db.migrate(cfg.Logger, steps); err != nil {
		return fmt.Errorf("open journal %s: %w", cfg.Path, err)
	}
	if existed {
		return nil
	}
	return syncDir(filepath.Dir(cfg.Path))
}

// Close waits for transactions to end, and closes the file.
func (db *DB) Close() error {
	if err := db.bolt.Close(); err != nil {
		return fmt.Errorf("close journal: %w", err)
	}
	return nil
}

// Backup writes a copy of the journal as it is now, while it is in use. The
// copy is a journal itself.
func (db *DB) Backup(w io.Writer) error {
	err := db.bolt.View(func(tx *bolt.Tx) error {
		_, err := tx.WriteTo(w)
		return err
	})
	if err != nil {
		return fmt.Errorf("back up journal: %w", err)
	}
	return nil
}

// unfinished is what a backup is called that is not complete.
const unfinished = ".state.db.bak-*"

// sweepBackups removes what a process has left that died while it made one.
func sweepBackups(dir string) error {
	left, err := durable.Left(dir, unfinished)
	for _, file := range left {
		err = errors.Join(err, os.Remove(file))
	}
	if err != nil {
		return fmt.Errorf("sweep backups of the journal: %w", err)
	}
	return nil
}

// backupTo replaces the file at path by a backup, durably.
func (db *DB) backupTo(path string) (err error) {
	if err := sweepBackups(filepath.Dir(path)); err != nil {
		return err
	}
	f, err := os.CreateTemp(filepath.Dir(path), unfinished) // Its mode is 0600.
	if err != nil {
		return fmt.Errorf("back up journal: %w", err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.Remove(f.Name()))
		}
	}()
	if err := errors.Join(db.Backup(f), f.Sync(), f.Close()); err != nil {
		return err
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return fmt.Errorf("back up journal: %w", err)
	}
	return syncDir(filepath.Dir(path))
}

func backupPath(path string) string { return path + ".bak" }

// examine reports whether there is a journal at path. One that is gone or
// empty, and has a backup, was lost: to begin anew would forget every snap.
func examine(path string) (existed bool, err error) {
	info, err := os.Stat(path)
	switch {
	case err == nil && info.Size() > 0:
		return true, nil
	case err != nil && !errors.Is(err, fs.ErrNotExist):
		return false, fmt.Errorf("open journal: %w", err)
	}
	if _, statErr := os.Stat(backupPath(path)); statErr == nil {
		return false, damaged(path, errors.New("it is missing or empty, and has a backup"))
	}
	return false, nil
}

func damaged(path string, cause error) error {
	e := &DamagedError{Path: path, Cause: cause}
	if _, err := os.Stat(backupPath(path)); err == nil {
		e.Backup = backupPath(path)
	}
	return e
}

// openBolt opens and reads the whole file. What is damaged shows as an error,
// a panic of bbolt, or a fault in the memory map; all become a *DamagedError.
//
// The list of free pages stays on disk, unlike in etcd: to find it again bbolt
// walks the file in goroutines of its own, where a panic cannot be caught.
func openBolt(cfg Config) (b *bolt.DB, err error) {
	var file *os.File
	defer func() {
		if err == nil {
			return
		}
		if b != nil {
			_ = guard(b.Close) // What is damaged has been said.
		}
		if file != nil {
			release(file)
		}
		b = nil
	}()
	options := &bolt.Options{
		Timeout:      cfg.LockTimeout,
		FreelistType: bolt.FreelistMapType,
		OpenFile: func(name string, flag int, mode os.FileMode) (*os.File, error) {
			var err error
			file, err = os.OpenFile(name, flag, mode)
			return file, err
		},
	}
	fault := guard(func() error {
		b, err = bolt.Open(cfg.Path, fileMode, options)
		if err != nil {
			return err
		}
		return b.View(walk)
	})
	var pathErr *fs.PathError
	switch {
	case fault == nil:
		return b, nil
	case errors.Is(fault, bolterrors.ErrTimeout):
		return b, fmt.Errorf("open journal %s: %w", cfg.Path, ErrInUse)
	case errors.As(fault, &pathErr):
		return b, fmt.Errorf("open journal: %w", fault)
	}
	return b, damaged(cfg.Path, fault)
}

// release frees the lock of a file that bbolt may have given up on, and whose
// memory map, which is lost then, would keep it. Mostly it is closed already.
func release(file *os.File) {
	if conn, err := file.SyscallConn(); err == nil {
		_ = conn.Control(func(fd uintptr) {
			_ = syscall.Flock(int(fd), syscall.LOCK_UN) //nolint:gosec // A descriptor fits.
		})
	}
	_ = file.Close()
}

func (db *DB) checkVersion(newest int) error {
	return db.bolt.View(func(tx *bolt.Tx) error {
		version, err := readVersion(tx)
		if err == nil && version > uint64(newest) { //nolint:gosec // A count of migrations.
			err = fmt.Errorf("%w: schema %d, this version knows up to %d; nothing was changed", ErrNewer, version, newest)
		}
		return err
	})
}

func number(n uint64) []byte { return binary.BigEndian.AppendUint64(nil, n) }

func syncDir(path string) error {
	dir, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("sync directory: %w", err)
	}
	if err := errors.Join(dir.Sync(), dir.Close()); err != nil {
		return fmt.Errorf("sync directory: %w", err)
	}
	return nil
}
