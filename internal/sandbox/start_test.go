package sandbox

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

// status reads fields of /proc/PID/status.
func status(t *testing.T, pid int, names ...string) map[string]string {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	found := make(map[string]string)
	for line := range strings.Lines(string(text)) {
		name, value, _ := strings.Cut(line, ":")
		for _, want := range names {
			if name == want {
				found[name] = strings.Join(strings.Fields(value), " ")
			}
		}
	}
	return found
}

func TestRights(t *testing.T) {
	t.Parallel()
	needRoot(t)
	const none, chownAndKill = "0000000000000000", "0000000000000021"
	own := status(t, os.Getpid(), "CapBnd")["CapBnd"]
	for _, test := range []struct {
		name    string
		profile Profile
		want    map[string]string
	}{
		{"root, some", Profile{KeepCapabilities: []string{"CAP_CHOWN", "CAP_KILL"}, NoNewPrivs: true}, map[string]string{
			"CapInh": none, "CapPrm": chownAndKill, "CapEff": chownAndKill, "CapBnd": chownAndKill, "CapAmb": none,
			"NoNewPrivs": "1", "Uid": "0 0 0 0", "Gid": "0 0 0 0", "Groups": "", "SigIgn": none, "SigBlk": none,
		}},
		{"root, none", Profile{}, map[string]string{
			"CapPrm": none, "CapEff": none, "CapBnd": none, "NoNewPrivs": "0",
		}},
		{"root, all", Profile{AllCapabilities: true}, map[string]string{
			"CapPrm": own, "CapEff": own, "CapBnd": own, "CapAmb": none,
		}},
		{"user", Profile{KeepCapabilities: []string{"CAP_CHOWN", "CAP_KILL"}, UID: 4711, GID: 4712, Groups: []uint32{5, 6}}, map[string]string{
			"CapInh": none, "CapPrm": none, "CapEff": none, "CapBnd": chownAndKill, "CapAmb": none,
			"Uid": "4711 4711 4711 4711", "Gid": "4712 4712 4712 4712", "Groups": "5 6",
		}},
		{"user, all", Profile{AllCapabilities: true, NoNewPrivs: true, UID: 4711, GID: 4712}, map[string]string{
			"CapPrm": none, "CapEff": none, "CapBnd": own, "CapAmb": none, "NoNewPrivs": "1", "Groups": "",
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			u := spawn(t, test.profile, nil)
			u.do(t, ":") // It has been executed.
			names := make([]string, 0, len(test.want))
			for name := range test.want {
				names = append(names, name)
			}
			if diff := cmp.Diff(test.want, status(t, u.pid, names...)); diff != "" {
				t.Errorf("-want +got\n%s", diff)
			}
		})
	}
}

func TestRightsInBase(t *testing.T) {
	t.Parallel()
	p := base(t, nil)
	p.AllCapabilities, p.NoNewPrivs = false, true
	p.KeepCapabilities = DefaultCapabilities([]string{"network-control"})
	u := spawn(t, p, nil)
	equal(t, "mount", u.do(t, "mount -t tmpfs x /etc 2>/dev/null && echo done"), "")
	equal(t, "remount", u.do(t, "mount -o remount,rw / 2>/dev/null && echo done"), "")
	equal(t, "unmount", u.do(t, "umount /proc/sys 2>/dev/null && echo done"), "")
	set, err := parseCapabilities(p.KeepCapabilities)
	if err != nil || !set.has(unix.CAP_NET_ADMIN) || set.has(unix.CAP_SYS_ADMIN) {
		t.Errorf("got %x, %v", set, err)
	}
	equal(t, "effective", status(t, u.pid, "CapEff")["CapEff"], fmt.Sprintf("%016x", uint64(set)))
}

func TestProcessAttributes(t *testing.T) {
	t.Parallel()
	extra, extraWrite, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer extra.Close()
	p := base(t, nil)
	u := spawn(t, p, func(e *Exec) {
		e.Dir, e.Umask, e.Env = "/etc", 0o027, append(e.Env, "A=b c")
		e.Files = append(e.Files, nil, extraWrite)
	})
	_ = extraWrite.Close()
	equal(t, "directory", u.do(t, "pwd"), "/etc")
	equal(t, "umask", u.do(t, "umask"), "0027")
	equal(t, "environment", u.do(t, "echo $A"), "b c")
	equal(t, "session", u.do(t, "cut -d' ' -f6 /proc/$$/stat"), strconv.Itoa(u.pid))
	// Beside what the one who runs the tests has left open for everybody.
	equal(t, "descriptors", u.do(t, "for fd in 0 1 2 3 4 5 6 7 8 9; do [ -e /proc/$$/fd/$fd ] && echo $fd; done"), "0\n1\n2\n4")
	u.do(t, "echo through >&4; exec 4>&-")
	text, err := io.ReadAll(extra)
	if err != nil || string(text) != "through\n" {
		t.Errorf("descriptor 4: %q, %v", text, err)
	}
}

func TestDefaultUmask(t *testing.T) {
	t.Parallel()
	equal(t, "umask", output(t, base(t, nil), "umask"), "0022")
}

// cgroup makes a control group for the test.
func cgroup(t *testing.T) *os.File {
	t.Helper()
	needRoot(t)
	mounts, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(mounts)) {
		fields := strings.Fields(line)
		if fields[2] != "cgroup2" {
			continue
		}
		path := filepath.Join(fields[1], "tenure-sandbox-test-"+strconv.Itoa(os.Getpid())+"-"+t.Name())
		if err := os.Mkdir(path, 0o755); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := os.Remove(path); err != nil {
				t.Errorf("clean up: %v", err)
			}
		})
		dir, err := os.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = dir.Close() })
		return dir
	}
	t.Fatal("no cgroup2 file system")
	return nil
}

func TestBornInGroup(t *testing.T) {
	t.Parallel()
	group := cgroup(t)
	p := base(t, nil)
	p.UID, p.GID = 4711, 4711
	u := spawn(t, p, func(e *Exec) { e.Group = group })
	equal(t, "group", u.do(t, "grep ^0:: /proc/self/cgroup | grep -o '[^/]*$'"), filepath.Base(group.Name()))
	equal(t, "members", u.do(t, "cut -d' ' -f1 /proc/$$/stat"), strconv.Itoa(u.pid))
}

func TestFrozenGroupIsRefused(t *testing.T) {
	t.Parallel()
	group := cgroup(t)
	if err := os.WriteFile(filepath.Join(group.Name(), "cgroup.freeze"), []byte("1"), 0); err != nil {
		t.Fatal(err)
	}
	if err := startError(t, Profile{}, Exec{Group: group}); !errors.Is(err, ErrFrozen) {
		t.Error(err)
	}
}

func TestCancelled(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancelCause(t.Context())
	cause := errors.New("no more")
	cancel(cause)
	if _, _, err := Start(ctx, Profile{}, Exec{Argv: []string{"/bin/true"}}); !errors.Is(err, cause) {
		t.Error(err)
	}
}

// TestCancelledMidway ends the context at every point of a start, and finds no
// child left but those that were handed out.
func TestCancelledMidway(t *testing.T) {
	t.Parallel()
	group := cgroup(t)
	p := base(t, nil)
	for i := range 40 {
		ctx, cancel := context.WithTimeout(t.Context(), time.Duration(i)*50*time.Microsecond)
		pid, pidfd, err := Start(ctx, p, Exec{Argv: []string{"/bin/sleep", "100"}, Group: group})
		cancel()
		if err == nil {
			_ = unix.Kill(pid, unix.SIGKILL)
			reap(pid, pidfd)
		}
	}
	events, err := os.Open(filepath.Join(group.Name(), "cgroup.events"))
	if err != nil {
		t.Fatal(err)
	}
	defer events.Close()
	for deadline := time.Now().Add(10 * time.Second); ; {
		text := make([]byte, 256)
		size, err := events.ReadAt(text, 0)
		if err != nil && !errors.Is(err, io.EOF) {
			t.Fatal(err)
		}
		if strings.Contains(string(text[:size]), "populated 0") {
			return
		}
		if time.Now().After(deadline) {
			t.Fatal("a process is left in the group")
		}
		_, _ = unix.Poll([]unix.PollFd{{Fd: int32(events.Fd()), Events: unix.POLLPRI}}, 100)
	}
}

func TestConcurrent(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	p := base(t, nil).with(Mount{Kind: Bind, Source: dir, Target: "/var/data"})
	var wait sync.WaitGroup
	for range 8 {
		wait.Go(func() {
			for range 10 {
				pid, pidfd, err := Start(t.Context(), p, Exec{Argv: []string{"/bin/sh", "-c", `test "$(cat /etc/base-file)" = "of the base" && echo x >> /var/data/log`}})
				if err != nil {
					t.Error(err)
					return
				}
				if status := reap(pid, pidfd); status.ExitStatus() != 0 {
					t.Errorf("exit status %d", status.ExitStatus())
				}
			}
		})
	}
	wait.Wait()
	if text, err := os.ReadFile(dir + "/log"); err != nil || len(text) != 160 {
		t.Errorf("%d bytes, %v", len(text), err)
	}
}

// TestNothingIsLeft starts and fails to start a hundred times each, and finds
// the host's mounts, this process' namespace, threads and descriptors as before.
//
//nolint:paralleltest // It counts what belongs to the process.
func TestNothingIsLeft(t *testing.T) {
	p := base(t, map[string]string{"etc/other": ""}).with(
		Mount{Kind: Tmpfs, Target: "/run"}, Mount{Kind: Bind, Source: t.TempDir(), Target: "/etc/deep/er"})
	bad := p.with(Mount{Kind: Bind, Source: t.TempDir(), Target: "/etc/other"})
	run := func() {
		pid, pidfd, err := Start(t.Context(), p, Exec{Argv: []string{"/bin/true"}})
		if err != nil {
			t.Fatal(err)
		}
		if status := reap(pid, pidfd); status.ExitStatus() != 0 {
			t.Fatalf("exit status %d", status.ExitStatus())
		}
		startError(t, bad, Exec{})
		unused, err := Prepare(t.Context(), p, "/bin/true")
		if err != nil {
			t.Fatal(err)
		}
		unused.Close()
	}
	run()
	type left struct {
		Descriptors int
		Namespaces  map[string]bool
		Mounts      []string
		Dir         string
	}
	look := func() (l left, threads int) {
		descriptors, err := os.ReadDir("/proc/self/fd")
		tasks, taskErr := os.ReadDir("/proc/self/task")
		mounts, mountErr := os.ReadFile("/proc/self/mountinfo")
		dir, dirErr := os.Getwd()
		if err := errors.Join(err, taskErr, mountErr, dirErr); err != nil {
			t.Fatal(err)
		}
		l = left{Descriptors: len(descriptors), Namespaces: make(map[string]bool), Dir: dir}
		namespace, err := os.Readlink("/proc/self/ns/mnt")
		if err != nil {
			t.Fatal(err)
		}
		l.Namespaces[namespace] = true
		for line := range strings.Lines(string(mounts)) {
			if strings.Contains(line, filepath.Dir(p.Base)+"/") {
				l.Mounts = append(l.Mounts, line)
			}
		}
		return l, len(tasks)
	}
	before, threads := look()
	for range 100 {
		run()
	}
	after, threadsAfter := look()
	if diff := cmp.Diff(before, after); diff != "" {
		t.Errorf("-before +after\n%s", diff)
	}
	if threadsAfter > threads+20 {
		t.Errorf("%d threads, %d before", threadsAfter, threads)
	}
}

func TestEnter(t *testing.T) {
	t.Parallel()
	for _, way := range []string{"enter", "join"} {
		t.Run(way, func(t *testing.T) {
			t.Parallel()
			testBecoming(t, way)
		})
	}
}

// testBecoming has a process become a program in one of the two ways.
func testBecoming(t *testing.T, way string) {
	t.Helper()
	p := base(t, map[string]string{"work/": ""})
	p.AllCapabilities, p.NoNewPrivs, p.KeepCapabilities = false, true, []string{"CAP_CHOWN"}
	enter := func(p Profile, e Exec, attr *syscall.SysProcAttr) (string, int) {
		t.Helper()
		request, err := json.Marshal(map[string]any{"Profile": p, "Exec": e})
		if err != nil {
			t.Fatal(err)
		}
		cmd := exec.CommandContext(t.Context(), "/proc/self/exe", way, string(request))
		cmd.SysProcAttr, cmd.Dir = attr, p.Base+"/etc"
		text, err := cmd.CombinedOutput()
		if exit := (*exec.ExitError)(nil); err != nil && !errors.As(err, &exit) {
			t.Fatal(err)
		}
		return string(text), cmd.ProcessState.ExitCode()
	}
	script := `echo $$; pwd; cat /etc/base-file; grep -E '^(Uid|CapPrm|CapBnd|NoNewPrivs)' /proc/self/status | tr -s '\t' ' '; exit 3`
	sh := Exec{Argv: []string{"/bin/sh", "-c", script}, Env: []string{"PATH=/bin"}, Dir: "/work"}

	in := "/work"
	if way == "join" {
		in, sh.Dir = "/", "" // It stays where it is, if it can.
	}
	text, code := enter(p, sh, nil)
	pid, rest, _ := strings.Cut(text, "\n")
	want := in + "\nof the base\nUid: 0 0 0 0\nCapPrm: 0000000000000001\nCapBnd: 0000000000000001\nNoNewPrivs: 1\n"
	if _, err := strconv.Atoi(pid); err != nil || rest != want || code != 3 {
		t.Errorf("as root: %q, exit %d", text, code)
	}
	user := p
	user.UID, user.GID = 4711, 4711
	sh.Dir = ""
	text, code = enter(user, sh, nil)
	_, rest, _ = strings.Cut(text, "\n")
	want = "/\nof the base\nUid: 4711 4711 4711 4711\nCapPrm: 0000000000000000\nCapBnd: 0000000000000001\nNoNewPrivs: 1\n"
	if rest != want || code != 3 {
		t.Errorf("as another user: %q, exit %d", text, code)
	}
	text, code = enter(p, Exec{Argv: []string{"/no/such"}}, nil)
	if !strings.Contains(text, "/no/such") || code != 77 {
		t.Errorf("failing: %q, exit %d", text, code)
	}
	// A helper with a set-uid bit has a real user, who is what counts: whatever
	// the profile says.
	classic := Profile{UID: 0, AllCapabilities: true}
	text, code = enter(classic, Exec{Argv: []string{"/usr/bin/id", "-u"}}, &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 4711, Gid: 4711}})
	if text != "4711\n" || code != 0 {
		t.Errorf("as a user: %q, exit %d", text, code)
	}
}

// BenchmarkStart compares a start in a base with fork and exec alone.
func BenchmarkStart(b *testing.B) {
	p := base(b, map[string]string{"sys/": "", "run/": "", "tmp/": ""}).with(
		Mount{Kind: Sys, Target: "/sys"},
		Mount{Kind: Tmpfs, Target: "/run"}, Mount{Kind: Bind, Source: b.TempDir(), Target: "/tmp"})
	p.AllCapabilities, p.KeepCapabilities, p.NoNewPrivs = false, DefaultCapabilities(nil), true
	b.Run("forkexec", func(b *testing.B) {
		for b.Loop() {
			pid, err := syscall.ForkExec("/bin/true", []string{"true"}, &syscall.ProcAttr{})
			if err != nil {
				b.Fatal(err)
			}
			_, _ = syscall.Wait4(pid, nil, 0, nil)
		}
	})
	for name, p := range map[string]Profile{"host": {}, "base": p, "mimic": p.with(Mount{Kind: Tmpfs, Target: "/snap"})} {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				pid, pidfd, err := Start(b.Context(), p, Exec{Argv: []string{"/bin/true"}})
				if err != nil {
					b.Fatal(err)
				}
				reap(pid, pidfd)
			}
		})
	}
}
