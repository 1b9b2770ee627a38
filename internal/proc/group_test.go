package proc

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

func TestHierarchy(t *testing.T) {
	t.Parallel()
	h := hierarchy(t)
	if again, err := OpenHierarchy(filepath.Base(h.Path())); err != nil || again.Path() != h.Path() {
		t.Errorf("opened again: %v, %v", again, err)
	}
	g := create(t, h, "virt/virtd.3")
	create(t, h, "virt/virtd.4")
	create(t, h, "hello/hello.1")
	if _, err := h.Create("virt/virtd.3"); !errors.Is(err, fs.ErrExist) {
		t.Errorf("created twice: %v", err)
	}
	for _, name := range []string{"", ".", "..", "/x", "a/../../b"} {
		if _, err := h.Create(name); !errors.Is(err, fs.ErrInvalid) {
			t.Errorf("create %q: %v", name, err)
		}
		if _, err := OpenHierarchy(name + "/"); !errors.Is(err, fs.ErrInvalid) {
			t.Errorf("open hierarchy %q: %v", name+"/", err)
		}
	}
	groups, err := h.Groups()
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, group := range groups {
		rel, below := group.Rel(h)
		if !below {
			t.Errorf("%s is not below", group.Path())
		}
		names = append(names, rel)
	}
	for _, parent := range []string{"virt", "hello"} {
		at := slices.Index(names, parent)
		if slices.ContainsFunc(names[max(at, 0):], func(name string) bool { return strings.HasPrefix(name, parent+"/") }) {
			t.Errorf("%v has %s before what is below it", names, parent)
		}
	}
	if _, below := GroupAt("/sys").Rel(h); len(names) != 5 || below || g.IsZero() {
		t.Errorf("groups: %v", names)
	}
	if of, err := h.GroupOf(born(t, g, "exec sleep 1000").Process().PID); err != nil || of != g {
		t.Errorf("group of a process: %v, %v", of, err)
	}
}

func TestFindCgroup2(t *testing.T) {
	t.Parallel()
	for text, want := range map[string][2]string{
		"31 23 0:28 / /sys/fs/cgroup rw - cgroup2 none rw\n":                                                             {"/sys/fs/cgroup", "/"},
		"31 23 0:28 / /sys/fs/cgroup rw - tmpfs none rw\n41 31 0:38 /a /sys/fs/cg\\040x rw shared:3 - cgroup2 none rw\n": {"/sys/fs/cg x", "/a"},
		"31 23 0:28 / /sys/fs/cgroup rw - cgroup none rw\nbroken - cgroup2\n":                                            {},
	} {
		mount, root, found := findCgroup2(text)
		if mount != want[0] || root != want[1] || found != (mount != "") {
			t.Errorf("%q: %q, %q, %v", text, mount, root, found)
		}
	}
}

func TestProcesses(t *testing.T) {
	t.Parallel()
	h := hierarchy(t)
	g := create(t, h, "unit.1")
	inner, err := h.Create("unit.1/own/deeper")
	if err != nil {
		t.Fatal(err)
	}
	main := born(t, g, "exec sleep 1000 && 'an argument'")
	foreign := born(t, inner, "exec sleep 2000")
	infos := awaitArgs(t, g, 2, "sleep")
	got := make(map[int]string)
	for _, info := range infos {
		got[info.PID] = fmt.Sprintf("%s %v %q %c", info.CommandLine(), info.Foreign, info.Group, info.State)
		if info.PPID != os.Getpid() || info.Comm != "sleep" {
			t.Errorf("%+v", info)
		}
	}
	want := map[int]string{
		main.Process().PID:    `sleep 1000 false "" S`,
		foreign.Process().PID: `sleep 2000 true "own/deeper" S`,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("-want +got\n%s", diff)
	}
	if err := g.Remove(); !errors.Is(err, ErrPopulated) {
		t.Errorf("remove with processes: %v", err)
	}
	other := create(t, h, "other.1")
	if err := other.Move(main.Process().PID); err != nil {
		t.Error(err)
	}
	if infos, err := other.Processes(); err != nil || len(infos) != 1 || infos[0].Process != main.Process() {
		t.Errorf("moved: %+v, %v", infos, err)
	}
	if infos, err := g.Processes(); err != nil || len(infos) != 1 || !infos[0].Foreign {
		t.Errorf("left: %+v, %v", infos, err)
	}
}

// awaitArgs freezes the group to look at it, until n processes have executed name.
func awaitArgs(t *testing.T, g Group, n int, name string) []Info {
	t.Helper()
	for ctx := within(t); ; {
		infos, err := g.Processes()
		if err = errors.Join(err, ctx.Err()); err != nil {
			t.Fatal(err)
		}
		if count(infos, name) == n {
			return infos
		}
	}
}

func count(infos []Info, name string) (n int) {
	for _, info := range infos {
		if len(info.Args) > 0 && info.Args[0] == name && info.State == 'S' {
			n++
		}
	}
	return n
}

// TestFreezeSeesEverything lists a group that forks as fast as it can: frozen,
// two readings are the same, and what is listed is all that there is.
func TestFreezeSeesEverything(t *testing.T) {
	t.Parallel()
	g := create(t, hierarchy(t), "forking")
	for range 3 {
		born(t, g, "while :; do /bin/true & done")
	}
	for range 10 {
		if _, err := g.Processes(); err != nil {
			t.Fatal(err)
		}
		if err := g.Freeze(within(t)); err != nil {
			t.Fatal(err)
		}
		if frozen, err := g.Frozen(); err != nil || !frozen {
			t.Fatalf("frozen %v, %v", frozen, err)
		}
		first, err := g.Processes()
		if err != nil {
			t.Fatal(err)
		}
		second, err := g.Processes()
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(pids(first), pids(second)); diff != "" || len(first) < 3 {
			t.Fatalf("frozen, and still\n%s", diff)
		}
		text, err := g.read("cgroup.procs")
		if err != nil || len(strings.Fields(string(text))) != len(first) {
			t.Fatalf("%d processes listed, %q, %v", len(first), text, err)
		}
		if err := g.Thaw(); err != nil {
			t.Fatal(err)
		}
	}
	if err := g.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := g.AwaitEmpty(within(t)); err != nil {
		t.Fatal(err)
	}
	if err := g.Remove(); err != nil {
		t.Error(err)
	}
}

func pids(infos []Info) map[int]uint64 {
	found := make(map[int]uint64)
	for _, info := range infos {
		found[info.PID] = info.Start
	}
	return found
}

// TestFreezeGivesUp freezes with a context that is done. What was told to stand
// still runs again.
func TestFreezeGivesUp(t *testing.T) {
	t.Parallel()
	g := create(t, hierarchy(t), "g")
	born(t, g, "exec sleep 1000")
	ctx, cancel := context.WithCancelCause(t.Context())
	cause := errors.New("too long")
	cancel(cause)
	err := g.Freeze(ctx)
	if err == nil {
		// It stood still at once: then that is what counts.
		err = g.Thaw()
	} else if !errors.Is(err, cause) {
		t.Errorf("freeze: %v", err)
	}
	if text, readErr := g.read("cgroup.freeze"); err == nil && (readErr != nil || string(text) != "0") {
		t.Errorf("cgroup.freeze is %q, %v", text, readErr)
	}
}

// TestThawOpensNothing lets a group go on whose files nobody could open any more.
func TestThawOpensNothing(t *testing.T) {
	t.Parallel()
	g := create(t, hierarchy(t), "held")
	born(t, g, "exec sleep 1000")
	hold, err := g.Hold(within(t))
	if err != nil {
		t.Fatal(err)
	}
	if frozen, err := g.Frozen(); err != nil || !frozen {
		t.Errorf("frozen %v, %v", frozen, err)
	}
	hold.group = GroupAt("/missing")
	if err := hold.Thaw(); err != nil {
		t.Error(err)
	}
	if err := g.await(within(t), "frozen", false, nil); err != nil {
		t.Errorf("it still stands still: %v", err)
	}
}

func TestEmptyGroup(t *testing.T) {
	t.Parallel()
	g := create(t, hierarchy(t), "empty")
	if populated, err := g.Populated(); err != nil || populated {
		t.Errorf("populated %v, %v", populated, err)
	}
	if err := errors.Join(g.AwaitEmpty(within(t)), g.Freeze(within(t)), g.Thaw()); err != nil {
		t.Error(err)
	}
	if infos, err := g.Processes(); err != nil || len(infos) != 0 {
		t.Errorf("%v, %v", infos, err)
	}
}

func TestRemovedGroup(t *testing.T) {
	t.Parallel()
	h := hierarchy(t)
	g := create(t, h, "a/b")
	dir, err := g.Open()
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	create(t, h, "a/b/c")
	if err := errors.Join(g.Remove(), g.Remove()); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(g.Kill(), g.Thaw(), g.AwaitEmpty(within(t))); err != nil {
		t.Error(err)
	}
	if populated, err := g.Populated(); err != nil || populated {
		t.Errorf("populated %v, %v", populated, err)
	}
	if infos, err := g.Processes(); err != nil || len(infos) != 0 {
		t.Errorf("processes %v, %v", infos, err)
	}
	_, openErr := g.Open()
	_, attrErr := g.Attr("x")
	for name, err := range map[string]error{
		"open": openErr, "attr": attrErr, "set": g.SetAttr("x", nil),
		"freeze": g.Freeze(within(t)), "move": g.Move(os.Getpid()),
	} {
		if !errors.Is(err, ErrNoGroup) {
			t.Errorf("%s: %v", name, err)
		}
	}
	// A file that was open when its group went.
	if err := goneGroup(&fs.PathError{Err: unix.ENODEV}); !errors.Is(err, ErrNoGroup) {
		t.Error(err)
	}
}

func TestMoveGone(t *testing.T) {
	t.Parallel()
	g := create(t, hierarchy(t), "g")
	child := born(t, g, "exit 0")
	if _, err := child.Wait(within(t)); err != nil {
		t.Fatal(err)
	}
	if err := g.Move(child.Process().PID); !errors.Is(err, ErrGone) {
		t.Error(err)
	}
}

func TestAttributes(t *testing.T) {
	t.Parallel()
	g := create(t, hierarchy(t), "g")
	if _, err := g.Attr("spec"); !errors.Is(err, ErrNoAttr) {
		t.Errorf("never set: %v", err)
	}
	large := strings.Repeat("x", 60_000)
	for _, value := range []string{"", "one", large, "two"} {
		if err := g.SetAttr("spec", []byte(value)); err != nil {
			t.Fatal(err)
		}
		if got, err := g.Attr("spec"); err != nil || string(got) != value {
			t.Errorf("%d bytes, %v, want %d", len(got), err, len(value))
		}
	}
	if err := errors.Join(g.RemoveAttr("spec"), g.RemoveAttr("spec")); err != nil {
		t.Error(err)
	}
	if _, err := g.Attr("spec"); !errors.Is(err, ErrNoAttr) {
		t.Errorf("removed: %v", err)
	}
}

// TestWatch hears of the last end in a group, of what is populated and empty
// again, and nothing more when it is closed.
func TestWatch(t *testing.T) {
	t.Parallel()
	h := hierarchy(t)
	ctx, cancel := context.WithCancel(t.Context())
	w, err := h.Watch(ctx)
	if err != nil {
		t.Fatal(err)
	}
	g, other := create(t, h, "g"), create(t, h, "other")
	first, firstErr := w.Add(g)
	second, secondErr := w.Add(g)
	idle, idleErr := w.Add(other)
	if err := errors.Join(firstErr, secondErr, idleErr); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Add(GroupAt(h.Path() + "/none")); !errors.Is(err, ErrNoGroup) {
		t.Errorf("watch nothing: %v", err)
	}
	<-idle.C()
	for range 3 {
		child := born(t, g, "exec sleep 1000")
		until(t, g, first, true)
		until(t, g, second, true)
		if err := child.Signal(syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		until(t, g, first, false)
		until(t, g, second, false)
	}
	first.Close()
	first.Close()
	if _, open := <-first.C(); open {
		<-first.C()
	}
	born(t, g, "exit 0")
	until(t, g, second, false)
	select {
	case <-idle.C():
		t.Error("an event for a group in which nothing was")
	default:
	}
	cancel()
	<-w.Done()
	for range second.C() { //nolint:revive // It ends.
	}
	for range idle.C() { //nolint:revive // It ends.
	}
	if _, err := w.Add(g); !errors.Is(err, fs.ErrClosed) {
		t.Errorf("add after the end: %v", err)
	}
	second.Close()
}

// until takes events until the group is populated or not.
func until(t *testing.T, g Group, w *Watch, want bool) {
	t.Helper()
	for ctx := within(t); ; {
		populated, err := g.Populated()
		if err != nil {
			t.Fatal(err)
		}
		if populated == want {
			return
		}
		select {
		case <-w.C():
		case <-ctx.Done():
			t.Fatalf("no event for populated=%v", want)
		}
	}
}

// TestWatchOfRemovedGroup wakes whoever waits for a group that somebody removes.
func TestWatchOfRemovedGroup(t *testing.T) {
	t.Parallel()
	h := hierarchy(t)
	w, err := h.Watch(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	g := create(t, h, "g")
	watch, err := w.Add(g)
	if err != nil {
		t.Fatal(err)
	}
	<-watch.C()
	if err := g.Remove(); err != nil {
		t.Fatal(err)
	}
	select {
	case <-watch.C():
	case <-within(t).Done():
		t.Error("no event when the group was removed")
	}
	watch.Close()
	if len(w.watches) > 0 {
		t.Errorf("watches are left: %v", w.watches)
	}
}

// TestAwaitRemovedGroup waits for what cannot come any more.
func TestAwaitRemovedGroup(t *testing.T) {
	t.Parallel()
	g := create(t, hierarchy(t), "g")
	waiting := make(chan error)
	go func() { waiting <- g.await(within(t), "populated", true, g.Remove) }()
	if err := <-waiting; !errors.Is(err, ErrNoGroup) {
		t.Error(err)
	}
}

// TestManyHandlesTakeNoThread waits for many processes at once.
//
//nolint:paralleltest // It counts the threads of the process.
func TestManyHandlesTakeNoThread(t *testing.T) {
	g := create(t, hierarchy(t), "many")
	threads := func() int {
		entries, err := os.ReadDir("/proc/self/task")
		if err != nil {
			t.Fatal(err)
		}
		return len(entries)
	}
	before := threads()
	exits := make(chan error)
	const n = 100
	for range n {
		child := born(t, g, "exec sleep 1000")
		go func() {
			exit, err := child.Wait(within(t))
			if err == nil && exit.Signal != "SIGKILL" {
				err = errors.New(exit.String())
			}
			exits <- err
		}()
	}
	if after := threads(); after > before+20 {
		t.Errorf("%d threads, %d before", after, before)
	}
	if err := g.Kill(); err != nil {
		t.Fatal(err)
	}
	for range n {
		if err := <-exits; err != nil {
			t.Error(err)
		}
	}
}

func TestParseStat(t *testing.T) {
	t.Parallel()
	tail := strings.Repeat(" 0", 17)
	good := "12 (a) b (c) S 1" + tail + " 4711" + strings.Repeat(" 0", 29) + " 9"
	got, err := parseStat(good)
	want := stat{comm: "a) b (c", state: 'S', ppid: 1, start: 4711, exitCode: 9, hasExit: true}
	if err != nil || got != want {
		t.Errorf("got %+v, %v, want %+v", got, err, want)
	}
	for _, bad := range []string{"", "12", ")(", "12 (a) S", "12 (a) SS 1" + tail + " 1", "12 (a) S x" + tail + " 1", "12 (a) S 1" + tail + " x"} {
		if got, err := parseStat(bad); err == nil {
			t.Errorf("%q: %+v", bad, got)
		}
	}
}

func FuzzParseStat(f *testing.F) {
	f.Add("12 (sh) S 1" + strings.Repeat(" 0", 17) + " 4711")
	f.Fuzz(func(_ *testing.T, line string) { _, _ = parseStat(line) })
}

func TestCommandLine(t *testing.T) {
	t.Parallel()
	for raw, want := range map[string]string{
		"":                       "[name]",
		"\x00\x00":               "[name]",
		"qemu\x00-m\x001\x00":    "qemu -m 1",
		"a\x00\x00b\x00":         "a  b",
		"title: set\x00\x00\x00": "title: set",
	} {
		if got := (Info{Args: splitArgs([]byte(raw)), Comm: "name"}).CommandLine(); got != want {
			t.Errorf("%q: %q, want %q", raw, got, want)
		}
	}
}

func TestBootID(t *testing.T) {
	t.Parallel()
	first, err := BootID()
	second, again := BootID()
	if err := errors.Join(err, again); err != nil || first != second || len(first) != 36 {
		t.Errorf("%q, %q, %v", first, second, err)
	}
}

func TestReadGone(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("/proc/sys/kernel/pid_max")
	if err != nil {
		t.Fatal(err)
	}
	limit, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Read(limit + 1); !errors.Is(err, ErrGone) {
		t.Error(err)
	}
}
