package snapdata_test

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
	"pgregory.net/rapid"

	"tenure/internal/snapdata"
)

// service does at random to a tree what services do, and what attackers do. It
// does not care what fails: names are few, so that they meet.
type service struct {
	top string
	// outside is a place that its symlinks point to.
	outside string
	number  func(n int) int
}

// path is a name in the tree, possibly of nothing, never reached through one of
// the symlinks that lead out: what is there is to stay as it is.
func (s service) path() string {
	p := s.top
	for range 1 + s.number(3) {
		p = filepath.Join(p, string(rune('a'+s.number(4))))
		if info, err := os.Lstat(p); err != nil || !info.IsDir() {
			break
		}
	}
	return p
}

// act does one thing.
func (s service) act() {
	path, other := s.path(), s.path()
	switch s.number(16) {
	case 0, 1:
		s.write(path)
	case 2, 3, 4:
		_ = os.Mkdir(path, 0o755)
	case 5:
		_ = os.RemoveAll(path)
	case 6:
		_ = os.Rename(path, other)
	case 7:
		_ = unix.Renameat2(unix.AT_FDCWD, path, unix.AT_FDCWD, other, unix.RENAME_EXCHANGE)
	case 8:
		_ = os.Link(path, other)
	case 9:
		_ = os.Symlink(s.outside, path)
	case 10:
		_ = unix.Fchmodat(unix.AT_FDCWD, path, uint32(s.number(0o10000)), unix.AT_SYMLINK_NOFOLLOW)
	case 11:
		_ = os.Lchown(path, s.number(3), s.number(3))
	case 12:
		_ = unix.Lsetxattr(path, fmt.Sprintf("trusted.%d", s.number(2)), []byte{byte(s.number(3))}, 0)
	case 13:
		s.patch(path)
	case 14:
		// Times of long ago, the same for all.
		when := []unix.Timespec{{Sec: 1e9}, {Sec: 1e9}}
		_ = unix.UtimesNanoAt(unix.AT_FDCWD, path, when, unix.AT_SYMLINK_NOFOLLOW)
	case 15:
		_ = unix.Mknod(path, uint32(unix.S_IFIFO+0o600), 0)
	}
}

// write writes a file anew. It does not wait for anybody at a fifo.
func (s service) write(path string) {
	const flags = os.O_WRONLY | os.O_CREATE | os.O_TRUNC | unix.O_NOFOLLOW | unix.O_NONBLOCK
	f, err := os.OpenFile(path, flags, 0o644)
	if err != nil {
		return
	}
	_, _ = f.WriteString(strings.Repeat(string(rune('A'+s.number(26))), s.number(3)*5000))
	_ = f.Close()
}

// patch changes bytes of a file, or makes it longer or shorter.
func (s service) patch(path string) {
	f, err := os.OpenFile(path, os.O_WRONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return
	}
	defer f.Close() //nolint:errcheck // It may do what it likes.
	switch s.number(3) {
	case 0:
		_, _ = f.WriteAt([]byte{byte(s.number(256))}, int64(s.number(12000)))
	case 1:
		_ = f.Truncate(int64(s.number(200_000)))
	case 2:
		_, _ = f.WriteAt([]byte("far"), int64(s.number(1<<20)))
	}
}

// TestRandomTreesAndChanges compares source and copy in full after random
// changes between the passes.
func TestRandomTreesAndChanges(t *testing.T) {
	t.Parallel()
	needRoot(t)
	for kind, dir := range map[string]string{"disk": t.TempDir(), "tmpfs": tmpfs(t)} {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			rapid.Check(t, func(rt *rapid.T) {
				src, err := os.MkdirTemp(dir, "data")
				must(rt, err)
				dst := src + ".copy"
				defer os.RemoveAll(src) //nolint:errcheck // The test's directory goes anyway.
				defer os.RemoveAll(dst) //nolint:errcheck // The test's directory goes anyway.
				draw := func(n int) int { return rapid.IntRange(0, n-1).Draw(rt, "n") }
				s := service{top: src, outside: t.TempDir(), number: draw}
				for range 5 + draw(60) {
					s.act()
				}
				settle(t)
				pass, err := snapdata.First(t.Context(), src, dst, snapdata.Options{})
				must(rt, err)
				if draw(2) == 0 {
					settle(t)
				}
				for range draw(30) {
					s.act()
				}
				pass = stored(rt, pass, draw(3))
				_, err = pass.Second(t.Context(), snapdata.Options{})
				must(rt, err)
				same(rt, src, dst)
			})
		})
	}
}

// stored is what becomes of a Pass between the passes: it is kept, stored and
// read, or lost.
func stored(t *rapid.T, pass *snapdata.Pass, fate int) *snapdata.Pass {
	t.Helper()
	switch fate {
	case 1:
		b, err := json.Marshal(pass)
		must(t, err)
		read := &snapdata.Pass{}
		must(t, json.Unmarshal(b, read))
		return read
	case 2:
		return snapdata.Resume(pass.Src, pass.Dst)
	default:
		return pass
	}
}

// TestServiceRunsDuringTheFirstPass changes the tree all the time while it is
// copied, also by putting symlinks that lead out where directories were. The
// second pass, when the service has stopped, makes it right, and nothing from
// outside was read or changed.
func TestServiceRunsDuringTheFirstPass(t *testing.T) {
	t.Parallel()
	needRoot(t)
	for kind, dir := range map[string]string{"disk": t.TempDir(), "tmpfs": tmpfs(t)} {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			outside := t.TempDir()
			for _, name := range []string{"a", "b", "c", "d"} {
				must(t, os.MkdirAll(filepath.Join(outside, name), 0o755))
				write(t, filepath.Join(outside, name, "a"), "secret "+kind)
			}
			before := scan(t, outside)
			deadline := time.Now().Add(3 * time.Second)
			rounds := 0
			for ; time.Now().Before(deadline); rounds++ {
				attacked(t, dir, outside, uint64(rounds))
			}
			t.Logf("%d rounds", rounds)
			if diff := cmp.Diff(before, scan(t, outside)); diff != "" {
				t.Errorf("what is outside was changed (-before +after):\n%s", diff)
			}
		})
	}
}

// attacked copies a tree once while a service changes it.
func attacked(t *testing.T, dir, outside string, seed uint64) {
	t.Helper()
	src, err := os.MkdirTemp(dir, "data")
	must(t, err)
	dst := src + ".copy"
	random := rand.New(rand.NewPCG(seed, 1)) //nolint:gosec // Repeatable.
	s := service{top: src, outside: outside, number: random.IntN}
	for range 300 {
		s.act()
	}
	var wg sync.WaitGroup
	stop := make(chan struct{})
	wg.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
				s.act()
			}
		}
	})
	pass, err := snapdata.First(t.Context(), src, dst, snapdata.Options{})
	close(stop)
	wg.Wait()
	must(t, err)
	secret, err := digest(filepath.Join(outside, "a/a"))
	must(t, err)
	for name, n := range scan(t, dst) {
		if n.Digest == secret {
			t.Errorf("%s was copied from outside", name)
		}
	}
	_, err = pass.Second(t.Context(), snapdata.Options{})
	must(t, err)
	same(t, src, dst)
	must(t, snapdata.Remove(t.Context(), src), snapdata.Remove(t.Context(), dst))
}
