package journal

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
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
	// BackupDelay is how long after a write it is in a backup, by default one second, if
	// nothing keeps that (see Gap). NoBackups is that there are none, for a journal that will not be opened again.
	BackupDelay time.Duration
	// Logger hears about migrations, and about what was damaged; by default nobody does.
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

// NoBackups is the BackupDelay of a journal of which nobody needs a backup.
const NoBackups time.Duration = -1

const (
	defaultLockTimeout = time.Second
	defaultBackupDelay = time.Second
	fileMode           = 0o600
)

// ErrInUse is the kind of the error of Open when another process has the file.
var ErrInUse = errors.New("another tenured is running on this root")

// ErrNewer is the kind of the error of Open when a newer version of the program
// has written the file.
var ErrNewer = errors.New("written by a newer version of Tenure")

// DamagedError says that the file cannot be read, or is gone where there is a backup of it.
type DamagedError struct {
	Path  string
	Cause error
}

// Error says which file, and why.
func (e *DamagedError) Error() string {
	return fmt.Sprintf("journal %s is damaged: %v", e.Path, e.Cause)
}

// Unwrap is why it cannot be read.
func (e *DamagedError) Unwrap() error { return e.Cause }

// DB is an open journal.
type DB struct {
	// bolt is the open file.
	bolt atomic.Pointer[bolt.DB]
	cfg  Config
	// writing is held by the one who writes, and opening by who opens the file anew, or closes it for good.
	writing, opening sync.Mutex
	closed           bool
	// backups is what is known of them.
	backups backups
	// beginning is held by the one who sees to what is to be done before the first write; begun is that it is.
	beginning sync.Mutex
	begun     bool
	boundary  func()
}

// The top-level buckets.
const (
	bucketMeta      = "meta"
	bucketSealed    = "sealed"
	bucketChanges   = "changes"
	bucketParts     = "parts"
	bucketDocuments = "documents"
	bucketEvents    = "events"
	bucketReserve   = "reserve"
	keyVersion      = "version"
)

// Open opens the journal, or makes a new one if there is neither a file nor a
// backup of one. A file that is damaged, or gone, is replaced by its newest good backup, or, if there is
// none, by an empty journal; it is kept beside it, and the Recovery in the journal says so.
// The errors of Open are ErrInUse, ErrNewer, a *DamagedError for what could not be replaced, or those
// of the operating system.
func Open(cfg Config) (*DB, error) {
	return open(cfg, migrations())
}

func open(cfg Config, steps []migration) (*DB, error) {
	cfg.LockTimeout = cmp.Or(cfg.LockTimeout, defaultLockTimeout)
	cfg.BackupDelay = cmp.Or(cfg.BackupDelay, defaultBackupDelay)
	cfg.Logger = cmp.Or(cfg.Logger, slog.New(slog.DiscardHandler))
	db, err := openGood(cfg, steps)
	broken, damaged := errors.AsType[*DamagedError](err)
	if !damaged {
		return db, err
	}
	if err := replace(cfg, steps, broken); err != nil {
		return nil, errors.Join(broken, err)
	}
	return openGood(cfg, steps)
}

// openGood opens a file that can be read.
func openGood(cfg Config, steps []migration) (*DB, error) {
	if err := examine(cfg.Path); err != nil {
		return nil, err
	}
	b, err := openBolt(cfg)
	if err != nil {
		return nil, err
	}
	db := &DB{cfg: cfg, backups: newBackups(), begun: cfg.Trial, boundary: func() {}}
	db.bolt.Store(b)
	if err := sweep(filepath.Dir(cfg.Path)); err != nil {
		cfg.Logger.Warn("what was left of an unfinished copy stays", slog.Any("error", err))
	}
	if err := db.prepare(steps); err != nil {
		return nil, errors.Join(err, db.shut())
	}
	if cfg.Boundary != nil {
		db.boundary = cfg.Boundary
	}
	return db, nil
}

// prepare brings a file that could be read to the present version.
func (db *DB) prepare(steps []migration) error {
	fail := func(err error) error { return fmt.Errorf("open journal %s: %w", db.cfg.Path, err) }
	version, err := db.checkVersion(len(steps))
	if err != nil {
		return fail(err)
	}
	switch isNew := version == 0; {
	case isNew:
	case version < uint64(len(steps)): //nolint:gosec // A count of migrations.
		if err := db.keepSchema(version); err != nil {
			return fail(err)
		}
	case db.behind():
		db.tryBackup()
	}
	if err := db.migrate(db.cfg.Logger, steps); err != nil {
		return fail(err)
	}
	if version != 0 {
		return nil
	}
	return durable.Sync(filepath.Dir(db.cfg.Path))
}

// Close waits for transactions to end, keeps a backup of what no backup has, and closes the file.
func (db *DB) Close() error {
	if db.backups.due() {
		db.tryBackup()
	}
	if err := db.shut(); err != nil {
		return fmt.Errorf("close journal: %w", err)
	}
	return nil
}

// shut closes the file for good.
func (db *DB) shut() error {
	db.opening.Lock()
	defer db.opening.Unlock()
	db.closed = true
	return db.bolt.Load().Close()
}

// examine finds out whether a journal was lost. To begin anew would forget every snap.
func examine(path string) error {
	info, err := os.Stat(path)
	switch {
	case err == nil && info.Size() > 0:
		return nil
	case err != nil && !errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("open journal: %w", err)
	}
	if len(backupsOf(path)) > 0 {
		return damaged(path, errors.New("it is missing or empty, and has a backup"))
	}
	return nil
}

func damaged(path string, cause error) error { return &DamagedError{Path: path, Cause: cause} }

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
	var refused error
	fault := guard(func() error {
		b, err = bolt.Open(cfg.Path, fileMode, options)
		if errors.As(err, new(syscall.Errno)) {
			refused = err // As a map for which there is no memory: of what is in the file that says nothing.
		}
		if err != nil {
			return err
		}
		return b.View(check)
	})
	var pathErr *fs.PathError
	switch {
	case fault == nil:
		return b, nil
	case errors.Is(fault, bolterrors.ErrTimeout):
		return b, fmt.Errorf("open journal %s: %w", cfg.Path, ErrInUse)
	case errors.Is(fault, bolterrors.ErrVersionMismatch):
		return b, fmt.Errorf("open journal %s: %w: %w", cfg.Path, ErrNewer, fault)
	case refused != nil, errors.As(fault, &pathErr):
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

// checkVersion is the version of the file; 0 is that it is new.
func (db *DB) checkVersion(newest int) (version uint64, err error) {
	err = db.view(func(tx *bolt.Tx) error {
		version, err = readVersion(tx)
		if err == nil && version > uint64(newest) { //nolint:gosec // A count of migrations.
			err = fmt.Errorf("%w: schema %d, this version knows up to %d; nothing was changed", ErrNewer, version, newest)
		}
		return err
	})
	return version, err
}

func number(n uint64) []byte { return binary.BigEndian.AppendUint64(nil, n) }
