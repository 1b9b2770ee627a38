package mount_test

import (
	"bufio"
	"context"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"tenure/internal/mount"
)

// TestMain is the test, or the program that uses a mount in one way.
func TestMain(m *testing.M) {
	if how, ok := os.LookupEnv("MOUNT_TEST_USE"); ok {
		dir, _ := os.LookupEnv("MOUNT_TEST_DIR")
		if err := use(how, dir); err != nil {
			os.Stdout.WriteString(err.Error() + "\n") //nolint:errcheck // The test sees that it is missing.
			return
		}
		os.Stdout.WriteString("ready\n") //nolint:errcheck // The test sees that it is missing.
		// Until the test closes the other end.
		_, _ = io.Copy(io.Discard, os.Stdin)
		runtime.KeepAlive(how)
		return
	}
	os.Exit(m.Run()) //nolint:forbidigo // This is main.
}

// use makes this process use dir in one way.
func use(how, dir string) error {
	switch how {
	case "exe", "namespace", "slave":
		return nil
	case "cwd":
		return os.Chdir(dir) //nolint:forbidigo // This is main.
	case "root":
		return syscall.Chroot(dir)
	case "fd", "path":
		flag := unix.O_RDONLY
		if how == "path" {
			flag = unix.O_PATH
		}
		_, err := unix.Open(filepath.Join(dir, "a"), flag, 0)
		return err
	case "map":
		fd, err := unix.Open(filepath.Join(dir, "lib/data"), unix.O_RDONLY, 0)
		if err == nil {
			_, err = unix.Mmap(fd, 0, 4096, unix.PROT_READ, unix.MAP_PRIVATE)
		}
		if err == nil {
			err = unix.Close(fd)
		}
		return err
	case "thread":
		return threadIn(dir)
	default:
		return unix.EINVAL
	}
}

// threadIn has one thread, and not the first, work in dir.
func threadIn(dir string) error {
	result := make(chan error)
	var work func()
	work = func() {
		runtime.LockOSThread()
		if unix.Gettid() == unix.Getpid() {
			// This one keeps the first thread, so the next gets another.
			go work()
			select {}
		}
		err := unix.Unshare(unix.CLONE_FS)
		if err == nil {
			err = unix.Chdir(dir)
		}
		result <- err
		select {}
	}
	go work()
	return <-result
}

// start runs this program so that it uses dir, and ends it with the test. It
// returns its pid.
func start(t *testing.T, program, how, dir string, attr *syscall.SysProcAttr) int {
	t.Helper()
	cmd := exec.CommandContext(context.WithoutCancel(t.Context()), program)
	cmd.Env = []string{"MOUNT_TEST_USE=" + how, "MOUNT_TEST_DIR=" + dir}
	cmd.SysProcAttr = attr
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = stdin.Close()
		if err := cmd.Wait(); err != nil {
			t.Errorf("the program that uses %s by %s: %v", dir, how, err)
		}
	})
	line, err := bufio.NewReader(stdout).ReadString('\n')
	if err != nil || line != "ready\n" {
		t.Fatalf("the program that uses %s by %s said %q, %v", dir, how, line, err)
	}
	return cmd.Process.Pid
}

func self(t *testing.T) string {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return exe
}

func TestUsers(t *testing.T) {
	t.Parallel()
	top := t.TempDir()
	info := mounted(t, image(t, "used"), filepath.Join(top, "x1"))
	unused := mounted(t, image(t, "other"), filepath.Join(top, "x2"))
	cases := []struct {
		how  string
		want []mount.What
	}{
		{"exe", []mount.What{mount.Exe, mount.Map}},
		{"cwd", []mount.What{mount.Cwd}},
		{"root", []mount.What{mount.Root}},
		{"fd", []mount.What{mount.FD}},
		{"path", []mount.What{mount.FD}},
		{"map", []mount.What{mount.Map}},
		{"thread", []mount.What{mount.Cwd}},
	}
	for _, c := range cases {
		t.Run(c.how, func(t *testing.T) {
			t.Parallel()
			program := self(t)
			if c.how == "exe" {
				program = filepath.Join(info.Dir, "prog")
			}
			pid := start(t, program, c.how, info.Dir, nil)
			got, err := mount.UsersOf(t.Context(), info, unused)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(c.want, whats(got[info.Dev], pid)); diff != "" {
				t.Errorf("uses (-want +got):\n%s", diff)
			}
			if other := whats(got[unused.Dev], pid); len(other) != 0 {
				t.Errorf("the other mount is used too: %v", other)
			}
			programs := slices.DeleteFunc(slices.Clone(c.want), func(w mount.What) bool { return w != mount.Exe })
			got, err = mount.RunnersOf(t.Context(), info, unused)
			if found := whats(got[info.Dev], pid); err != nil || !slices.Equal(found, programs) || len(got[unused.Dev]) > 0 {
				t.Errorf("runners: %v, %v, want %v", found, err, programs)
			}
		})
	}
}

// whats are the uses by one process. Those by others are none of ours: any
// process on the machine may make a mount namespace at any time.
func whats(uses []mount.Use, pid int) []mount.What {
	var found []mount.What
	for _, u := range uses {
		if u.Process.PID == pid {
			found = append(found, u.What)
		}
	}
	return found
}

// TestNamespaceOfItsOwn has a process in a mount namespace with a root of its own, as units
// have: the mount in it stays when ours goes, so it is a use, wherever it lies.
func TestNamespaceOfItsOwn(t *testing.T) { //nolint:paralleltest // Its namespace has copies of the mounts of all tests that run.
	info := mounted(t, image(t, "own"), filepath.Join(t.TempDir(), "x1"))
	pid := startShell(t, `
		mount --make-rprivate /
		mount -t tmpfs none /mnt
		cd /mnt
		mkdir -p usr proc .`+info.Dir+`
		ln -s usr/bin usr/lib usr/lib64 .
		mount --bind /usr usr
		mount -t proc none proc
		mount --bind `+info.Dir+` .`+info.Dir+`
		pivot_root . .
		umount -l .`)
	wantUses(t, info, pid, mount.Namespace)
}

// TestNamespaceThatIsACopy has one in a private copy of ours. It is no use, and the process loses nothing: what is
// mounted there stays, with its files.
func TestNamespaceThatIsACopy(t *testing.T) { //nolint:paralleltest // Its namespace has copies of the mounts of all tests that run.
	info := mounted(t, image(t, "private"), filepath.Join(t.TempDir(), "x1"))
	pid := start(t, self(t), "namespace", info.Dir, &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS})
	wantUses(t, info, pid)
}

// TestNamespaceThatFollows has a process in a mount namespace that gets its
// mounts from ours, as units do: the mount in it goes when ours goes, so it is
// no use.
func TestNamespaceThatFollows(t *testing.T) { //nolint:paralleltest // Its namespace has copies of the mounts of all tests that run.
	file, info := shared(t)
	pid := startShell(t, "mount --make-rslave /")
	wantUses(t, info, pid)
	if err := mount.Unmount(t.Context(), info.Dir); err != nil {
		t.Fatal(err)
	}
	free(t, file)
}

// TestNamespaceThatKeeps has one that gets its mounts from ours and has bound
// one of them to another place, where it does not go with ours.
func TestNamespaceThatKeeps(t *testing.T) { //nolint:paralleltest // Its namespace has copies of the mounts of all tests that run.
	file, info := shared(t)
	pid := startShell(t, "mount --make-rslave / && mount --bind "+info.Dir+" "+t.TempDir())
	wantUses(t, info, pid, mount.Namespace)
	if err := mount.Unmount(t.Context(), info.Dir); err != nil {
		t.Fatal(err)
	}
	if devs, err := mount.Attached(file); len(devs) != 1 || err != nil {
		t.Errorf("attached to %v, %v; want one", devs, err)
	}
}

// shared mounts an image in a shared directory.
func shared(t *testing.T) (string, mount.Info) {
	t.Helper()
	file, top := image(t, "shared"), filepath.Join(t.TempDir(), "snap")
	if err := os.Mkdir(top, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := mount.Share(top); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := mount.UnmountTree(context.WithoutCancel(t.Context()), top); err != nil {
			t.Error(err)
		}
		free(t, file)
	})
	info, err := mount.Mount(t.Context(), file, filepath.Join(top, "x1"))
	if err != nil {
		t.Fatal(err)
	}
	return file, info
}

func wantUses(t *testing.T, info mount.Info, pid int, want ...mount.What) {
	t.Helper()
	got, err := mount.Users(t.Context(), info)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, whats(got, pid)); diff != "" {
		t.Errorf("uses (-want +got):\n%s", diff)
	}
	for _, u := range got {
		if u.Process.Start == 0 || u.Comm == "" {
			t.Errorf("user %+v lacks a start time or a name", u)
		}
	}
}

// startShell runs a script in a mount namespace of its own, and keeps that
// namespace until the test ends.
func startShell(t *testing.T, script string) int {
	t.Helper()
	cmd := exec.CommandContext(context.WithoutCancel(t.Context()), "unshare", "--mount", "--propagation", "unchanged",
		"sh", "-ec", script+"\necho ready\nread line || true")
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	var stderr strings.Builder
	cmd.Stderr = &stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = stdin.Close()
		if err := cmd.Wait(); err != nil {
			t.Errorf("the shell: %v: %s", err, stderr.String())
		}
	})
	if line, err := bufio.NewReader(stdout).ReadString('\n'); line != "ready\n" {
		t.Fatalf("the shell said %q, %v: %s", line, err, stderr.String())
	}
	return cmd.Process.Pid
}

// TestUsersWhileProcessesComeAndGo asks again and again while processes start
// and end.
func TestUsersWhileProcessesComeAndGo(t *testing.T) {
	t.Parallel()
	info := mounted(t, image(t, "race"), filepath.Join(t.TempDir(), "x1"))
	pid := start(t, self(t), "cwd", info.Dir, nil)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for range 200 {
			_ = exec.CommandContext(t.Context(), "/bin/true").Run()
		}
	}()
	for running := true; running; {
		select {
		case <-done:
			running = false
		default:
		}
		got, err := mount.Users(t.Context(), info)
		if err != nil {
			t.Fatal(err)
		}
		if !slices.Equal(whats(got, pid), []mount.What{mount.Cwd}) {
			t.Fatalf("users %+v", got)
		}
	}
	<-done
}

func BenchmarkUsersOf(b *testing.B) {
	for b.Loop() {
		if _, err := mount.UsersOf(b.Context(), mount.Info{Dev: mount.Dev{Major: 7, Minor: 1 << 19}}); err != nil {
			b.Fatal(err)
		}
	}
}
