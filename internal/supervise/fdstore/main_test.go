package fdstore_test

import (
	"bufio"
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"tenure"
	"tenure/internal/supervise/fdstore"
	"tenure/internal/supervise/fdstore/logfile"
)

// The test binary is the holder, a client to be killed, and a service, when it is
// started with a role.
const roleVariable = "FDSTORE_TEST_ROLE"

func TestMain(m *testing.M) {
	switch role := os.Getenv(roleVariable); role {
	case "":
		goleak.VerifyTestMain(m)
	case "holder":
		signal.Ignore(syscall.SIGHUP, syscall.SIGINT, syscall.SIGTERM, syscall.SIGPIPE)
		os.Exit(report(serve()))
	case "client":
		os.Exit(report(doomedClient()))
	case "count":
		os.Exit(report(count()))
	case "stranger":
		os.Exit(report(fdstore.Stranger(os.Args[1])))
	default:
		os.Exit(report(fmt.Errorf("unknown role %q", role)))
	}
}

func report(err error) int {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

// serve is the holder. Arguments: socket, logs, segment size, total size.
func serve() error {
	segment, err := strconv.ParseInt(os.Args[3], 10, 64)
	if err != nil {
		return err
	}
	total, err := strconv.ParseInt(os.Args[4], 10, 64)
	if err != nil {
		return err
	}
	return fdstore.Serve(context.Background(), fdstore.ServeConfig{
		Socket: os.Args[1], Logs: os.Args[2], Limits: logfile.Limits{Segment: segment, Total: total}, Ready: os.Stdout,
		Log: slog.New(slog.NewTextHandler(os.Stderr, nil)),
	})
}

// count is a service that writes numbered lines as fast as it can. Arguments: how many.
func count() error {
	n, err := strconv.Atoi(os.Args[1])
	if err != nil {
		return err
	}
	out := bufio.NewWriterSize(os.Stdout, 1000)
	for i := range n {
		if _, err := fmt.Fprintf(out, "line %d\n", i); err != nil {
			return err
		}
	}
	return out.Flush()
}

// root is where a test's holder is.
type root struct {
	dir    string
	limits logfile.Limits
}

func newRoot(t *testing.T) *root {
	t.Helper()
	r := &root{dir: t.TempDir(), limits: logfile.Limits{Segment: 1 << 20, Total: 1 << 40}}
	t.Cleanup(func() { r.expectGone(t) })
	return r
}

func (r *root) socket() string { return filepath.Join(r.dir, "holder.sock") }
func (r *root) logs() string   { return filepath.Join(r.dir, "logs") }

func (r *root) spawner() fdstore.Spawner {
	return fdstore.Spawner{
		Path: "/proc/self/exe",
		Args: []string{r.socket(), r.logs(), strconv.FormatInt(r.limits.Segment, 10), strconv.FormatInt(r.limits.Total, 10)},
		Env:  append(os.Environ(), roleVariable+"=holder"),
	}
}

// client connects; the client is closed before the test ends.
func (r *root) client(t *testing.T) *fdstore.Client {
	t.Helper()
	c, err := fdstore.New(t.Context(), fdstore.Config{Socket: r.socket(), Spawn: r.spawner().Spawn})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// holders are the pids of the holders of this root.
func (r *root) holders() []int {
	procs, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	var pids []int
	for _, p := range procs {
		args, err := os.ReadFile(p)
		if err == nil && strings.Contains(string(args), "\x00"+r.socket()+"\x00") {
			pid, _ := strconv.Atoi(strings.Split(p, "/")[2])
			pids = append(pids, pid)
		}
	}
	return pids
}

// holder is the pid of the one holder that there must be.
func (r *root) holder(t *testing.T) int {
	t.Helper()
	var pids []int
	eventually(t, "one holder", func() bool { pids = r.holders(); return len(pids) == 1 })
	return pids[0]
}

// expectGone fails the test when its holder does not exit by itself.
func (r *root) expectGone(t *testing.T) {
	t.Helper()
	eventually(t, "holder to exit", func() bool { return len(r.holders()) == 0 })
	for _, pid := range r.holders() {
		_ = syscall.Kill(pid, syscall.SIGKILL)
	}
	if _, err := os.Stat(r.socket()); !os.IsNotExist(err) {
		t.Errorf("socket is left behind: %v", err)
	}
}

// eventually waits for something in another process that sends no event.
func eventually(t *testing.T, what string, done func() bool) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	timeout := time.After(20 * time.Second)
	for !done() {
		select {
		case <-tick.C:
		case <-timeout:
			t.Errorf("waited too long for %s", what)
			return
		}
	}
}

// command is this test binary in a role.
func command(t *testing.T, role string, args ...string) *exec.Cmd {
	t.Helper()
	cmd := exec.Command("/proc/self/exe", args...)
	cmd.Env = append(os.Environ(), roleVariable+"="+role)
	cmd.Stderr = os.Stderr
	return cmd
}

func unit(t *testing.T, s string) tenure.UnitID {
	t.Helper()
	u, err := tenure.ParseUnit(s)
	if err != nil {
		t.Fatal(err)
	}
	return u
}
