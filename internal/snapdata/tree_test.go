package snapdata_test

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"tenure/internal/snapdata"
)

// needRoot fails or, where a person runs the tests by hand, skips.
func needRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() == 0 {
		return
	}
	if ci, _ := os.LookupEnv("CI"); ci == "true" {
		t.Fatal("owners, devices and mounts need root")
	}
	t.Skip("owners, devices and mounts need root")
}

// filesystems makes a directory on each kind of file system that can be made
// here. The plain temporary directory is always one of them; xfs and btrfs,
// which share blocks, need their mkfs.
func filesystems(t *testing.T) map[string]string {
	t.Helper()
	needRoot(t)
	dirs := map[string]string{"disk": t.TempDir(), "tmpfs": tmpfs(t)}
	for _, kind := range []string{"ext4", "xfs", "btrfs"} {
		if dir, ok := formatted(t, kind); ok {
			dirs[kind] = dir
		}
	}
	return dirs
}

func tmpfs(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	must(t, unix.Mount("tmpfs", dir, "tmpfs", 0, ""))
	t.Cleanup(func() { must(t, unix.Unmount(dir, 0)) })
	return dir
}

// formatted mounts a new file system of a kind that has a mkfs.
func formatted(t *testing.T, kind string) (string, bool) {
	t.Helper()
	needRoot(t)
	args := map[string][]string{"ext4": {"-q", "-F"}, "xfs": {"-q", "-m", "reflink=1"}, "btrfs": {"-q"}}[kind]
	if _, err := exec.LookPath("mkfs." + kind); err != nil {
		t.Logf("no mkfs.%s: not tried on %s", kind, kind)
		return "", false
	}
	image, dir := filepath.Join(t.TempDir(), "image"), t.TempDir()
	must(t, os.WriteFile(image, nil, 0o600), os.Truncate(image, 512<<20))
	run(t, "mkfs."+kind, append(args, image)...)
	run(t, "mount", "-o", "loop", "-t", kind, image, dir)
	t.Cleanup(func() { must(t, unix.Unmount(dir, 0)) })
	return dir, true
}

func run(t *testing.T, name string, args ...string) {
	t.Helper()
	if out, err := exec.CommandContext(t.Context(), name, args...).CombinedOutput(); err != nil {
		t.Fatalf("%s %v: %v: %s", name, args, err, out)
	}
}

func must(t interface {
	Helper()
	Fatal(args ...any)
}, errs ...error,
) {
	t.Helper()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
}

// node is everything about one file that a copy must keep.
type node struct {
	Mode     uint32
	UID, GID uint32
	Size     int64
	Mtime    string
	Rdev     uint64
	Target   string
	Digest   string
	Xattrs   map[string]string
	// Links are all names of the file in the tree.
	Links string
}

// scan reads a tree by means of its own, not those of the package.
func scan(t interface {
	Helper()
	Fatal(args ...any)
}, top string,
) map[string]node {
	t.Helper()
	tree := map[string]node{}
	names := map[uint64][]string{}
	inodes := map[string]uint64{}
	err := filepath.WalkDir(top, func(path string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(top, path)
		if err != nil {
			return err
		}
		n, st, err := look(path)
		if err != nil {
			return err
		}
		if st.Mode&unix.S_IFMT != unix.S_IFDIR {
			names[st.Ino] = append(names[st.Ino], rel)
			inodes[rel] = st.Ino
		}
		tree[rel] = n
		return nil
	})
	must(t, err)
	for rel, ino := range inodes {
		n := tree[rel]
		slices.Sort(names[ino])
		n.Links = strings.Join(names[ino], " ")
		tree[rel] = n
	}
	return tree
}

func look(path string) (node, *unix.Stat_t, error) {
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		return node{}, nil, err
	}
	n := node{
		Mode: st.Mode, UID: st.Uid, GID: st.Gid, Rdev: st.Rdev,
		Mtime: fmt.Sprint(st.Mtim.Nano()),
	}
	var err error
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFREG:
		n.Size = st.Size
		n.Digest, err = digest(path)
	case unix.S_IFLNK:
		n.Target, err = os.Readlink(path)
	}
	if err == nil {
		n.Xattrs, err = xattrs(path)
	}
	return n, &st, err
}

func digest(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close() //nolint:errcheck // Only read.
	h := sha256.New()
	_, err = io.Copy(h, f)
	return hex.EncodeToString(h.Sum(nil)), err
}

func xattrs(path string) (map[string]string, error) {
	b := make([]byte, 64<<10)
	n, err := unix.Llistxattr(path, b)
	if errors.Is(err, unix.EOPNOTSUPP) || n == 0 {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	values := map[string]string{}
	for name := range strings.SplitSeq(strings.TrimSuffix(string(b[:n]), "\x00"), "\x00") {
		v := make([]byte, 64<<10)
		m, err := unix.Lgetxattr(path, name, v)
		if err != nil {
			return nil, err
		}
		values[name] = string(v[:m])
	}
	return values, nil
}

// same compares two trees in full.
func same(t interface {
	Helper()
	Fatal(args ...any)
	Errorf(format string, args ...any)
}, src, dst string,
) {
	t.Helper()
	if diff := cmp.Diff(scan(t, src), scan(t, dst)); diff != "" {
		t.Errorf("the copy differs (-source +copy):\n%s", diff)
	}
}

// everything makes a tree with one of each kind.
func everything(t *testing.T, src string) {
	t.Helper()
	must(t, os.MkdirAll(filepath.Join(src, "dir/deep/er"), 0o755), os.Mkdir(filepath.Join(src, "empty"), 0o711))
	write(t, filepath.Join(src, "file"), "content")
	write(t, filepath.Join(src, "dir/deep/er/x"), strings.Repeat("0123456789", 100_000))
	write(t, filepath.Join(src, "zero"), "")
	write(t, filepath.Join(src, "odd \n name \xff"), "odd")
	write(t, filepath.Join(src, "su"), "su")
	sparse, err := os.Create(filepath.Join(src, "sparse"))
	must(t, err)
	_, err = sparse.WriteAt([]byte("in the middle"), 40<<20)
	must(t, err, sparse.Truncate(100<<20), sparse.Close())
	must(t,
		os.Link(filepath.Join(src, "file"), filepath.Join(src, "dir/link")),
		os.Symlink("/etc/passwd", filepath.Join(src, "symlink")),
		os.Link(filepath.Join(src, "symlink"), filepath.Join(src, "symlink2")),
		os.Symlink("dangling", filepath.Join(src, "dir/dangling")),
		unix.Mkfifo(filepath.Join(src, "fifo"), 0o620),
		unix.Mknod(filepath.Join(src, "socket"), unix.S_IFSOCK|0o755, 0),
		unix.Mknod(filepath.Join(src, "null"), unix.S_IFCHR|0o666, int(unix.Mkdev(1, 3))),
		unix.Mknod(filepath.Join(src, "block"), unix.S_IFBLK|0o600, int(unix.Mkdev(7, 200))),
		os.Lchown(filepath.Join(src, "symlink"), 12, 34),
		os.Chown(filepath.Join(src, "fifo"), 1000, 1001),
		os.Chown(filepath.Join(src, "su"), 1000, 1001),
		os.Chown(filepath.Join(src, "dir/deep"), 1000, 1001),
		unix.Chmod(filepath.Join(src, "su"), 0o6755),
		unix.Chmod(filepath.Join(src, "dir"), 0o3775),
		unix.Chmod(filepath.Join(src, "zero"), 0),
	)
	attribute(t, filepath.Join(src, "su"), "security.capability", "\x01\x00\x00\x02\x00\x04\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00")
	// An ACL: version 2; user:: rw, user 1000 r, group:: r, mask r, other.
	const acl = "\x02\x00\x00\x00" + "\x01\x00\x06\x00\xff\xff\xff\xff" + "\x02\x00\x04\x00\xe8\x03\x00\x00" +
		"\x04\x00\x04\x00\xff\xff\xff\xff" + "\x10\x00\x04\x00\xff\xff\xff\xff" + "\x20\x00\x00\x00\xff\xff\xff\xff"
	attribute(t, filepath.Join(src, "file"), "system.posix_acl_access", acl)
	attribute(t, filepath.Join(src, "dir/deep"), "system.posix_acl_default", acl)
	attribute(t, filepath.Join(src, "dir"), "trusted.note", "of a directory")
	attribute(t, filepath.Join(src, "symlink"), "trusted.note", "of a symlink")
	when := []unix.Timespec{{Sec: 1e9, Nsec: 123456789}, {Sec: 1.5e9, Nsec: 987654321}}
	for _, name := range []string{"file", "symlink", "fifo", "dir/deep", "dir", "."} {
		must(t, unix.UtimesNanoAt(unix.AT_FDCWD, filepath.Join(src, name), when, unix.AT_SYMLINK_NOFOLLOW))
	}
}

func write(t interface {
	Helper()
	Fatal(args ...any)
}, path, content string,
) {
	t.Helper()
	must(t, os.WriteFile(path, []byte(content), 0o644))
}

// attribute sets an extended attribute, where the file system has that kind.
func attribute(t *testing.T, path, name, value string) {
	t.Helper()
	if err := unix.Lsetxattr(path, name, []byte(value), 0); !errors.Is(err, unix.EOPNOTSUPP) {
		must(t, err)
	}
}

func first(t *testing.T, src, dst string) *snapdata.Pass {
	t.Helper()
	pass, err := snapdata.First(t.Context(), src, dst, snapdata.Options{})
	must(t, err)
	return pass
}

func second(t *testing.T, pass *snapdata.Pass) snapdata.Stats {
	t.Helper()
	stats, err := pass.Second(t.Context(), snapdata.Options{})
	must(t, err)
	return stats
}
