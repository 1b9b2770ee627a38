// Package mount keeps revision files on disk and mounted, and knows who still
// uses a mount.
//
// A snap file at its place is complete and durable, or it is not there. A mount
// is never detached while it is in use: Unmount either makes it vanish, here and
// wherever it has propagated to, or fails and changes nothing. Its loop device
// goes with the last mount of it. Who uses a mount is told by the number of its
// device, never by a path.
//
// Everything here reads its facts from the kernel and keeps none, so it may run
// beside other processes and after a crash. Any functions may run at the same
// time, except two that change the same file or directory.
package mount

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"tenure"
	"tenure/internal/durable"
)

// Config says where a Store is. The zero value is the store of the machine.
type Config struct {
	// Root is the directory below which everything lies, by default "/".
	Root string
}

// Store names the places of revisions below a root, and keeps their files.
type Store struct {
	root string
}

// New returns the store below a root. It touches nothing.
func New(cfg Config) *Store {
	root := filepath.Clean("/" + cfg.Root)
	return &Store{root: root}
}

// Root is the directory below which everything lies.
func (s *Store) Root() string { return s.root }

func (s *Store) fileDir() string { return filepath.Join(s.root, "var/lib/tenure/snaps") }

// File is the path of the snap file of a revision.
func (s *Store) File(snap tenure.Instance, rev tenure.Revision) string {
	return filepath.Join(s.fileDir(), string(snap)+"_"+rev.String()+".snap")
}

// SnapDir is the directory that the revisions of a snap are mounted in.
func (s *Store) SnapDir(snap tenure.Instance) string {
	return filepath.Join(s.root, "snap", string(snap))
}

// Dir is the mount point of a revision.
func (s *Store) Dir(snap tenure.Instance, rev tenure.Revision) string {
	return filepath.Join(s.SnapDir(snap), rev.String())
}

// Put makes the bytes of src the file of a revision and returns its path. When
// it returns nil the file survives a power failure; when it fails nothing is
// left. A file that is there already is replaced in one instant, and what is
// mounted from it stays what it was.
func (s *Store) Put(ctx context.Context, snap tenure.Instance, rev tenure.Revision, src io.Reader) (string, error) {
	file := s.File(snap, rev)
	if err := s.put(ctx, file, src); err != nil {
		return "", fmt.Errorf("store %s: %w", file, err)
	}
	return file, nil
}

func (s *Store) put(ctx context.Context, file string, src io.Reader) error {
	if err := durable.MkdirAll(0o700, s.fileDir()); err != nil {
		return err
	}
	tmp, err := os.CreateTemp(s.fileDir(), tmpPrefix+"*")
	if err != nil {
		return err
	}
	err = fill(ctx, tmp, src)
	if err == nil {
		err = os.Rename(tmp.Name(), file)
	}
	if err != nil {
		_ = os.Remove(tmp.Name())
		return err
	}
	return durable.Sync(s.fileDir())
}

// Take is Put for a file that nobody else writes to, which is at its place when that is done and no more where it was:
// on one file system it takes no room for a second one.
func (s *Store) Take(ctx context.Context, snap tenure.Instance, rev tenure.Revision, from string) (string, error) {
	file := s.File(snap, rev)
	err := s.take(ctx, file, from)
	if err != nil {
		return "", fmt.Errorf("store %s: %w", file, err)
	}
	return file, nil
}

func (s *Store) take(ctx context.Context, file, from string) error {
	f, err := os.Open(from)
	if err != nil {
		return err
	}
	defer f.Close() //nolint:errcheck // What was written is synced before.
	if err := errors.Join(durable.MkdirAll(0o700, s.fileDir()), f.Chmod(0o644), f.Sync()); err != nil {
		return err
	}
	err = os.Rename(from, file)
	if errors.Is(err, unix.EXDEV) {
		if err = s.put(ctx, file, f); err == nil {
			err = os.Remove(from)
		}
		return err
	}
	if err != nil {
		return err
	}
	// Where it is comes first to the disk.
	return durable.Sync(s.fileDir(), filepath.Dir(from))
}

const tmpPrefix = ".put-"

// fill writes src to a new file and closes it. The file is for everybody to
// read, so that a child without rights can be given it by descriptor; its
// directory is not.
func fill(ctx context.Context, f *os.File, src io.Reader) error {
	_, err := io.Copy(f, withContext{ctx, src}) //nolint:contextcheck // It is the context of this call.
	if err == nil {
		err = f.Chmod(0o644)
	}
	if err == nil {
		err = f.Sync()
	}
	return errors.Join(err, f.Close())
}

// withContext is a reader that fails when its context ends.
type withContext struct {
	ctx context.Context //nolint:containedctx // It lives as long as one call of fill.
	src io.Reader
}

func (r withContext) Read(b []byte) (int, error) {
	if err := r.ctx.Err(); err != nil {
		return 0, err
	}
	return r.src.Read(b)
}

// Remove deletes the file of a revision durably. It is no error if there is
// none. What is mounted from the file lives on until it is unmounted.
func (s *Store) Remove(snap tenure.Instance, rev tenure.Revision) error {
	file := s.File(snap, rev)
	err := os.Remove(file)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err == nil {
		err = durable.Sync(s.fileDir())
	}
	if err != nil {
		return fmt.Errorf("remove %s: %w", file, err)
	}
	return nil
}

// Stored names the file of a revision.
type Stored struct {
	Snap     tenure.Instance `json:"snap"`
	Revision tenure.Revision `json:"revision"`
}

// Files are the revisions that have a file, sorted by file name.
func (s *Store) Files() ([]Stored, error) {
	entries, err := os.ReadDir(s.fileDir())
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("list snap files: %w", err)
	}
	var files []Stored
	for _, e := range entries {
		if stored, ok := parseFileName(e.Name()); ok {
			files = append(files, stored)
		}
	}
	return files, nil
}

// Sweep removes what a Put left behind that was interrupted by a crash. No Put
// may be running.
func (s *Store) Sweep() error {
	left, err := durable.Left(s.fileDir(), tmpPrefix+"*")
	for _, file := range left {
		err = errors.Join(err, os.Remove(file))
	}
	if err != nil {
		return fmt.Errorf("sweep snap files: %w", err)
	}
	return nil
}

func parseFileName(name string) (Stored, bool) {
	stem, ok := strings.CutSuffix(name, ".snap")
	at := strings.LastIndexByte(stem, '_')
	if !ok || at < 0 {
		return Stored{}, false
	}
	snap, err := tenure.ParseInstance(stem[:at])
	if err != nil {
		return Stored{}, false
	}
	rev, err := tenure.ParseRevision(stem[at+1:])
	return Stored{Snap: snap, Revision: rev}, err == nil
}
