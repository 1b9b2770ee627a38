package sandbox

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestMain makes the test binary the program that becomes another one.
func TestMain(m *testing.M) {
	if len(os.Args) > 2 && (os.Args[1] == "enter" || os.Args[1] == "join") {
		var request struct {
			Profile Profile
			Exec    Exec
		}
		err := json.Unmarshal([]byte(os.Args[2]), &request)
		if err == nil && os.Args[1] == "enter" {
			err = Enter(request.Profile, request.Exec)
		} else if err == nil {
			var namespace *os.File
			if namespace, err = Namespace(context.Background(), request.Profile, nil); err == nil {
				err = Join(namespace, request.Profile, request.Exec)
			}
		}
		_, _ = io.WriteString(os.Stderr, err.Error())
		os.Exit(77)
	}
	os.Exit(m.Run())
}

func needRoot(tb testing.TB) {
	tb.Helper()
	if os.Geteuid() == 0 {
		return
	}
	if ci, _ := os.LookupEnv("CI"); ci == "true" {
		tb.Fatal("needs root to make mount namespaces")
	}
	tb.Skip("needs root to make mount namespaces")
}

// tree makes directories (names ending in a slash), files and links (content
// beginning with "->") below dir.
func tree(tb testing.TB, dir string, entries map[string]string) {
	tb.Helper()
	for name, content := range entries {
		path := filepath.Join(dir, name)
		err := os.MkdirAll(filepath.Dir(path), 0o755)
		if link, ok := strings.CutPrefix(content, "->"); ok {
			err = errors.Join(err, os.Symlink(link, path))
		} else if strings.HasSuffix(name, "/") {
			err = errors.Join(err, os.MkdirAll(path, 0o755))
		} else {
			err = errors.Join(err, os.WriteFile(path, []byte(content), 0o644))
		}
		if err != nil {
			tb.Fatal(err)
		}
	}
}

// base makes a base that has the host's programs, and what entries say.
func base(tb testing.TB, entries map[string]string) Profile {
	tb.Helper()
	needRoot(tb)
	dir := tb.TempDir()
	if err := os.Chmod(dir, 0o755); err != nil { //nolint:gosec // The root of a base is for everyone.
		tb.Fatal(err)
	}
	tree(tb, dir, map[string]string{
		"bin": "->usr/bin", "lib": "->usr/lib", "lib64": "->usr/lib64", "sbin": "->usr/sbin",
		"usr/": "", "proc/": "", "dev/": "", "etc/base-file": "of the base\n",
	})
	tree(tb, dir, entries)
	return Profile{
		Root: RootBase, Base: dir, AllCapabilities: true,
		Mounts: []Mount{
			{Kind: Slave, Source: "/usr", Target: "/usr", ReadOnly: true},
			{Kind: Proc, Target: "/proc"},
			{Kind: Dev, Target: "/dev"},
		},
	}
}

func (p Profile) with(mounts ...Mount) Profile {
	p.Mounts = append(slices.Clip(p.Mounts), mounts...)
	return p
}

// unit is a shell that runs in a profile and is told what to do, line by line.
type unit struct {
	pid    int
	in     io.WriteCloser
	out    *bufio.Reader
	pidfd  *os.File
	closed bool
}

const endMark = "--end--"

// spawn starts a shell in a profile, and ends it with the test.
func spawn(tb testing.TB, p Profile, change func(*Exec)) *unit {
	tb.Helper()
	needRoot(tb)
	inRead, inWrite, err := os.Pipe()
	if err != nil {
		tb.Fatal(err)
	}
	outRead, outWrite, err := os.Pipe()
	if err != nil {
		tb.Fatal(err)
	}
	e := Exec{
		Argv: []string{"/bin/sh"}, Env: []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin"},
		Files: []*os.File{inRead, outWrite, outWrite},
	}
	if change != nil {
		change(&e)
	}
	pid, pidfd, err := Start(tb.Context(), p, e)
	_ = errors.Join(inRead.Close(), outWrite.Close())
	if err != nil {
		_ = errors.Join(inWrite.Close(), outRead.Close())
		tb.Fatal(err)
	}
	u := &unit{pid: pid, in: inWrite, out: bufio.NewReader(outRead), pidfd: pidfd}
	tb.Cleanup(func() {
		u.end()
		_ = outRead.Close()
	})
	return u
}

// do runs a command in the unit, and returns what it prints.
func (u *unit) do(tb testing.TB, command string) string {
	tb.Helper()
	if _, err := io.WriteString(u.in, command+"\necho "+endMark+"\n"); err != nil {
		tb.Fatalf("tell the unit %q: %v", command, err)
	}
	var text strings.Builder
	for {
		line, err := u.out.ReadString('\n')
		if before, found := strings.CutSuffix(line, endMark+"\n"); found {
			text.WriteString(before)
			return strings.TrimSuffix(text.String(), "\n")
		}
		text.WriteString(line)
		if err != nil {
			tb.Fatalf("unit ended in %q after %q: %v", command, text.String(), err)
		}
	}
}

// end closes the shell's input, and reaps it.
func (u *unit) end() {
	if u.closed {
		return
	}
	u.closed = true
	_ = u.in.Close()
	reap(u.pid, u.pidfd)
}

func reap(pid int, pidfd *os.File) syscall.WaitStatus {
	var status syscall.WaitStatus
	for {
		_, err := syscall.Wait4(pid, &status, 0, nil)
		if !errors.Is(err, unix.EINTR) {
			_ = pidfd.Close()
			return status
		}
	}
}

// output runs one command in a profile of its own.
func output(tb testing.TB, p Profile, command string) string {
	tb.Helper()
	u := spawn(tb, p, nil)
	defer u.end()
	return u.do(tb, command)
}

func equal(tb testing.TB, what, got, want string) {
	tb.Helper()
	if got != want {
		tb.Errorf("%s: got %q, want %q", what, got, want)
	}
}

// startError is the error of a start that must fail.
func startError(tb testing.TB, p Profile, e Exec) error {
	tb.Helper()
	needRoot(tb)
	if e.Argv == nil {
		e.Argv = []string{"/bin/true"}
	}
	ctx, cancel := context.WithTimeout(tb.Context(), 10*time.Second)
	defer cancel()
	pid, pidfd, err := Start(ctx, p, e)
	if err == nil {
		reap(pid, pidfd)
		tb.Fatalf("started %v in %+v", e.Argv, p)
	}
	return err
}
