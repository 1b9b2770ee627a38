// Package rig runs the real tenured and tenure in a private root, for tests and
// benchmarks.
//
// What an instance started is gone when its test ends, however it ends, and a
// process, mount, loop device or control group that tenured shutdown left behind
// fails the test.
//
// The methods of one Instance are for one goroutine, but for Tenure, Try, Client
// and Path, which may be called from many.
package rig

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"tenure"
	"tenure/client"
	"tenure/internal/journal"
	"tenure/internal/mount"
	"tenure/internal/refresh"
)

// Patience is how long a test waits for what takes a moment, before it calls it lost.
const Patience = time.Minute

// Config says what instance a test wants. The zero value is the usual one.
type Config struct {
	// FailPoints takes the build that dies at the boundary named by the file
	// "failpoint" below var/lib/tenure.
	FailPoints bool
	// Dir is the directory that the root is made in; by default a short one, for
	// sockets have short paths.
	Dir string
	// Disk keeps everything on the disk. By default the root is in memory: what
	// tests kill are processes, and a machine's disk is what they wait for most.
	Disk bool
	// Root is an empty directory that is to be the root; by default a new one.
	Root string
	// Mount, if set, mounts what the root is to lie on, in place of memory, and returns what takes it away.
	Mount func(dir string) (unmount func() error, err error)
	// Waits leaves the first start to the test.
	Waits bool
	// RunSize, if not 0, is the size of a file system in memory of its own for run/, in bytes.
	RunSize int
	// Observe lets services be observed after refreshes for as long as their packages
	// say, and data be saved before snaps are removed. Otherwise they are not, for most tests look at what
	// comes after.
	Observe bool
	// Snapd lets the daemon listen at run/snapd.socket, too.
	Snapd bool
	// Env is added to the environment of the daemon, NAME=value.
	Env []string
	// Wrap is a command with arguments that becomes the daemon; what it is to
	// execute follows.
	Wrap []string
}

// Instance is a private instance of Tenure.
type Instance struct {
	// Root is the directory below which everything lies.
	Root string
	// Bin is the directory of the programs.
	Bin string

	t      testing.TB
	env    []string
	wrap   []string
	args   []string
	daemon *server
	// unmount, if set, takes away what the root lies on.
	unmount func(ctx context.Context) error
	// runInMemory is that run/ is a mount of our own.
	runInMemory bool
}

// New makes an instance and starts its daemon.
func New(tb testing.TB, cfg Config) *Instance {
	tb.Helper()
	if os.Geteuid() != 0 {
		tb.Fatal("this test mounts snaps and starts services: run it as root")
	}
	bin, err := Build(tb.Context(), cfg.FailPoints)
	if err != nil {
		tb.Fatal(err)
	}
	root := cfg.Root
	if root == "" {
		if root, err = os.MkdirTemp(cfg.Dir, "tn-"); err != nil { //nolint:usetesting // Sockets need a short path.
			tb.Fatal(err)
		}
	}
	i := &Instance{Root: root, Bin: bin, t: tb, env: cfg.Env, wrap: cfg.Wrap}
	if cfg.Snapd {
		i.args = []string{"--snapd-socket", i.Path("run", "snapd.socket")}
	}
	tb.Cleanup(i.end)
	if err := i.lay(cfg); err != nil {
		tb.Fatalf("mount %s: %v", root, err)
	}
	if cfg.RunSize != 0 {
		err := errors.Join(os.Mkdir(i.Path("run"), 0o755),
			unix.Mount("tenure-test", i.Path("run"), "tmpfs", 0, fmt.Sprintf("mode=0755,size=%d", cfg.RunSize)))
		if err != nil {
			tb.Fatalf("mount run/: %v", err)
		}
		i.runInMemory = true
	}
	if !cfg.Observe {
		if err := observeNothing(root); err != nil {
			tb.Fatal(err)
		}
	}
	if !cfg.Waits {
		i.Start()
	}
	return i
}

// lay mounts what the root lies on.
func (i *Instance) lay(cfg Config) error {
	switch {
	case cfg.Mount != nil:
		unmount, err := cfg.Mount(i.Root)
		if err == nil {
			i.unmount = func(context.Context) error { return unmount() }
		}
		return err
	case cfg.Disk:
		return nil
	}
	err := unix.Mount("tenure-test", i.Root, "tmpfs", 0, "mode=0755,size=2g")
	if err == nil {
		i.unmount = func(ctx context.Context) error { return mount.Unmount(ctx, i.Root) }
	}
	return err
}

// observeNothing sets refresh.observe before there is a daemon that could be asked:
// tests count changes.
func observeNothing(root string) error {
	paths := refresh.Paths{Root: root}
	if err := os.MkdirAll(paths.State(), 0o755); err != nil {
		return err
	}
	db, err := journal.Open(journal.Config{Path: filepath.Join(paths.State(), "state.db")})
	if err != nil {
		return err
	}
	settings := journal.NewCollection[string](db, journal.Settings)
	return errors.Join(settings.Put("refresh.observe", "0s"), settings.Put("snapshots.automatic.retention", "no"), db.Close())
}

// end shuts the instance down, and fails the test over what is left.
func (i *Instance) end() {
	if i.daemon != nil {
		if i.t.Failed() {
			i.aftermath()
		}
		i.daemon.kill()
	}
	ctx, cancel := context.WithTimeout(context.Background(), 2*Patience)
	defer cancel()
	out, err := exec.CommandContext(ctx, filepath.Join(i.Bin, "tenured"), "shutdown", "--root", i.Root).CombinedOutput()
	if err != nil {
		i.t.Errorf("tenured shutdown: %v\n%s", err, out)
	}
	if i.runInMemory {
		if err := mount.Unmount(ctx, i.Path("run")); err != nil {
			i.t.Error(err)
		}
	}
	for _, left := range Leftovers(i.Root) {
		i.t.Errorf("left behind: %s", left)
	}
	// Whatever time that took, what is left goes.
	ctx, cancel = context.WithTimeout(context.Background(), Patience)
	defer cancel()
	err = sweep(ctx, i.Root)
	if i.unmount != nil {
		err = errors.Join(err, i.unmount(ctx))
	}
	if err := errors.Join(err, os.RemoveAll(i.Root)); err != nil {
		i.t.Error(err)
	}
}

// Said is what the daemon has written so far.
func (i *Instance) Said() string { return i.daemon.said() }

// Start starts the daemon and waits until it answers.
func (i *Instance) Start() {
	i.t.Helper()
	if err := i.TryStart(); err != nil {
		i.t.Fatalf("start tenured: %v", err)
	}
}

// TryStart is Start for a daemon that may die before it answers.
func (i *Instance) TryStart() error {
	argv := slices.Concat(i.wrap, []string{filepath.Join(i.Bin, "tenured"), "--root", i.Root}, i.args)
	d, err := startDaemon(argv, i.env)
	if err != nil {
		return err
	}
	i.daemon = d
	select {
	case <-d.ready:
		return nil
	case <-d.ended:
		return fmt.Errorf("it ended at once: %s", d.said())
	case <-time.After(Patience):
		return fmt.Errorf("it is not ready after %s: %s", Patience, d.said())
	}
}

// Kill ends the daemon by SIGKILL.
func (i *Instance) Kill() { i.daemon.kill() }

// Ended is closed when the daemon that was last started has ended.
func (i *Instance) Ended() <-chan struct{} { return i.daemon.ended }

// PID is the process of the daemon that was last started.
func (i *Instance) PID() int { return i.daemon.cmd.Process.Pid }

// Holder is the process of the holder.
func (i *Instance) Holder() int {
	i.t.Helper()
	for _, group := range groups(i.Root) {
		if infos, err := group.Processes(); err == nil && strings.HasSuffix(group.Path(), "-holder") && len(infos) > 0 {
			return infos[0].PID
		}
	}
	i.t.Fatal("there is no holder")
	return 0
}

// Stop ends the daemon as systemctl would, and fails the test if it does not
// end well.
func (i *Instance) Stop() {
	i.t.Helper()
	if err := i.daemon.stop(); err != nil {
		i.t.Fatalf("stop tenured: %v\n%s", err, i.daemon.said())
	}
}

// Path is a path below the root.
func (i *Instance) Path(elem ...string) string {
	return filepath.Join(append([]string{i.Root}, elem...)...)
}

// Common is $SNAP_COMMON of a snap, as seen from outside.
func (i *Instance) Common(snap string) string { return i.Path("var", "snap", snap, "common") }

// Client speaks to the daemon.
func (i *Instance) Client() *client.Client { return client.New(client.Config{Root: i.Root}) }

// Result is what a command came to.
type Result struct {
	Stdout, Stderr string
	// Status is the exit status, -1 for a signal.
	Status int
}

// Try runs the command line.
func (i *Instance) Try(args ...string) Result { return i.Exec(filepath.Join(i.Bin, "tenure"), args...) }

// Tenure runs the command line, fails the test if that fails, and returns what
// it printed.
func (i *Instance) Tenure(args ...string) string {
	i.t.Helper()
	result := i.Try(args...)
	if result.Status != 0 {
		i.t.Fatalf("tenure %s: exit status %d\n%s%s", strings.Join(args, " "), result.Status, result.Stdout, result.Stderr)
	}
	return result.Stdout
}

// Exec runs a program with TENURE_ROOT set.
func (i *Instance) Exec(path string, args ...string) Result {
	return i.execFor(5*Patience, path, args...)
}

// execFor is Exec for a program that is killed when a time is over.
func (i *Instance) execFor(patience time.Duration, path string, args ...string) Result {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.Env = append(os.Environ(), "TENURE_ROOT="+i.Root)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	if cmd.ProcessState == nil {
		return Result{Stderr: fmt.Sprint(err), Status: -1}
	}
	return Result{Stdout: stdout.String(), Stderr: stderr.String(), Status: cmd.ProcessState.ExitCode()}
}

// Units are the units that are alive or armed, by name.
func (i *Instance) Units() map[string]client.Unit {
	i.t.Helper()
	list, err := i.Client().Units(i.t.Context())
	if err != nil {
		i.t.Fatal(err)
	}
	units := make(map[string]client.Unit, len(list))
	for _, unit := range list {
		units[unit.ID] = unit
	}
	return units
}

// glance is how often Await looks again: of what a unit is nobody tells at once.
const glance = 10 * time.Millisecond

// Await waits until a unit is as wanted, which the words say.
func (i *Instance) Await(unit, words string, wanted func(client.Unit) bool) client.Unit {
	i.t.Helper()
	lost := time.After(Patience)
	again := time.NewTicker(glance)
	defer again.Stop()
	for {
		if found := i.Units()[unit]; wanted(found) {
			return found
		}
		select {
		case <-again.C:
		case <-lost:
			i.t.Fatalf("it never came that %s %s: %+v\nlast it said:\n%s\nand of all is known:\n%s%s",
				unit, words, i.Units()[unit], i.Try("logs", "-n=30", unit).Stdout, i.Try("ps").Stdout, i.Try("timeline").Stdout)
		}
	}
}

// Main is the main process of a unit that is alive, as soon as that is known.
func (i *Instance) Main(unit string) tenure.Process {
	i.t.Helper()
	isMain := func(p client.Process) bool { return p.Main }
	found := i.Await(unit, "has a main process", func(u client.Unit) bool { return slices.ContainsFunc(u.Processes, isMain) })
	p := found.Processes[slices.IndexFunc(found.Processes, isMain)]
	return tenure.Process{PID: p.PID, Start: p.Start}
}

// server is a tenured that was started, and what it says.
type server struct {
	cmd          *exec.Cmd
	output       *output
	ready, ended chan struct{}
	err          error
}

func startDaemon(argv, env []string) (*server, error) {
	d := &server{
		cmd:   exec.CommandContext(context.Background(), argv[0], argv[1:]...), // Ended by its test.
		ready: make(chan struct{}), ended: make(chan struct{}),
	}
	d.cmd.Env = append(os.Environ(), env...)
	d.output = &output{wanted: []byte("msg=ready"), found: d.ready}
	said, says, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer says.Close() //nolint:errcheck // The daemon's.
	d.cmd.Stderr, d.cmd.Stdout = says, says
	copied := make(chan struct{})
	go func() {
		defer close(copied)
		defer said.Close()             //nolint:errcheck // Read to its end.
		_, _ = io.Copy(d.output, said) // It writes to memory.
	}()
	// It ends with the test, even with one that is killed.
	d.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	started := make(chan error)
	go d.live(started, copied)
	return d, <-started
}

// live starts the daemon, says so, and waits for its end, on a thread of its own:
// the daemon is killed with the thread that started it.
func (d *server) live(started chan<- error, copied <-chan struct{}) {
	runtime.LockOSThread()
	err := d.cmd.Start()
	started <- err
	if err != nil {
		return
	}
	d.err = d.cmd.Wait()
	select {
	case <-copied:
	case <-time.After(time.Second): // What the daemon has started may go on, and say something.
	}
	close(d.ended)
}

func (d *server) kill() {
	_ = d.cmd.Process.Kill() // It may have ended.
	<-d.ended
}

func (d *server) stop() error {
	if err := d.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		return err
	}
	select {
	case <-d.ended:
		return d.err
	case <-time.After(Patience):
		d.kill()
		return fmt.Errorf("it has not ended %s after SIGTERM", Patience)
	}
}

func (d *server) said() string { return d.output.String() }

// output keeps what the daemon writes, and tells when it writes what is wanted.
type output struct {
	mu     sync.Mutex
	buf    bytes.Buffer
	wanted []byte
	found  chan struct{}
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.buf.Write(p)
	if o.wanted != nil && bytes.Contains(o.buf.Bytes(), o.wanted) {
		o.wanted = nil
		close(o.found)
	}
	return len(p), nil
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.String()
}
