package proc

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"strconv"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"tenure"
)

// hierarchy makes one that is gone, with all processes in it, after the test.
func hierarchy(t *testing.T) *Hierarchy {
	t.Helper()
	if os.Geteuid() != 0 && !inCI() {
		t.Skip("needs root for control groups")
	}
	h, err := OpenHierarchy("tenure-proc-test-" + strconv.Itoa(os.Getpid()) + "-" + t.Name())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), 10*time.Second)
		defer cancel()
		top := GroupAt(h.Path())
		if err := errors.Join(top.Kill(), top.AwaitEmpty(ctx), h.Remove()); err != nil {
			t.Errorf("clean up: %v", err)
		}
		if _, err := os.Stat(h.Path()); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s is still there: %v", h.Path(), err)
		}
	})
	return h
}

// inCI reports whether a test that cannot run must fail.
func inCI() bool {
	value, set := os.LookupEnv("CI")
	return set && value == "true"
}

func create(t *testing.T, h *Hierarchy, rel string) Group {
	t.Helper()
	g, err := h.Create(rel)
	if err != nil {
		t.Fatal(err)
	}
	return g
}

// born starts a shell command in a group, without anybody who reaps it, and
// returns a handle.
func born(t *testing.T, g Group, script string) *Handle {
	t.Helper()
	dir, err := g.Open()
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close() //nolint:errcheck // Only read.
	fd := -1
	_, err = syscall.ForkExec("/bin/sh", []string{"sh", "-c", script}, &syscall.ProcAttr{
		Env: os.Environ(),
		Sys: &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: int(dir.Fd()), PidFD: &fd, Setsid: true},
	})
	if err != nil {
		t.Fatal(err)
	}
	h, err := FromPIDFD(os.NewFile(uintptr(fd), "pidfd"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = h.Signal(syscall.SIGKILL)
		_, _ = h.Wait(context.WithoutCancel(t.Context()))
		h.Close()
	})
	return h
}

func within(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	t.Cleanup(cancel)
	return ctx
}

func TestChildExit(t *testing.T) {
	t.Parallel()
	h := hierarchy(t)
	for i, test := range []struct {
		script string
		want   Exit
		text   string
	}{
		{"exit 0", Exit{Known: true}, "exit status 0"},
		{"exit 7", Exit{Known: true, Code: 7}, "exit status 7"},
		{"kill -KILL $$", Exit{Known: true, Signal: "SIGKILL"}, "killed by SIGKILL"},
		{"kill -37 $$", Exit{Known: true, Signal: "SIGRTMIN+3"}, "killed by SIGRTMIN+3"},
	} {
		child := born(t, create(t, h, strconv.Itoa(i)), test.script)
		got, err := child.Wait(within(t))
		if err != nil || got != test.want || got.String() != test.text {
			t.Errorf("%s: got %+v (%s), %v, want %+v", test.script, got, got, err, test.want)
		}
		if again, err := child.Wait(within(t)); err != nil || again != got {
			t.Errorf("%s: second Wait: %+v, %v", test.script, again, err)
		}
		if err := child.Signal(syscall.SIGTERM); !errors.Is(err, ErrGone) {
			t.Errorf("%s: signal after the end: %v", test.script, err)
		}
		if _, err := Open(child.Process()); !errors.Is(err, ErrGone) {
			t.Errorf("%s: open after the end: %v", test.script, err)
		}
	}
}

// A mount namespace that is held outlives its process.
func TestMountNamespace(t *testing.T) {
	t.Parallel()
	h := hierarchy(t)
	child := born(t, create(t, h, "own"), "exec unshare --mount --propagation private sh -c 'mount -t tmpfs -o nr_inodes=7 none /mnt; kill -STOP $$'")
	var status unix.Siginfo
	pid := child.Process().PID
	if err := unix.Waitid(unix.P_PID, pid, &status, unix.WSTOPPED|unix.WEXITED|unix.WNOWAIT, nil); err != nil {
		t.Fatal(err)
	}
	namespace, err := child.MountNamespace()
	if err != nil {
		t.Fatal(err)
	}
	defer namespace.Close() //nolint:errcheck // Only looked at.
	if err := child.Signal(syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if _, err := child.Wait(within(t)); err != nil {
		t.Fatal(err)
	}
	if _, err := child.MountNamespace(); !errors.Is(err, ErrGone) {
		t.Errorf("after the end: %v", err)
	}
	look := exec.Command("nsenter", "--mount=/proc/self/fd/3", "stat", "--file-system", "--format=%c", "/mnt")
	look.ExtraFiles = []*os.File{namespace}
	if out, err := look.CombinedOutput(); err != nil || string(out) != "7\n" {
		t.Errorf("inodes of the file system in it: %q, %v, want 7", out, err)
	}
}

// TestForeignExit waits for processes that are not the caller's children,
// whose parent reaps them at once, or not at all.
func TestForeignExit(t *testing.T) {
	t.Parallel()
	for name, script := range map[string]string{
		"reaped": `sh -c 'echo $$; read x; exit 9' <&3 & wait; sleep 60`,
		"never":  `sh -c 'echo $$; read x; exit 9' <&3 & exec sleep 60`,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			handle, end := grandchild(t, script)
			ctx, cancel := context.WithCancelCause(t.Context())
			cause := errors.New("enough")
			cancel(cause)
			if _, err := handle.Wait(ctx); !errors.Is(err, cause) {
				t.Fatalf("wait with a done context: %v", err)
			}
			end()
			got, err := handle.Wait(within(t))
			if want := (Exit{Known: true, Code: 9}); err != nil || got != want {
				t.Errorf("got %+v, %v, want %+v", got, err, want)
			}
		})
	}
}

// grandchild runs a script that starts a process and prints its pid, and
// returns a handle of that one and what makes it end.
func grandchild(t *testing.T, script string) (handle *Handle, end func()) {
	t.Helper()
	gate, open, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), "/bin/sh", "-c", script)
	cmd.ExtraFiles = []*os.File{gate}
	stdout, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = errors.Join(gate.Close(), open.Close(), cmd.Process.Kill(), cmd.Wait())
	})
	var pid int
	if _, err := fmt.Fscan(stdout, &pid); err != nil {
		t.Fatal(err)
	}
	info, err := Read(pid)
	if err != nil {
		t.Fatal(err)
	}
	handle, err = Open(info.Process)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(handle.Close)
	return handle, func() { _ = open.Close() }
}

// TestBothEdges proves what await relies on: the poller wakes once when the
// process has become a zombie, and once more when it is reaped.
func TestBothEdges(t *testing.T) {
	t.Parallel()
	g := create(t, hierarchy(t), "edges")
	dir, err := g.Open()
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close() //nolint:errcheck // Only read.
	fd := -1
	pid, err := syscall.ForkExec("/bin/sh", []string{"sh", "-c", "exec sleep 1000"}, &syscall.ProcAttr{
		Sys: &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: int(dir.Fd()), PidFD: &fd},
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.SetNonblock(fd, true); err != nil {
		t.Fatal(err)
	}
	pidfd := os.NewFile(uintptr(fd), "pidfd")
	defer pidfd.Close() //nolint:errcheck // Only read.
	raw, err := pidfd.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	edges := make(chan int16, 8)
	var wait sync.WaitGroup
	wait.Go(func() {
		_ = raw.Read(func(fd uintptr) bool {
			poll := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
			_, _ = unix.Poll(poll, 0)
			edges <- poll[0].Revents
			return poll[0].Revents&unix.POLLHUP != 0
		})
	})
	if err := unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0); err != nil {
		t.Fatal(err)
	}
	for edge := range edges {
		if edge&unix.POLLHUP != 0 {
			t.Fatalf("POLLHUP before the process was reaped")
		}
		if edge&unix.POLLIN != 0 {
			break
		}
	}
	var status syscall.WaitStatus
	if _, err := syscall.Wait4(pid, &status, 0, nil); err != nil {
		t.Fatal(err)
	}
	for edge := range edges {
		if edge&unix.POLLHUP != 0 {
			break
		}
	}
	wait.Wait()
	if got, want := exitInfo(fd), (Exit{Known: true, Signal: "SIGKILL"}); got != want {
		t.Errorf("PIDFD_GET_INFO after POLLHUP: %+v, want %+v", got, want)
	}
}

func TestOpenChecksStart(t *testing.T) {
	t.Parallel()
	self, err := Read(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	h, err := Open(self.Process)
	if err != nil {
		t.Fatal(err)
	}
	h.Close()
	if _, err := h.Wait(t.Context()); !errors.Is(err, os.ErrClosed) {
		t.Errorf("wait after close: %v", err)
	}
	if _, err := Open(tenure.Process{PID: self.PID, Start: self.Start + 1}); !errors.Is(err, ErrGone) {
		t.Errorf("open with another start time: %v", err)
	}
	if age := time.Since(self.Started); age < -time.Second || age > time.Hour {
		t.Errorf("started %v ago", age)
	}
	if len(self.Args) == 0 || self.Args[0] != os.Args[0] || self.UID != uint32(os.Geteuid()) || self.PPID != os.Getppid() {
		t.Errorf("got %+v", self)
	}
}
