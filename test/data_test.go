package test

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"tenure/test/rig"
)

// entry is all that a copy must keep of a file.
type entry struct {
	Mode       fs.FileMode
	UID, GID   uint32
	Modified   time.Time
	Link       string
	Attributes string
	Content    string
	// Blocks is what it takes on disk, roughly; First the first name that it has.
	Blocks int64
	First  string
}

// tree is what is in a directory, and the directory itself as ".".
func tree(t *testing.T, dir string) map[string]entry {
	t.Helper()
	found, first := map[string]entry{}, map[uint64]string{}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		name, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		stat := info.Sys().(*syscall.Stat_t)
		e := entry{Mode: info.Mode(), UID: stat.Uid, GID: stat.Gid, Modified: info.ModTime(), Attributes: attributes(path)}
		if !info.IsDir() {
			if first[stat.Ino] == "" {
				first[stat.Ino] = name
			}
			e.First = first[stat.Ino]
		}
		switch {
		case info.Mode().IsRegular():
			text, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			e.Content, e.Blocks = fmt.Sprintf("%d %x", len(text), sha256.Sum256(text)), stat.Blocks/256
		case info.Mode()&fs.ModeSymlink != 0:
			e.Link, err = os.Readlink(path)
		}
		found[name] = e
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

func attributes(path string) string {
	names := make([]byte, 4096)
	n, err := unix.Llistxattr(path, names)
	if err != nil {
		return err.Error()
	}
	var all []string
	for name := range bytes.SplitSeq(bytes.TrimSuffix(names[:n], []byte{0}), []byte{0}) {
		value := make([]byte, 4096)
		if n, err := unix.Lgetxattr(path, string(name), value); err == nil {
			all = append(all, fmt.Sprintf("%s=%q", name, value[:n]))
		}
	}
	return strings.Join(all, " ")
}

// rich fills a directory with one of each kind of what a service may have there.
func rich(t *testing.T, dir string, uid int) {
	t.Helper()
	at := func(name string) string { return filepath.Join(dir, name) }
	capability := "\x01\x00\x00\x02\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"
	old := time.Date(2001, 2, 3, 4, 5, 6, 789012345, time.UTC)
	sparse, err := os.Create(at("sparse"))
	if err != nil {
		t.Fatal(err)
	}
	_, writeErr := sparse.WriteAt([]byte("the end"), 64<<20)
	for _, err := range []error{
		writeErr, sparse.Close(),
		os.MkdirAll(at("deep/er/still"), 0o700), os.Mkdir(at("sticky"), 0o755), os.Chmod(at("sticky"), 0o777|fs.ModeSticky|fs.ModeSetgid),
		os.WriteFile(at("plain"), []byte("plain"), 0o640), os.WriteFile(at("deep/er/private"), []byte("p"), 0o600),
		os.WriteFile(at("setuid"), []byte("s"), 0o600), os.Chown(at("setuid"), uid, uid), os.Chmod(at("setuid"), 0o755|fs.ModeSetuid),
		os.Chown(at("plain"), uid, 567), os.Lchown(at("sticky"), 7, 8),
		unix.Setxattr(at("plain"), "user.kind", []byte("plain"), 0), unix.Setxattr(at("deep"), "user.kind", []byte("dir"), 0),
		unix.Setxattr(at("deep/er/private"), "security.capability", []byte(capability), 0),
		os.Link(at("plain"), at("deep/also-plain")), os.Link(at("plain"), at("again-plain")),
		os.Symlink("/etc/shadow", at("link")), os.Symlink("nowhere", at("deep/link")), os.Lchown(at("link"), uid, uid),
		unix.Mkfifo(at("fifo"), 0o620), unix.Mknod(at("socket"), unix.S_IFSOCK|0o600, 0),
		os.WriteFile(at("a name with\nnewline \xff"), nil, 0o644),
		os.Chtimes(at("plain"), old, old), os.Chtimes(at("deep/er"), old, old),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
}

const dataYAML = `name: data
version: 1
base: bare
confinement: strict
apps:
  one: {command: bin/witness serve one, daemon: notify}
`

// TestDataIsCopied refreshes a service that writes until its last moment, and
// finds in the new revision what it left; then goes back, and on again.
func TestDataIsCopied(t *testing.T) {
	t.Parallel()
	i := rig.New(t, rig.Config{})
	file := packWitness(t, i, dataYAML, nil)
	i.Tenure("install", "--dangerous", file)
	one := served(t, i, "data", "one")
	at := func(rev string) string { return i.Path("var/snap/data", rev) }
	rich(t, at("x1"), 1234)
	one.do("map", "/var/snap/data/x1/mapped", "")
	one.do("write", "/root/snap/data/x1/own", "of root")

	i.Tenure("refresh", "--dangerous", file)
	old, copied := tree(t, at("x1")), tree(t, at("x2"))
	equal(t, "copy", copied, old)
	if copied["sparse"].Blocks > 1 || copied["plain"].First != copied["deep/also-plain"].First || copied["plain"].Attributes == "" {
		t.Errorf("the example is not what it should be: %+v", copied)
	}
	equal(t, "stored by a mapping at the end", strings.TrimRight(one.do("read", "/var/snap/data/x2/mapped", ""), "\x00"), "stored at the end")
	equal(t, "root's own data", one.do("read", "/root/snap/data/x2/own", ""), "of root")
	equal(t, "current", one.do("link", "/var/snap/data/current", "")+one.do("link", "/root/snap/data/current", ""), "x2x2")

	one.do("write", "/var/snap/data/x2/plain", "of x2, and linked thrice")
	one.do("write", "/var/snap/data/x2/new", "of x2")
	one.do("write", "/root/snap/data/x2/own", "of x2")
	newer := tree(t, at("x2"))
	i.Tenure("revert", "data")
	r := one.report()
	equal(t, "reverted", []string{r.Args[0], r.Dir}, []string{"/snap/data/x1/bin/witness", "/var/snap/data/x1"})
	equal(t, "data of x1", tree(t, at("x1")), old)
	equal(t, "data of x2", tree(t, at("x2")), newer)
	equal(t, "root's own data", one.do("read", "/root/snap/data/current/own", ""), "of root")

	// What has no business there is neither mixed in nor kept.
	writeFile(t, filepath.Join(at("x3"), "stray/file"), "stray")
	i.Tenure("refresh", "--dangerous", file)
	equal(t, "copy of x1 again", tree(t, at("x3")), tree(t, at("x1")))
	if left, _ := filepath.Glob(at("*.*")); len(left) > 0 {
		t.Errorf("left: %q", left)
	}
}

// TestDataOfAFailedRefresh finds the data as it was after a refresh that failed.
func TestDataOfAFailedRefresh(t *testing.T) {
	t.Parallel()
	i := rig.New(t, rig.Config{})
	i.Tenure("install", "--dangerous", packWitness(t, i, dataYAML, nil))
	rich(t, i.Path("var/snap/data/x1"), 1234)
	rich(t, i.Path("root/snap/data/x1"), 0)
	alices := filepath.Join(user(t, i, "alice", 1000), "snap/data/x1")
	writeFile(t, filepath.Join(alices, "file"), "alice's")
	rich(t, alices, 1000)
	alice := tree(t, alices)
	system, own := tree(t, i.Path("var/snap/data/x1")), tree(t, i.Path("root/snap/data/x1"))
	got := i.Try("refresh", "--dangerous", packWitness(t, i, strings.Replace(dataYAML, "serve one", "exit 3", 1), nil))
	if got.Status == 0 {
		t.Fatal("the refresh has not failed")
	}
	equal(t, "system data", tree(t, i.Path("var/snap/data/x1")), system)
	equal(t, "root's own data", tree(t, i.Path("root/snap/data/x1")), own)
	equal(t, "alice's data", tree(t, alices), alice)
	equal(t, "alice's directory", names(t, filepath.Dir(alices)), []string{"x1"})
	equal(t, "system data directory", names(t, i.Path("var/snap/data")), []string{"common", "current", "x1"})
	equal(t, "root's own directory", names(t, i.Path("root/snap/data")), []string{"common", "current", "x1"})
	equal(t, "revision", served(t, i, "data", "one").report().Args[0], "/snap/data/x1/bin/witness")

	got = i.Try("install", "--dangerous", "--name", "data_b", packWitness(t, i, strings.Replace(dataYAML, "serve one", "exit 3", 1), nil))
	if got.Status == 0 {
		t.Fatal("the install has not failed")
	}
	for _, dir := range []string{"var/snap/data_b", "root/snap/data_b", "snap/data_b"} {
		if _, err := os.Lstat(i.Path(dir)); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s after a failed install: %v", dir, err)
		}
	}
}

// user makes the home of a user, and data of the snap in it.
func user(t *testing.T, i *rig.Instance, name string, uid int) string {
	t.Helper()
	home := i.Path("home", name)
	if err := errors.Join(os.MkdirAll(filepath.Join(home, "snap/data"), 0o755), os.Chown(home, uid, uid)); err != nil {
		t.Fatal(err)
	}
	return home
}

// TestUsersData copies what users have of a snap, whose it stays, and touches
// nothing that their links lead to.
func TestUsersData(t *testing.T) {
	t.Parallel()
	i := rig.New(t, rig.Config{})
	file := packWitness(t, i, dataYAML, nil)
	i.Tenure("install", "--dangerous", file)

	alice := user(t, i, "alice", 1000)
	writeFile(t, filepath.Join(alice, "snap/data/x1/file"), "alice's")
	writeFile(t, filepath.Join(alice, "snap/data/common/file"), "common")
	rich(t, filepath.Join(alice, "snap/data/x1"), 1000)
	writeFile(t, filepath.Join(alice, "snap/other/x1/file"), "of another snap")
	user(t, i, "bob", 1001)

	// Each of these has something in the way that leads to what is not theirs.
	victim := i.Path("victim")
	for _, name := range []string{"secret", "x1/secret", "x2/secret", "common/secret", "data/x1/secret", "data/common/secret"} {
		writeFile(t, filepath.Join(victim, name), "secret")
	}
	link := func(target, name string) {
		t.Helper()
		if err := errors.Join(os.RemoveAll(name), os.Symlink(target, name)); err != nil {
			t.Fatal(err)
		}
	}
	link(victim, filepath.Join(user(t, i, "revision", 1002), "snap/data/x1"))
	target := user(t, i, "target", 1003)
	writeFile(t, filepath.Join(target, "snap/data/x1/file"), "target's")
	link(victim, filepath.Join(target, "snap/data/x2"))
	link(victim, filepath.Join(target, "snap/data/x1/link"))
	link(victim, filepath.Join(target, "snap/data/common"))
	link(victim, filepath.Join(user(t, i, "snap", 1004), "snap"))
	link(victim, filepath.Join(user(t, i, "dir", 1005), "snap/data"))
	link("../../../victim", filepath.Join(user(t, i, "relative", 1006), "snap/data"))
	deep := filepath.Join(user(t, i, "deep", 1007), "snap/data/x1")
	nest(t, deep, 1100)
	writeFile(t, filepath.Join(user(t, i, "file", 1008), "snap/data/x1"), "no directory")
	before := tree(t, victim)

	i.Tenure("refresh", "--dangerous", file)
	alices := tree(t, filepath.Join(alice, "snap/data/x1"))
	equal(t, "alice's copy", tree(t, filepath.Join(alice, "snap/data/x2")), alices)
	equal(t, "bob", names(t, i.Path("home/bob/snap/data")), nil)
	equal(t, "what links lead to", tree(t, victim), before)
	equal(t, "a link as the revision", names(t, i.Path("home/revision/snap/data")), []string{"x1"})
	equal(t, "a link as the target", tree(t, filepath.Join(target, "snap/data/x2")), tree(t, filepath.Join(target, "snap/data/x1")))
	equal(t, "too deep", names(t, filepath.Dir(deep)), []string{"x1"})
	equal(t, "no directory", names(t, i.Path("home/file/snap/data")), []string{"x1"})
	id := regexp.MustCompile(`(?m)^(\d+) .*Refresh`).FindStringSubmatch(i.Tenure("changes", "data"))
	if id == nil {
		t.Fatal("there is no change")
	}
	said := i.Tenure("tasks", id[1])
	for _, home := range []string{"home/revision/", "home/deep/", "home/file/"} {
		equal(t, "said of "+home, strings.Contains(said, i.Path(home)), true)
	}

	i.Tenure("remove", "data")
	equal(t, "what links lead to, after remove", tree(t, victim), before)
	for _, dir := range []string{"var/snap/data", "root/snap/data", "home/alice/snap/data", "home/bob/snap/data", "home/target/snap/data"} {
		if _, err := os.Lstat(i.Path(dir)); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s after remove: %v", dir, err)
		}
	}
	equal(t, "other snaps of alice", names(t, i.Path("home/alice/snap")), []string{"other"})
}

// nest makes directories below each other, deeper than a path can say.
func nest(t *testing.T, dir string, depth int) {
	t.Helper()
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	at, err := os.OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	for n := range depth {
		name := strconv.Itoa(n)
		if err := at.Mkdir(name, 0o755); err != nil {
			t.Fatal(err)
		}
		next, err := at.OpenRoot(name)
		if err := errors.Join(err, at.Close()); err != nil {
			t.Fatal(err)
		}
		at = next
	}
	if err := at.Close(); err != nil {
		t.Fatal(err)
	}
}
