package test

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
	"unicode/utf8"

	"golang.org/x/sys/unix"

	"tenure/test/rig"
)

// columns is the width of the terminal of the test.
const columns = 40

// terminal is the side of a pseudo-terminal that a person sits at.
type terminal struct {
	t      *testing.T
	master *os.File
	seen   bytes.Buffer
}

// onTerminal starts a command in a session of its own, with a terminal that it is in
// the foreground of, as a shell does.
func onTerminal(t *testing.T, cmd *exec.Cmd) *terminal {
	t.Helper()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|syscall.O_NOCTTY|syscall.O_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = master.Close() })
	fd := int(master.Fd()) //nolint:gosec // A small number.
	number, err := unix.IoctlGetInt(fd, unix.TIOCGPTN)
	if err == nil {
		err = unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0)
	}
	if err == nil {
		err = unix.IoctlSetWinsize(fd, unix.TIOCSWINSZ, &unix.Winsize{Row: 24, Col: columns})
	}
	if err != nil {
		t.Fatal(err)
	}
	slave, err := os.OpenFile("/dev/pts/"+strconv.Itoa(number), os.O_RDWR|syscall.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer slave.Close() //nolint:errcheck // The command has it.
	cmd.Stdin, cmd.Stdout, cmd.Stderr = slave, slave, slave
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	cmd.SysProcAttr.Setsid, cmd.SysProcAttr.Setctty = true, true
	if who := cmd.SysProcAttr.Credential; who != nil {
		if err := slave.Chown(int(who.Uid), int(who.Gid)); err != nil {
			t.Fatal(err)
		}
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	return &terminal{t: t, master: master}
}

// until reads until something is on the terminal that was not there before, or, with
// nil, until nobody can write to it any more.
func (s *terminal) until(pattern *regexp.Regexp) string {
	s.t.Helper()
	from := s.seen.Len()
	buf := make([]byte, 4<<10)
	if err := s.master.SetReadDeadline(time.Now().Add(rig.Patience)); err != nil {
		s.t.Fatal(err)
	}
	for {
		text := s.seen.String()[from:]
		if pattern != nil && pattern.MatchString(text) {
			return text
		}
		n, err := s.master.Read(buf)
		s.seen.Write(buf[:n])
		if err == nil {
			continue
		}
		if pattern == nil && !errors.Is(err, os.ErrDeadlineExceeded) {
			return s.seen.String()[from:]
		}
		s.t.Fatalf("the terminal shows\n%q\nand then nothing that matches %s: %v", s.seen.String(), pattern, err)
	}
}

// Whoever waits at a terminal sees what goes on in one line that fits, and goes when
// it is over; ^C aborts the change.
func TestProgressOnATerminal(t *testing.T) {
	t.Parallel()
	i := rig.New(t, rig.Config{})
	trace := listen(t, i)
	i.Tenure("install", "--dangerous", probeSnap(t, i, probeYAML("1", `
deaf-to-what-it-is-told:
	daemon: notify
	command: PROBE trap notify:READY:1 count:1 ignore:SIGTERM report:up run
	stop-timeout: 5m
`)))
	trace.expect("deaf-to-what-it-is-told", "launch 1", "up")
	old := i.Main("probe.deaf-to-what-it-is-told")
	cmd := exec.CommandContext(t.Context(), filepath.Join(i.Bin, "tenure"), "stop", "probe") //nolint:gosec // The command line.
	cmd.Env = append(os.Environ(), "TENURE_ROOT="+i.Root, "TERM=xterm")
	screen := onTerminal(t, cmd)
	shown := screen.until(regexp.MustCompile(`\r\x1b\[K[-\\|/] [^\r]* \(\d+s\)`))
	trace.expect("deaf-to-what-it-is-told", "heard SIGTERM")
	if _, err := screen.master.WriteString("\x03"); err != nil {
		t.Fatal(err)
	}
	said := screen.until(regexp.MustCompile(`aborting change \d+; press`))
	shown += said
	waitFor(t, i, regexp.MustCompile(`change (\d+);`).FindStringSubmatch(said)[1], "Undoing")
	signalTo(t, old, "SIGKILL")
	shown += screen.until(nil)
	if err := cmd.Wait(); err == nil {
		t.Error("an aborted stop ends well")
	}
	for line := range strings.SplitSeq(shown, "\r\x1b[K") {
		if strings.HasSuffix(line, "s)") && utf8.RuneCountInString(line) > columns {
			t.Errorf("%q is wider than %d columns", line, columns)
		}
	}
	rest := shown[strings.LastIndex(shown, "\r\x1b[K")+len("\r\x1b[K"):]
	if !strings.HasPrefix(rest, "error: ") {
		t.Errorf("the last line of progress stays, before %q", rest)
	}
	if now := i.Main("probe.deaf-to-what-it-is-told"); now == old {
		t.Error("the service was not started again")
	}
}
