// Package snapshot keeps copies of what snaps have as data in files that say of themselves
// whether they are whole.
//
// A snapshot is a zip file with one compressed tar archive for each owner of data, the system
// or a user, a description (meta.json) with the digest of each, and last the digest of that: what
// is not whole is found to be broken, and never unpacked. A file at its place is complete and
// durable, or it is not there. The trees that are archived, and those that are
// made, are the caller's alone: nobody else changes them meanwhile.
//
// A Store keeps nothing in memory; it may be used by any number of goroutines, as long as two do not
// write the snapshot of one snap in one set.
package snapshot

import (
	"archive/zip"
	"bytes"
	"cmp"
	"context"
	"crypto/sha3"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"tenure"
	"tenure/internal/durable"
)

// ErrBroken is that a snapshot is not whole.
var ErrBroken = errors.New("the snapshot is broken")

// Set is the number of what is saved together.
type Set uint64

// ParseSet reads the number of a set.
func ParseSet(s string) (Set, error) {
	n, err := strconv.ParseUint(s, 10, 64)
	if err != nil || n == 0 {
		return 0, fmt.Errorf("%w: snapshot set %q (want a number like 12)", tenure.ErrName, s)
	}
	return Set(n), nil
}

// String is what ParseSet reads.
func (s Set) String() string { return strconv.FormatUint(uint64(s), 10) }

// Description is what a snapshot says of itself.
type Description struct {
	Set      Set             `json:"set"`
	Time     time.Time       `json:"time"`
	Snap     tenure.Instance `json:"snap"`
	Revision tenure.Revision `json:"revision"`
	Version  string          `json:"version"`
	Summary  string          `json:"summary"`
	// Epoch is that of the snap's data, as its package says it.
	Epoch json.RawMessage `json:"epoch,omitempty"`
	// Conf is the configuration of the snap.
	Conf json.RawMessage `json:"conf,omitempty"`
	// Auto is that it was made because the snap was removed.
	Auto bool `json:"auto,omitempty"`
	// Digests are the SHA3-384 of the archives, in hex, by their names: System, or that of a user.
	Digests map[string]string `json:"sha3-384"`
	// Owners are the numbers of the users who have an archive, by their names: a name can become another's.
	Owners map[string]uint32 `json:"owners,omitempty"`
	// Size is that of all archives, in bytes.
	Size int64 `json:"size"`
	// Broken says why a snapshot cannot be used; it is not stored.
	Broken string `json:"-"`
}

// System is the name of the archive of the snap's own data.
const System = "archive.tgz"

// UserArchive is the name of the archive of what a user has.
func UserArchive(user string) string { return "user/" + user + ".tgz" }

// Users are those whose data is in the snapshot.
func (d *Description) Users() []string {
	var users []string
	for name := range d.Digests {
		if user, ok := strings.CutPrefix(name, "user/"); ok {
			users = append(users, strings.TrimSuffix(user, ".tgz"))
		}
	}
	slices.Sort(users)
	return users
}

const (
	metaName   = "meta.json"
	digestName = "meta.sha3_384"
	// maxMeta bounds what is read of a description, in bytes.
	maxMeta = 8 << 20
)

// Store is a directory of snapshots.
type Store struct{ Dir string }

// Path is the file of the snapshot of a snap in a set.
func (s Store) Path(set Set, snap tenure.Instance) string {
	return filepath.Join(s.Dir, fmt.Sprintf("%s_%s.zip", set, snap))
}

// Work is a directory for what is made on the way to a snapshot, or from one, under a name
// of the caller's. It is on the disk of the snapshots, and for root alone.
func (s Store) Work(name string) string { return filepath.Join(s.Dir, workName, name) }

const workName = ".work"

// Save makes a snapshot of trees, each by the name of its archive: what is in the directory is
// archived, and not its own name. What d says of archives is filled in. One that is there already is replaced.
// What no archive can have is left out, and given to note in a sentence.
func (s Store) Save(ctx context.Context, d Description, trees map[string]string, note func(string)) (err error) {
	path := s.Path(d.Set, d.Snap)
	if err := os.MkdirAll(s.Dir, 0o700); err != nil {
		return fmt.Errorf("save %s: %w", d.Snap, err)
	}
	file, err := os.CreateTemp(s.Dir, ".new-*")
	if err != nil {
		return fmt.Errorf("save %s: %w", d.Snap, err)
	}
	err = write(ctx, file, &d, trees, note)
	if err == nil {
		err = file.Sync()
	}
	if err = errors.Join(err, file.Close()); err == nil {
		err = os.Rename(file.Name(), path)
	}
	if err == nil {
		// Work may have made the directory.
		err = durable.Sync(s.Dir, filepath.Dir(s.Dir))
	} else {
		err = errors.Join(err, os.Remove(file.Name()))
	}
	if err != nil {
		return fmt.Errorf("save %s: %w", d.Snap, err)
	}
	return nil
}

func write(ctx context.Context, file io.Writer, d *Description, trees map[string]string, note func(string)) error {
	archive := zip.NewWriter(file)
	d.Digests, d.Size = map[string]string{}, 0
	names := make([]string, 0, len(trees))
	for name := range trees {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		entry, err := archive.CreateHeader(&zip.FileHeader{Name: name, Method: zip.Store})
		if err != nil {
			return err
		}
		sum := &summing{to: entry, hash: sha3.New384()}
		if err := pack(ctx, sum, trees[name], note); err != nil {
			return fmt.Errorf("archive %s: %w", name, err)
		}
		d.Digests[name] = hex.EncodeToString(sum.hash.Sum(nil))
		d.Size += sum.n
	}
	meta, err := json.Marshal(d)
	if err != nil {
		return err
	}
	digest := sha3.Sum384(meta)
	for _, part := range []struct {
		name string
		text []byte
	}{{metaName, meta}, {digestName, []byte(hex.EncodeToString(digest[:]))}} {
		entry, err := archive.CreateHeader(&zip.FileHeader{Name: part.name, Method: zip.Deflate})
		if err == nil {
			_, err = entry.Write(part.text)
		}
		if err != nil {
			return err
		}
	}
	return archive.Close()
}

// summing digests and counts what is written.
type summing struct {
	to   io.Writer
	hash hash.Hash
	n    int64
}

func (s *summing) Write(p []byte) (int, error) {
	n, err := s.to.Write(p)
	_, _ = s.hash.Write(p[:n]) // It never fails.
	s.n += int64(n)
	return n, err
}

// List are the snapshots that there are, by set and snap; a set of 0 and no snap are all. One
// that cannot be read says so.
func (s Store) List(set Set, snaps ...tenure.Instance) ([]Description, error) {
	entries, err := os.ReadDir(s.Dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("list snapshots: %w", err)
	}
	var found []Description
	for _, entry := range entries {
		of, snap, ok := parseName(entry.Name())
		if !ok || set != 0 && of != set || len(snaps) > 0 && !slices.Contains(snaps, snap) {
			continue
		}
		d, err := s.Describe(of, snap)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			d = Description{Set: of, Snap: snap, Broken: err.Error()}
			if info, err := entry.Info(); err == nil {
				d.Time, d.Size = info.ModTime(), info.Size()
			}
		}
		found = append(found, d)
	}
	slices.SortFunc(found, func(a, b Description) int { return cmp.Or(cmp.Compare(a.Set, b.Set), cmp.Compare(a.Snap, b.Snap)) })
	return found, nil
}

func parseName(name string) (Set, tenure.Instance, bool) {
	stem, ok := strings.CutSuffix(name, ".zip")
	number, snap, cut := strings.Cut(stem, "_")
	set, err := ParseSet(number)
	instance, nameErr := tenure.ParseInstance(snap)
	return set, instance, ok && cut && err == nil && nameErr == nil
}

// Describe is what one snapshot says of itself.
func (s Store) Describe(set Set, snap tenure.Instance) (Description, error) {
	archive, err := zip.OpenReader(s.Path(set, snap))
	if err != nil {
		return Description{}, broken(err)
	}
	defer archive.Close() //nolint:errcheck // Only read.
	return describe(&archive.Reader, set, snap)
}

// broken words an error of a file that is there.
func broken(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return fmt.Errorf("%w: %w", ErrBroken, err)
}

func describe(archive *zip.Reader, set Set, snap tenure.Instance) (d Description, err error) {
	meta, err := small(archive, metaName)
	if err != nil {
		return d, broken(errors.New(err.Error())) //nolint:err113 // That a part is missing is not that the file is.
	}
	want, err := small(archive, digestName)
	if err != nil {
		return d, broken(errors.New(err.Error())) //nolint:err113 // As above.
	}
	if sum := sha3.Sum384(meta); hex.EncodeToString(sum[:]) != string(bytes.TrimSpace(want)) {
		return d, fmt.Errorf("%w: its description has another digest", ErrBroken)
	}
	if err := json.Unmarshal(meta, &d); err != nil {
		return d, broken(err)
	}
	if d.Set != set || d.Snap != snap {
		return d, fmt.Errorf("%w: it is that of %s in set %s", ErrBroken, d.Snap, d.Set)
	}
	return d, nil
}

func small(archive *zip.Reader, name string) ([]byte, error) {
	file, err := archive.Open(name)
	if err != nil {
		return nil, err
	}
	defer file.Close() //nolint:errcheck // Only read.
	text, err := io.ReadAll(io.LimitReader(file, maxMeta+1))
	if err == nil && len(text) > maxMeta {
		err = fmt.Errorf("%s is longer than %d bytes", name, maxMeta)
	}
	return text, err
}

// Check reads archives of a snapshot, those that wanted names, and fails if they are not what was saved.
func (s Store) Check(ctx context.Context, set Set, snap tenure.Instance, wanted func(archive string) bool) error {
	return s.each(ctx, set, snap, wanted, func(_ string, from io.Reader) error {
		return unpack(ctx, from, "")
	})
}

// Unpack makes, in dir, a tree of each archive that wanted names: the archive's name is its path.
// Nothing is left of one that turns out to be broken. It gives the description.
func (s Store) Unpack(ctx context.Context, set Set, snap tenure.Instance, dir string, wanted func(archive string) bool) (Description, error) {
	d, err := s.Describe(set, snap)
	if err != nil {
		return d, fmt.Errorf("restore %s from set %s: %w", snap, set, err)
	}
	err = s.each(ctx, set, snap, wanted, func(name string, from io.Reader) error {
		tree := filepath.Join(dir, filepath.FromSlash(name))
		if err := os.MkdirAll(tree, 0o700); err != nil {
			return err
		}
		return unpack(ctx, from, tree)
	})
	if err != nil {
		return d, errors.Join(err, os.RemoveAll(dir))
	}
	return d, nil
}

// each gives the archives of a snapshot to do, and fails if one of them has not the digest that
// it should have.
func (s Store) each(ctx context.Context, set Set, snap tenure.Instance, wanted func(string) bool, do func(name string, from io.Reader) error) error {
	fail := func(err error) error { return fmt.Errorf("read the snapshot of %s in set %s: %w", snap, set, err) }
	archive, err := zip.OpenReader(s.Path(set, snap))
	if err != nil {
		return fail(broken(err))
	}
	defer archive.Close() //nolint:errcheck // Only read.
	d, err := describe(&archive.Reader, set, snap)
	if err != nil {
		return fail(err)
	}
	for name, digest := range d.Digests {
		if name != System && !validUser(name) {
			return fail(fmt.Errorf("%w: it has an archive %q", ErrBroken, name))
		}
		if !wanted(name) {
			continue
		}
		if err := one(ctx, &archive.Reader, name, digest, do); err != nil {
			return fail(err)
		}
	}
	return nil
}

// validUser reports whether an archive is that of a user, and a path that leads nowhere else.
func validUser(name string) bool {
	user, ok := strings.CutPrefix(name, "user/")
	user, ends := strings.CutSuffix(user, ".tgz")
	return ok && ends && user != "" && !strings.ContainsAny(user, "/\x00") && user != "." && user != ".."
}

func one(ctx context.Context, archive *zip.Reader, name, digest string, do func(string, io.Reader) error) error {
	file, err := archive.Open(name)
	if err != nil {
		return fmt.Errorf("%w: %s is missing", ErrBroken, name)
	}
	defer file.Close() //nolint:errcheck // Only read.
	sum := sha3.New384()
	from := watched{ctx, io.TeeReader(file, sum)}
	if err = do(name, from); err == nil {
		_, err = io.Copy(io.Discard, from)
	}
	if errors.Is(err, zip.ErrChecksum) {
		return broken(err)
	}
	if err == nil && hex.EncodeToString(sum.Sum(nil)) != digest {
		err = fmt.Errorf("%w: %s has another digest", ErrBroken, name)
	}
	return err
}

// Forget removes a snapshot, durably. It is no error if there is none.
func (s Store) Forget(set Set, snap tenure.Instance) error {
	err := os.Remove(s.Path(set, snap))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err == nil {
		err = durable.Sync(s.Dir)
	}
	if err != nil {
		return fmt.Errorf("forget the snapshot of %s in set %s: %w", snap, set, err)
	}
	return nil
}

// Sweep removes what a Save has left that did not come to its end, and what is in directories for
// work. Nobody may be working.
func (s Store) Sweep() error {
	left, err := durable.Left(s.Dir, ".new-*")
	err = errors.Join(err, os.RemoveAll(filepath.Join(s.Dir, workName)))
	for _, file := range left {
		err = errors.Join(err, os.Remove(file))
	}
	if err != nil {
		return fmt.Errorf("sweep snapshots: %w", err)
	}
	return nil
}
