package test

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"

	"tenure"
	"tenure/internal/proc"
	"tenure/test/rig"
)

const (
	server = "postgres.server"
	// between is how much each writer commits on each server, at least.
	between = 5
)

// What PostgreSQL writes when it starts after a clean shutdown, when it starts
// after any other end, and of a process that was sent SIGKILL. killed makes it
// write them all, so that not reading them means something.
const (
	wordsClean    = "database system was shut down at "
	wordsUnclean  = "database system was not properly shut down"
	wordsRecovery = "automatic recovery in progress"
	wordsKilled   = "was terminated by signal 9"
)

// TestPostgresLosesNothing is case 4: a database is refreshed and reverted under
// a writing load, also to packages whose server cannot start. Then it is killed,
// as a test of the test.
func TestPostgresLosesNothing(t *testing.T) {
	t.Parallel()
	i := rig.New(t, rig.Config{})
	files := []string{snap(t, "postgres", "1"), snap(t, "postgres", "2")}
	i.Tenure("install", "--dangerous", snap(t, "debian12", "1"), files[0])
	if err := os.WriteFile(i.Path("var/snap/postgres/x1/note"), []byte("kept"), 0o600); err != nil {
		t.Fatal(err)
	}
	load := startLoad(t, i.Common("postgres"))
	servers := 1

	for n := range often(20, 8) {
		load.await(t, between)
		old := hold(t, i.Main(server))
		if n%4 == 3 {
			i.Tenure("revert", "postgres")
		} else {
			i.Tenure("refresh", "--dangerous", files[(n+1)%2])
		}
		servers++
		if exit := ending(t, old); !exit.Success() {
			t.Errorf("refresh %d: the server before it: %v, want a clean end", n, exit)
		}
	}
	for version, words := range map[string]string{
		"broken-config":  `could not access file "no_such_library"`,
		"broken-library": "libicuuc.so.72: cannot open shared object file",
	} {
		load.await(t, between)
		refreshBroken(t, i, version, words)
		servers++
	}
	load.await(t, between)
	load.check(t)
	if note, err := os.ReadFile(i.Path("var/snap/postgres/current/note")); err != nil || string(note) != "kept" {
		t.Errorf("the data of the revision: %q, %v", note, err)
	}

	log := i.Tenure("logs", "-n", "all", server)
	if got := strings.Count(log, wordsClean); got != servers {
		t.Errorf("%d of %d servers found a clean shutdown", got, servers)
	}
	for _, words := range []string{wordsUnclean, wordsRecovery, wordsKilled} {
		if strings.Contains(log, words) {
			t.Errorf("the server wrote %q", words)
		}
	}
	if t.Failed() {
		t.Logf("the servers wrote:\n%s", log)
	}
	killed(t, i, load)
}

// refreshBroken refreshes to a version whose server cannot start: that is said in
// the server's own words, and leaves what was there before.
func refreshBroken(t *testing.T, i *rig.Instance, version, words string) {
	t.Helper()
	file := snap(t, "postgres", version)
	before := stateOf(t, i, "postgres")
	old := hold(t, i.Main(server))
	result := i.Try("refresh", "--dangerous", file)
	if result.Status == 0 || !strings.Contains(result.Stderr, "start "+server) || !strings.Contains(result.Stderr, words) {
		t.Errorf("refresh to %s: exit status %d, want an error with %q:\n%s%s", version, result.Status, words, result.Stdout, result.Stderr)
	}
	if exit := ending(t, old); !exit.Success() {
		t.Errorf("refresh to %s: the server before it: %v, want a clean end", version, exit)
	}
	if diff := cmp.Diff(before, stateOf(t, i, "postgres")); diff != "" {
		t.Errorf("after a refresh to %s (-before +after):\n%s", version, diff)
	}
}

// killed is what all that was not seen before looks like: first a backend is
// killed, then the whole server, and each time the others recover. Nothing that was
// acknowledged is lost even then.
func killed(t *testing.T, i *rig.Instance, load *load) {
	t.Helper()
	for _, victim := range []func() tenure.Process{
		func() tenure.Process { return process(t, i, load.backend()) },
		func() tenure.Process { return i.Main(server) },
	} {
		old := hold(t, victim())
		if err := old.Signal(syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		if exit := ending(t, old); exit.Signal != "SIGKILL" {
			t.Errorf("%v: %v, want that it was killed", old.Process(), exit)
		}
		load.await(t, between)
	}
	load.check(t)
	log := i.Tenure("logs", "-n", "all", server)
	for words, want := range map[string]int{wordsKilled: 1, wordsUnclean: 2, wordsRecovery: 2} {
		if got := strings.Count(log, words); got != want {
			t.Errorf("after two kills the servers wrote %q %d times, want %d:\n%s", words, got, want, log)
		}
	}
}

// hold takes hold of a process, to learn how it ends.
func hold(t *testing.T, process tenure.Process) *proc.Handle {
	t.Helper()
	handle, err := proc.Open(process)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(handle.Close)
	return handle
}

// ending waits for the end of a process.
func ending(t *testing.T, handle *proc.Handle) proc.Exit {
	t.Helper()
	exit, err := handle.Wait(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return exit
}

// state is what a refresh that failed must leave as it was.
type state struct {
	List    string
	Current map[string]string
	Units   map[string]string
	// Trees are the names, modes and owners of what the snap has outside its common
	// data, of its files, and its mounts.
	Trees  []string
	Mounts []string
}

// stateOf is the state of one snap that is installed.
func stateOf(t *testing.T, i *rig.Instance, name string) state {
	t.Helper()
	s := state{
		List:    i.Tenure("list", "--all"),
		Current: map[string]string{}, Units: map[string]string{}, Mounts: rig.Mounts(i.Root),
	}
	for _, dir := range []string{i.Path("snap", name), i.Path("var/snap", name)} {
		target, err := os.Readlink(filepath.Join(dir, "current"))
		if err != nil {
			t.Fatal(err)
		}
		s.Current[dir] = target
	}
	for id, unit := range i.Units() {
		s.Units[id] = unit.Revision + " " + unit.State
	}
	for _, pattern := range []string{"var/lib/tenure/snaps/*", "snap/*/*", "snap/bin/*", "var/snap/*/*", "var/snap/*/x*/*"} {
		found, err := filepath.Glob(i.Path(pattern))
		if err != nil {
			t.Fatal(err)
		}
		for _, path := range found {
			info, err := os.Lstat(path)
			if err != nil {
				t.Fatal(err)
			}
			owner, ok := info.Sys().(*syscall.Stat_t)
			if !ok {
				t.Fatalf("no owner of %s", path)
			}
			if info.Mode().Type() == fs.ModeSymlink {
				owner.Ino = 0 // A link is made anew.
			}
			s.Trees = append(s.Trees, fmt.Sprintf("%s %v %d:%d inode %d", path, info.Mode(), owner.Uid, owner.Gid, owner.Ino))
		}
	}
	return s
}

// process is the process of a unit that has a pid.
func process(t *testing.T, i *rig.Instance, pid int) tenure.Process {
	t.Helper()
	for _, unit := range i.Units() {
		for _, p := range unit.Processes {
			if p.PID == pid {
				return tenure.Process{PID: p.PID, Start: p.Start}
			}
		}
	}
	t.Fatalf("no unit has the process %d", pid)
	return tenure.Process{}
}
