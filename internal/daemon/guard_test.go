package daemon

import (
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"runtime"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"tenure/internal/proc"
	"tenure/internal/relay"
)

// failing is a way on which the file that comes after some cannot be passed.
type failing struct {
	inFork

	after int
}

var errNoRoom = errors.New("there is no room")

func (f *failing) pass(file *os.File) (int, error) {
	if f.after--; f.after < 0 {
		return 0, errNoRoom
	}
	return f.inFork.pass(file)
}

// Either all connections are passed, and are in the list, or none is: nobody would hear one that is in no list.
func TestConnectionsArePassedTogether(t *testing.T) {
	t.Parallel()
	var kept []relay.Passed
	for _, said := range []string{"one", "two", "three"} {
		file, err := os.Open(os.DevNull)
		if err != nil {
			t.Fatal(err)
		}
		defer file.Close() //nolint:errcheck // Only passed.
		kept = append(kept, relay.Passed{File: file, Door: doorAPI, Said: []byte(said)})
	}
	for room := range len(kept) + 2 {
		way := &failing{inFork{0, 1, 2}, room}
		number, done, err := writeKept(kept, way)
		done()
		if room <= len(kept) {
			if !errors.Is(err, errNoRoom) || number != 0 || way.passed() != 3 {
				t.Errorf("with room for %d: number %d, %v; passed is %v", room, number, err, way.inFork)
			}
			continue
		}
		if err != nil || number != 6 || way.passed() != 7 {
			t.Errorf("with room for all: number %d, %v; passed is %v", number, err, way.inFork)
		}
	}
}

// What is passed in the same process is open there, and closed here if it does not come to that.
func TestDuplicates(t *testing.T) {
	t.Parallel()
	file, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close() //nolint:errcheck // Only passed.
	var way duplicates
	number, done, err := writeKept([]relay.Passed{{File: file, Door: doorEntry, Said: []byte("said")}}, &way)
	defer done()
	defer way.keep(0)
	if err != nil || way.passed() != 2 {
		t.Fatalf("passed is %v, %v", way, err)
	}
	again, err := syscall.Dup(number)
	if err != nil {
		t.Fatal(err)
	}
	got, err := readKept(os.NewFile(uintptr(again), "list")) //nolint:gosec // A descriptor.
	if err != nil || len(got) != 1 {
		t.Fatalf("the list is %+v, %v", got, err)
	}
	way = way[1:]             // The file that was read has the first one.
	defer got[0].File.Close() //nolint:errcheck // Only passed.
	if diff := cmp.Diff("said", string(got[0].Said)); diff != "" {
		t.Error(diff)
	}
}

// Who is told to end does not become another program, which would not know.
func TestNobodyBecomesAnotherAtItsEnd(t *testing.T) {
	t.Parallel()
	own, err := os.Open("/bin/false") // It would end this test.
	if err != nil {
		t.Fatal(err)
	}
	defer own.Close() //nolint:errcheck // Only executed.
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	before := &program{file: own, path: own.Name()}
	if err := parted(Config{}).become(ctx, before, estate{}, belongings{}); !errors.Is(err, context.Canceled) {
		t.Errorf("it is %v", err)
	}
	var signs []string
	s := successor(t, Handed{is: true, previous: before, estate: estate{Patience: time.Nanosecond, Schema: 1}}, &signs).succeed(ctx)
	s.fail(late(time.Nanosecond))
	if s.p.cfg.Handed.previous == nil || s.settled {
		t.Error("it has become ready")
	}
}

// line are both ends of the line of a guard.
func line(t *testing.T) (here, there *os.File) {
	t.Helper()
	ends, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC|syscall.SOCK_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	here, there = os.NewFile(uintptr(ends[0]), "here"), os.NewFile(uintptr(ends[1]), "there") //nolint:gosec // Descriptors.
	t.Cleanup(func() { here.Close(); there.Close() })
	return here, there
}

// A guard that is late itself, and finds its dismissal and the end of its patience at once, is dismissed.
func TestAGuardIsDismissedLate(t *testing.T) {
	t.Parallel()
	for _, said := range []bool{true, false} {
		here, there := line(t)
		if said {
			if _, err := here.Write([]byte{0}); err != nil {
				t.Fatal(err)
			}
		}
		h := &Handed{guard: &guard{line: there}, estate: estate{Patience: -time.Hour}}
		if _, err := h.watch(t.Context(), nil, time.Now); (err == nil) != said {
			t.Errorf("dismissed is %v, and it goes by %v", said, err)
		}
	}
}

// A program that was told to end before it could hear that has ended as it was meant: its guard does not take its place.
func TestNobodyTakesThePlaceOfWhoWasToldToEnd(t *testing.T) {
	t.Parallel()
	for _, sent := range []syscall.Signal{syscall.SIGTERM, syscall.SIGINT} {
		lock, err := os.Open(os.DevNull)
		if err != nil {
			t.Fatal(err)
		}
		defer lock.Close() //nolint:errcheck // Nobody locks it.
		child := exec.CommandContext(t.Context(), "sleep", "infinity")
		if err := child.Start(); err != nil {
			t.Fatal(err)
		}
		info, err := proc.Read(child.Process.Pid)
		if err != nil {
			t.Fatal(err)
		}
		here, there := line(t)
		handed := Handed{guard: &guard{line: there}, lock: lock, estate: estate{Patience: time.Hour, Guarded: info.Process}}
		ended := make(chan error, 1)
		// If it did, this test would become a program that is called wrongly.
		go func() {
			ended <- Guard(t.Context(), Config{Root: t.TempDir(), Args: []string{"-wrongly"}, Handed: handed})
		}()
		if _, err := here.Read(make([]byte, 1)); err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(child.Process.Signal(sent), here.Close(), <-ended); err != nil {
			t.Errorf("after %s: %v", sent, err)
		}
		_ = child.Wait() // The guard has waited for it.
	}
}

// A guard is gone when it was dismissed, also one that does not hear it or has ended before.
func TestADismissedGuardIsGone(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		words string
		want  error
	}{{"exec sleep infinity", errLost}, {"true", errLost}, {"printf . >&3", nil}} {
		here, there := line(t)
		child := exec.CommandContext(t.Context(), "sh", "-c", c.words) //nolint:gosec // Of this test.
		child.ExtraFiles = []*os.File{there}
		if err := errors.Join(child.Start(), there.Close()); err != nil {
			t.Fatal(err)
		}
		info, err := proc.Read(child.Process.Pid)
		if err != nil {
			t.Fatal(err)
		}
		patience := time.Millisecond
		if c.want == nil {
			patience = time.Hour
		}
		if err := newGuard(here, info.Process).dismiss(t.Context(), patience); !errors.Is(err, c.want) {
			t.Errorf("%q: %v, want %v", c.words, err, c.want)
		}
		if _, err := syscall.Wait4(child.Process.Pid, nil, syscall.WNOHANG, nil); !errors.Is(err, syscall.ECHILD) {
			t.Errorf("%q: it is still there: %v", c.words, err)
		}
		_ = child.Wait() // It was waited for.
	}
}

// A guard stays beside a program that is told to end, also in the moment in which that dismisses it, until the program is gone: whoever has told
// the one that is known sees no end before.
func TestAGuardStaysUntilTheEnd(t *testing.T) {
	t.Parallel()
	for name, told := range map[string]bool{"the program is told": false, "the guard is told": true} {
		lock, err := os.Open(os.DevNull)
		if err != nil {
			t.Fatal(err)
		}
		defer lock.Close() //nolint:errcheck // Nobody locks it.
		// It is told, and takes its time.
		guarded := exec.CommandContext(t.Context(), "sh", "-c", `trap "" TERM; echo; while read back; do echo; done`)
		input, inputErr := guarded.StdinPipe()
		output, outputErr := guarded.StdoutPipe()
		if err := errors.Join(inputErr, outputErr, guarded.Start()); err != nil {
			t.Fatal(err)
		}
		if _, err := output.Read(make([]byte, 1)); err != nil {
			t.Fatal(err)
		}
		info, err := proc.Read(guarded.Process.Pid)
		if err != nil {
			t.Fatal(err)
		}
		here, there := line(t)
		ctx, tell := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() {
			ended <- Guard(ctx, Config{Root: t.TempDir(), Handed: Handed{
				guard: &guard{line: there}, lock: lock, estate: estate{Patience: time.Hour, Guarded: info.Process},
			}})
		}()
		if _, err := here.Read(make([]byte, 1)); err != nil {
			t.Fatal(err)
		}
		said := wordEnding
		if told {
			said = wordDismissed
			tell()
		}
		if _, err := here.Write([]byte{byte(said)}); err != nil {
			t.Fatal(err)
		}
		// Both ends are open, and the other process is there: that the guard has read the word it can say by nothing.
		for err = nil; err == nil; runtime.Gosched() {
			_, _, err = syscall.Recvfrom(descriptorOf(there), make([]byte, 1), syscall.MSG_PEEK|syscall.MSG_DONTWAIT)
		}
		if !errors.Is(err, syscall.EAGAIN) {
			t.Fatal(err)
		}
		// Who was to go would be gone in this time.
		for range 100 {
			if _, err := io.WriteString(input, "\n"); err != nil {
				t.Fatal(err)
			}
			if _, err := output.Read(make([]byte, 1)); err != nil {
				t.Fatal(err)
			}
		}
		select {
		case err := <-ended:
			t.Errorf("%s: the guard has gone: %v", name, err)
		default:
		}
		if err := errors.Join(input.Close(), <-ended); err != nil {
			t.Errorf("%s: the guard: %v", name, err)
		}
		_ = guarded.Wait() // The guard has waited for it.
		if _, err := proc.Read(info.PID); !errors.Is(err, proc.ErrGone) {
			t.Errorf("%s: the program has not ended: %v", name, err)
		}
		tell()
	}
}

// A program that does not end when it is told to is ended by its guard, if that was told, in its time.
func TestAGuardEndsWhoDoesNot(t *testing.T) {
	t.Parallel()
	guarded := exec.CommandContext(t.Context(), "sh", "-c", `trap "" TERM; echo; while :; do read never; done`)
	input, inputErr := guarded.StdinPipe() // Without an end.
	output, outputErr := guarded.StdoutPipe()
	if err := errors.Join(inputErr, outputErr, guarded.Start()); err != nil {
		t.Fatal(err)
	}
	defer input.Close() //nolint:errcheck // Nothing is written.
	if _, err := output.Read(make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	process, err := proc.OpenPID(guarded.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	defer process.Close()
	ctx, tell := context.WithCancel(t.Context())
	tell()
	if err := seeOff(ctx, process, time.Now); err != nil {
		t.Error(err)
	}
	_ = guarded.Wait() // The guard has waited for it.
	if process.Signal(0) == nil {
		t.Error("it has not ended")
	}
}
