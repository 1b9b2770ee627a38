package test

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"tenure/test/rig"
)

// follower is a running "tenure logs -f".
type follower struct {
	t     *testing.T
	lines chan string
}

// follow runs "tenure logs -f" with more arguments.
func follow(t *testing.T, i *rig.Instance, args ...string) *follower {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	cmd := exec.CommandContext(ctx, filepath.Join(i.Bin, "tenure"), append([]string{"logs", "-f"}, args...)...)
	cmd.Env = append(os.Environ(), "TENURE_ROOT="+i.Root)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	f := &follower{t: t, lines: make(chan string, 1<<16)}
	go f.read(stdout)
	t.Cleanup(func() {
		cancel()
		for range f.lines {
		}
		_ = cmd.Wait() // It was killed.
		if t.Failed() && stderr.Len() > 0 {
			t.Logf("tenure logs said: %s", stderr.String())
		}
	})
	return f
}

func (f *follower) read(stdout io.Reader) {
	defer close(f.lines)
	scanner := bufio.NewScanner(stdout)
	for scanner.Scan() {
		f.lines <- scanner.Text()
	}
}

// next is the text of the next line, without time, unit and pid.
func (f *follower) next() string {
	f.t.Helper()
	select {
	case line, ok := <-f.lines:
		if !ok {
			f.t.Fatal("tenure logs -f ended")
		}
		_, text, _ := strings.Cut(line, "]: ")
		return text
	case <-time.After(rig.Patience):
		f.t.Fatal("tenure logs -f says nothing more")
	}
	return ""
}

// talker writes some lines when it starts, and more when it is sent a signal.
const talker = `
talker:
	daemon: notify
	command: PROBE lines:1-3 notify:READY:1 trap report:up run report:more lines:4-6 run
	stop-mode: sigint
`

// What a service writes is there for whoever asks and whoever follows, without a
// hole and without a line twice, also when the daemon dies and while none runs; a
// refresh goes on in the same log. With the snap the log is gone.
func TestLogsOfAService(t *testing.T) {
	t.Parallel()
	i := rig.New(t, rig.Config{})
	trace := listen(t, i)
	i.Tenure("install", "--dangerous", probeSnap(t, i, probeYAML("1", talker)))
	trace.expect("talker", "wrote 1-3", "up")
	line := func(n int) string { return fmt.Sprintf("line %d of a service that has something to say", n) }
	// What is written is in the log a moment later.
	for all := follow(t, i, "-n", "all", "probe"); all.next() != line(3); {
	}
	f := follow(t, i, "-n", "2", "probe")
	for n := 2; n <= 3; n++ {
		if got := f.next(); got != line(n) {
			t.Fatalf("followed %q, want %q", got, line(n))
		}
	}
	main := i.Main("probe.talker")
	i.Kill()
	// While no daemon runs it writes on.
	signalTo(t, main, "SIGUSR1")
	trace.expect("talker", "heard SIGUSR1", "more", "wrote 4-6")
	i.Start()
	for n := 4; n <= 6; n++ {
		if got := f.next(); got != line(n) {
			t.Fatalf("followed %q, want %q", got, line(n))
		}
	}
	i.Tenure("refresh", "--dangerous", probeSnap(t, i, probeYAML("2", talker)))
	for n := 1; n <= 3; n++ {
		if got := f.next(); got != line(n) {
			t.Fatalf("followed %q, want %q", got, line(n))
		}
	}
	if all := strings.Count(i.Tenure("logs", "-n", "all", "probe.talker"), "\n"); all != 9 {
		t.Errorf("%d lines, want 9", all)
	}
	i.Tenure("remove", "probe")
	if left, err := os.ReadDir(i.Path("var/lib/tenure/logs")); err != nil || len(left) > 0 {
		t.Errorf("logs %v are left, %v", left, err)
	}
}

// chatty writes more than is kept, as fast as it can, in parts of which each is less.
const chatty = `
chatty:
	daemon: notify
	command: PROBE trap notify:READY:1 run lines:1-30000 run lines:30001-60000 run lines:60001-90000 run lines:90001-120000 run
	stop-mode: sigint
`

// What a service writes takes no more than so much of the disk. A reader that is never
// behind by more than that misses no line, and what is kept is the end without a hole.
// In systemd's journal, how much is kept is the administrator's to say.
func TestLogsAreBounded(t *testing.T) {
	t.Parallel()
	const bound, slack, lines = 8 << 20, 1 << 20, 30000
	parts := often(4, 1)
	i := rig.New(t, rig.Config{})
	trace := listen(t, i)
	i.Tenure("install", "--dangerous", probeSnap(t, i, probeYAML("1", chatty)))
	f := follow(t, i, "-n", "all", "probe")
	line := func(n int) string { return fmt.Sprintf("line %d of a service that has something to say", n) }
	main, begun := i.Main("probe.chatty"), time.Now()
	for part := range parts {
		signalTo(t, main, "SIGUSR1")
		for n := part*lines + 1; n <= (part+1)*lines; n++ {
			if got := f.next(); got != line(n) {
				t.Fatalf("followed %q, want %q", got, line(n))
			}
		}
		trace.expect("chatty", "heard SIGUSR1", fmt.Sprintf("wrote %d-%d", part*lines+1, (part+1)*lines))
	}
	t.Logf("%d lines were followed in %s", parts*lines, time.Since(begun))
	if size := sizeOf(t, i.Path("var/lib/tenure/logs")); !i.Systemd() && (size > bound+slack || size < bound/2) {
		t.Errorf("the log takes %d bytes, want at most %d and not much less", size, bound)
	}
	kept := strings.Split(strings.TrimSpace(i.Tenure("logs", "-n", "all", "probe.chatty")), "\n")
	for at, text := range kept {
		if want := line(parts*lines - len(kept) + at + 1); !strings.HasSuffix(text, "]: "+want) {
			t.Fatalf("line %d of %d that are kept is %q, want %q", at+1, len(kept), text, want)
		}
	}
}

// sizeOf is the size of all files below a directory.
func sizeOf(t *testing.T, dir string) (size int64) {
	t.Helper()
	err := filepath.WalkDir(dir, func(_ string, entry os.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		info, err := entry.Info()
		if err == nil {
			size += info.Size()
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return size
}
