package daemon

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"strings"
	"syscall"
	"testing"

	"tenure/internal/refresh"
)

// TestMain makes this binary another process that has the lock of a root: it says so, gives the lock back when it is
// told to, says so, and ends with its input.
func TestMain(m *testing.M) {
	if len(os.Args) != 4 || os.Args[1] != "have-lock" {
		os.Exit(m.Run())
	}
	if err := haveLock(refresh.Paths{Root: os.Args[2]}, os.Args[3]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

func haveLock(paths refresh.Paths, mark string) error {
	told := make(chan os.Signal, 1)
	signal.Notify(told, syscall.SIGTERM)
	var lock *os.File
	var err error
	if mark == inheritMark {
		lock = os.NewFile(3, "lock") // That of exec.Cmd's first extra file.
		err = inheritRoot(context.Background(), lock)
	} else {
		lock, err = lockRoot(paths, mark)
	}
	if err != nil {
		return err
	}
	fmt.Println("has it")
	ended := make(chan error, 1)
	go func() {
		_, err := io.Copy(io.Discard, os.Stdin)
		ended <- err
	}()
	select {
	case err := <-ended:
		return err
	case <-told:
	}
	if err := lock.Close(); err != nil {
		return err
	}
	fmt.Println("was told")
	if mark == inheritMark {
		return nil
	}
	return <-ended
}

// inheritMark is for one who has the root of whoever has held it for it, and ends when it is told to.
const inheritMark = "inherit"

// another starts a process that has the lock, and gives what ends it and returns what else it has said.
func another(t *testing.T, paths refresh.Paths, mark string) (end func() string) {
	t.Helper()
	if err := os.MkdirAll(paths.Run(), 0o755); err != nil {
		t.Fatal(err)
	}
	// It is the child of a shell: who waits here for the end of a child has also reaped it.
	cmd := exec.CommandContext(t.Context(), "sh", "-c", `"$@"; exit $?`, "sh", os.Args[0], "have-lock", paths.Root, mark)
	cmd.Stderr = os.Stderr
	in, inErr := cmd.StdinPipe()
	out, outErr := cmd.StdoutPipe()
	if err := errors.Join(inErr, outErr, cmd.Start()); err != nil {
		t.Fatal(err)
	}
	said := bufio.NewReader(out)
	if line, err := said.ReadString('\n'); err != nil || line != "has it\n" {
		t.Fatalf("the other process says %q, %v", line, err)
	}
	return func() string {
		if err := in.Close(); err != nil {
			t.Error(err)
		}
		rest, err := io.ReadAll(said)
		if err = errors.Join(err, cmd.Wait()); err != nil {
			t.Error(err)
		}
		return strings.TrimSpace(string(rest))
	}
}

// TestAHelperMakesRoom: a daemon gets the lock from who only ends one unit, which goes on without it.
func TestAHelperMakesRoom(t *testing.T) {
	t.Parallel()
	paths := refresh.Paths{Root: t.TempDir()}
	end := another(t, paths, helperMark)
	lock, err := takeRoot(t.Context(), paths)
	if err != nil {
		t.Fatal(err)
	}
	if said := end(); said != "was told" {
		t.Errorf("the helper says %q", said)
	}
	if err := lock.Close(); err != nil {
		t.Error(err)
	}
}

// TestADaemonStays: another daemon gets no lock, and neither does a helper.
func TestADaemonStays(t *testing.T) {
	t.Parallel()
	paths := refresh.Paths{Root: t.TempDir()}
	end := another(t, paths, "")
	if _, err := takeRoot(t.Context(), paths); !errors.Is(err, ErrRunning) {
		t.Errorf("a second daemon: %v, want ErrRunning", err)
	}
	if _, err := lockRoot(paths, helperMark); !errors.Is(err, ErrRunning) {
		t.Errorf("a helper: %v, want ErrRunning", err)
	}
	if said := end(); said != "" {
		t.Errorf("the daemon was told: %q", said)
	}
	if err := endDaemon(context.WithoutCancel(t.Context()), paths); err != nil {
		t.Errorf("end nobody: %v", err)
	}
}

// TestARootIsHeld: who had the lock of a daemon passed to it keeps others out for as long as it lives, and whoever
// waits for that begins then.
func TestARootIsHeld(t *testing.T) {
	t.Parallel()
	paths := refresh.Paths{Root: t.TempDir()}
	if err := os.MkdirAll(paths.Run(), 0o755); err != nil {
		t.Fatal(err)
	}
	lock, err := lockRoot(paths, "")
	if err == nil {
		err = hold(lock)
	}
	if err != nil {
		t.Fatal(err)
	}
	rehearsal := exec.CommandContext(t.Context(), "cat")
	rehearsal.ExtraFiles = []*os.File{lock}
	in, err := rehearsal.StdinPipe()
	if err = errors.Join(err, rehearsal.Start(), lock.Close()); err != nil {
		t.Fatal(err)
	}
	if _, err := lockRoot(paths, ""); !errors.Is(err, ErrRunning) {
		t.Errorf("beside who was left behind: %v, want ErrRunning", err)
	}
	taken := make(chan error, 1)
	go func() {
		next, err := takeRoot(t.Context(), paths)
		if err == nil {
			err = next.Close()
		}
		taken <- err
	}()
	if err := errors.Join(in.Close(), rehearsal.Wait(), <-taken); err != nil {
		t.Error(err)
	}
}

// TestARootIsSeized: who ends the daemon of a root ends also who has waited to take its place.
func TestARootIsSeized(t *testing.T) {
	t.Parallel()
	paths := refresh.Paths{Root: t.TempDir()}
	if err := os.MkdirAll(paths.Run(), 0o755); err != nil {
		t.Fatal(err)
	}
	file, err := os.OpenFile(lockPath(paths), os.O_RDWR|os.O_CREATE, 0o600)
	if err == nil {
		err = hold(file)
	}
	if err != nil {
		t.Fatal(err)
	}
	begin := func() (said *bufio.Reader, wait func() error) {
		cmd := exec.CommandContext(t.Context(), "sh", "-c", `"$@"; exit $?`, "sh", os.Args[0], "have-lock", paths.Root, inheritMark)
		cmd.Stderr, cmd.ExtraFiles = os.Stderr, []*os.File{file}
		_, inErr := cmd.StdinPipe()
		out, outErr := cmd.StdoutPipe()
		if err := errors.Join(inErr, outErr, cmd.Start()); err != nil {
			t.Fatal(err)
		}
		return bufio.NewReader(out), cmd.Wait
	}
	daemon, waitDaemon := begin()
	if line, err := daemon.ReadString('\n'); err != nil || line != "has it\n" {
		t.Fatalf("the daemon says %q, %v", line, err)
	}
	next, waitNext := begin()
	if err := file.Close(); err != nil {
		t.Fatal(err)
	}
	lock, err := seizeRoot(t.Context(), paths)
	if err != nil {
		t.Fatal(err)
	}
	for who, said := range map[string]*bufio.Reader{"the daemon": daemon, "who came after it": next} {
		if rest, err := io.ReadAll(said); err != nil || !strings.HasSuffix(string(rest), "was told\n") {
			t.Errorf("%s says %q, %v", who, rest, err)
		}
	}
	if err := errors.Join(waitDaemon(), waitNext(), lock.Close()); err != nil {
		t.Error(err)
	}
}

// TestARehearsalIsTheDaemonsOwn: nobody rehearses beside a daemon that has not asked for it.
func TestARehearsalIsTheDaemonsOwn(t *testing.T) {
	t.Parallel()
	paths := refresh.Paths{Root: t.TempDir()}
	end := another(t, paths, "")
	if err := checkShared(paths); !errors.Is(err, ErrRunning) {
		t.Errorf("beside a daemon: %v, want ErrRunning", err)
	}
	if said := end(); said != "" {
		t.Errorf("the daemon was told: %q", said)
	}
}
