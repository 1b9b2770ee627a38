package test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"tenure/client"
	"tenure/examples/clients/unixdial"
	"tenure/internal/proc"
	"tenure/test/rig"
)

// upgraded is an instance whose daemon is upgraded.
type upgraded struct {
	*rig.Instance
	t *testing.T
}

// newUpgraded is an instance whose programs are in a directory that nobody but root can change.
func newUpgraded(t *testing.T) *upgraded {
	t.Helper()
	// Before anything runs that is to run while the daemon is replaced, and no longer.
	if _, err := rig.BuildNext(t.Context()); err != nil {
		t.Fatal(err)
	}
	i := rig.New(t, rig.Config{})
	u := &upgraded{Instance: i, t: t}
	i.Stop()
	i.Bin = u.put("bin", filepath.Join(i.Bin, "tenured"))
	i.Start()
	return u
}

// put puts a tenured, and the programs that belong to it, into a directory, in place of what is there.
func (u *upgraded) put(dir, tenured string) string {
	u.t.Helper()
	dir = u.Path("programs", dir)
	if err := os.MkdirAll(dir, 0o755); err != nil { //nolint:gosec // Everybody may see programs.
		u.t.Fatal(err)
	}
	for _, name := range []string{"tenured", "tenure", "tenure-run", "snapctl"} {
		from := filepath.Join(u.Bin, name)
		if name == "tenured" {
			from = tenured
		}
		text, err := os.ReadFile(from)
		to := filepath.Join(dir, name)
		if err == nil {
			err = writeProgram(to+".new", text)
		}
		if err == nil {
			err = os.Rename(to+".new", to) // As a package manager does it.
		}
		if err != nil {
			u.t.Fatal(err)
		}
	}
	return dir
}

// writeProgram writes a file that can be executed at once: nobody who is being started meanwhile has it open for writing, for it is
// closed for them no sooner than when they are.
func writeProgram(path string, text []byte) error {
	syscall.ForkLock.RLock()
	defer syscall.ForkLock.RUnlock()
	return os.WriteFile(path, text, 0o755) //nolint:gosec // A program.
}

// next puts the next version into a directory, whose name says how it fails, and is its path.
func (u *upgraded) next(dir string) string {
	u.t.Helper()
	program, err := rig.BuildNext(u.t.Context())
	if err != nil {
		u.t.Fatal(err)
	}
	return filepath.Join(u.put(dir, program), "tenured")
}

// version is that of the daemon.
func (u *upgraded) version() string {
	u.t.Helper()
	daemon, err := u.Client().Daemon(u.t.Context())
	if err != nil {
		u.t.Fatal(err)
	}
	if daemon.PID != u.PID() {
		u.t.Errorf("the daemon is process %d, want %d", daemon.PID, u.PID())
	}
	return daemon.Version
}

// processes are those of all units, by unit.
func (u *upgraded) processes() map[string][]int {
	u.t.Helper()
	found := map[string][]int{}
	for id, unit := range u.Units() {
		for _, p := range unit.Processes {
			found[id] = append(found[id], p.PID)
		}
		slices.Sort(found[id])
	}
	return found
}

// upgradedYAML are a service with a declared socket that has a descriptor kept and converses with whoever
// connects, and one with a workload.
const upgradedYAML = `
name: probe
version: '1'
base: bare
apps:
  svc:
    command: bin/probe svc passed store:kept notify:READY:1 converse run
    daemon: notify
    plugs: [network-bind]
    sockets:
      main:
        listen-stream: $SNAP_COMMON/main.sock
  manager:
    command: bin/probe manager child:vm run
    daemon: simple
    lifecycle:
      workloads:
        vm: {match: ' vm '}
`

// An upgrade of the daemon under load touches nothing: clients of services and of the daemon are answered,
// whoever waits for a change sees its end, and hooks, workloads, connections and kept descriptors stay.
func TestUpgradeUnderLoad(t *testing.T) {
	t.Parallel()
	u := newUpgraded(t)
	old := filepath.Join(u.put("old", filepath.Join(u.Bin, "tenured")), "tenured")
	u.Tenure("install", "--dangerous", snap(t, "debian12", "1"))
	heard := listen(t, u.Instance)
	u.Tenure("install", "--dangerous", probeSnap(t, u.Instance, upgradedYAML))
	open := conversed(t, u.Common("probe")+"/main.sock")
	line := open.says()
	if got := heard.next("svc"); got != "passed main" {
		t.Fatalf("the first one was %s", got)
	}
	wait := map[string]string{"pre-refresh": `read -r line <"$SNAP_COMMON/pre-refresh"`}
	u.Tenure("install", "--dangerous", hooked(t, u.Instance, wait))
	fifo := filepath.Join(u.Common("hooked"), "pre-refresh")
	if err := unix.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	refresh, hook := u.refreshing(hooked(t, u.Instance, wait), fifo)
	before := u.processes()
	load := u.load()

	// The package is replaced on disk, and then there is another one that knows a newer schema.
	u.put("bin", u.next("plain"))
	newer := u.next("next")
	u.Bin = filepath.Dir(newer) // Only that one can shut down what it has written.
	for _, program := range [][]string{nil, {newer}} {
		said := u.Tenure(append([]string{"daemon", "upgrade"}, program...)...)
		if !strings.HasSuffix(said, "to next\n") {
			t.Errorf("upgrade to %v says %q", program, said)
		}
		if got := u.version(); got != rig.Next {
			t.Errorf("after the upgrade to %v the version is %q", program, got)
		}
		if diff := cmp.Diff(before, u.processes()); diff != "" {
			t.Errorf("processes after the upgrade to %v (-before +after):\n%s", program, diff)
		}
		if got := open.says(); got != line {
			t.Errorf("on an open connection there is %q, before it was %q", got, line)
		}
	}
	load.end()
	if _, err := fmt.Fprintln(hook, "go on"); err != nil {
		t.Fatal(err)
	}
	if err := hook.Close(); err != nil {
		t.Fatal(err)
	}
	if r := <-refresh; r.Status != 0 || !strings.Contains(r.Stdout, "hooked") {
		t.Errorf("who waits for a refresh sees %+v", r)
	}
	u.Tenure("restart", "probe.svc")
	conversed(t, u.Common("probe")+"/main.sock").says()
	heard.holds("svc", "kept=kept of "+strings.Fields(line)[2])

	// The way back is refused without harm: the state is newer than what that program knows.
	ready := strings.Count(u.Said(), "msg=ready")
	if r := u.Try("daemon", "upgrade", old); r.Status != 1 || !strings.Contains(r.Stderr, "newer version of Tenure") {
		t.Errorf("a downgrade: %+v", r)
	}
	if got := strings.Count(u.Said(), "msg=ready"); got != ready || u.version() != rig.Next {
		t.Errorf("after a downgrade that was refused the daemon is another")
	}
}

// refreshing begins a refresh that waits in its pre-refresh hook, which goes on with the file.
func (u *upgraded) refreshing(file, fifo string) (end <-chan rig.Result, hook *os.File) {
	u.t.Helper()
	done := make(chan rig.Result, 1)
	go func() { done <- u.Try("refresh", "--dangerous", file) }()
	hook, err := os.OpenFile(fifo, os.O_WRONLY, 0) // It is open when the hook has opened it too.
	if err != nil {
		u.t.Fatal(err)
	}
	return done, hook
}

// conversation is a connection that stays open.
type conversation struct {
	t    *testing.T
	conn interface {
		Write(p []byte) (int, error)
	}
	answers *bufio.Reader
}

func conversed(t *testing.T, socket string) *conversation {
	t.Helper()
	conn, err := unixdial.Dial(t.Context(), socket)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return &conversation{t: t, conn: conn, answers: bufio.NewReader(conn)}
}

// says is the answer to one question.
func (c *conversation) says() string {
	c.t.Helper()
	if _, err := fmt.Fprintln(c.conn, "who?"); err != nil {
		c.t.Fatal(err)
	}
	line, err := c.answers.ReadString('\n')
	if err != nil {
		c.t.Fatal(err)
	}
	return line
}

// gets is the status of the answer to one request in HTTP.
func (c *conversation) gets(path string) int {
	c.t.Helper()
	if _, err := fmt.Fprintf(c.conn, "GET %s HTTP/1.1\r\nHost: localhost\r\n\r\n", path); err != nil {
		c.t.Fatal(err)
	}
	resp, err := http.ReadResponse(c.answers, nil)
	if err != nil {
		c.t.Fatal(err)
	}
	defer resp.Body.Close() //nolint:errcheck // Read whole.
	if _, err := io.Copy(io.Discard, resp.Body); err != nil {
		c.t.Fatal(err)
	}
	return resp.StatusCode
}

// upgradeLoad are clients that ask again and again, and must all be answered.
type upgradeLoad struct {
	t      *testing.T
	cancel context.CancelFunc
	done   sync.WaitGroup
	mu     sync.Mutex
	asked  map[string]int
}

// load has clients ask the service, and the daemon on new connections and on ones that stay open, for reading
// and for changes; and others who would be the daemon.
func (u *upgraded) load() *upgradeLoad {
	ctx, cancel := context.WithCancel(u.t.Context())
	l := &upgradeLoad{t: u.t, cancel: cancel, asked: map[string]int{}}
	u.t.Cleanup(l.end)
	kept := u.Client()
	for what, ask := range map[string]func() error{
		"service": func() error {
			conn, err := unixdial.Dial(ctx, u.Common("probe")+"/main.sock")
			if err != nil {
				return err
			}
			defer conn.Close() //nolint:errcheck // All has been read.
			if _, err := fmt.Fprintln(conn, "who?"); err != nil {
				return err
			}
			_, err = bufio.NewReader(conn).ReadString('\n')
			return err
		},
		"daemon, anew": func() error { _, err := u.Client().Snaps(ctx, true); return err },
		"daemon":       func() error { _, err := kept.Units(ctx); return err },
		"configuration": func() error {
			_, err := u.Client().SetConf(ctx, "system", map[string]any{"refresh.retain": 3})
			if failed, answered := errors.AsType[*client.Error](err); answered && failed.Kind == "snap-change-conflict" {
				return nil // The change before has not ended.
			}
			return err
		},
		"another daemon": func() error {
			out, err := exec.CommandContext(ctx, filepath.Join(u.Bin, "tenured"), "--root", u.Root).CombinedOutput()
			if _, exited := errors.AsType[*exec.ExitError](err); exited && strings.Contains(string(out), "another tenured is running") {
				return nil
			}
			return fmt.Errorf("it is not refused: %w\n%s", err, out)
		},
	} {
		l.done.Go(func() {
			at := time.NewTicker(pace)
			defer at.Stop()
			for ctx.Err() == nil {
				<-at.C
				err := ask()
				if ctx.Err() != nil {
					return
				}
				if err != nil {
					l.t.Errorf("%s: %v", what, err)
				}
				l.mu.Lock()
				l.asked[what]++
				l.mu.Unlock()
			}
		})
	}
	return l
}

func (l *upgradeLoad) end() {
	l.cancel()
	l.done.Wait()
	l.mu.Lock()
	defer l.mu.Unlock()
	l.t.Logf("asked: %v", l.asked)
}

// patientYAML is a snap whose service ends when it is told to, and not before somebody has written to a pipe; with one that obeys.
const patientYAML = `
name: NAME
version: '1'
base: debian12
apps:
  slow:
    command: bin/slow
    daemon: simple
    stop-timeout: 5m
  boss:
    command: bin/obey boss
    daemon: simple
  say: {command: bin/idle}
`

// patient installs the snap, and returns its file.
func (u *upgraded) patient(name string) (file string) {
	u.t.Helper()
	dir := u.t.TempDir()
	writeFile(u.t, filepath.Join(dir, "meta/snap.yaml"), strings.ReplaceAll(patientYAML, "NAME", name))
	writeFile(u.t, filepath.Join(dir, "bin/obey"), obedient)
	writeFile(u.t, filepath.Join(dir, "bin/idle"), "#!/bin/sh\necho \"$0 $*\"\n")
	writeFile(u.t, filepath.Join(dir, "bin/slow"), "#!/bin/sh\necho begin\n"+
		`trap 'trap "" TERM; [ -p "$SNAP_COMMON/go" ] || exit 0; read -r line <"$SNAP_COMMON/go"; echo "$line"; exit 0' TERM; while :; do sleep infinity & wait $!; done`+"\n")
	file = dir + ".snap"
	u.Tenure("pack", "--compression", "lz4", dir, file)
	if err := os.MkdirAll(u.Common(name), 0o755); err != nil { //nolint:gosec // As Tenure makes it.
		u.t.Fatal(err)
	}
	if err := unix.Mkfifo(filepath.Join(u.Common(name), "go"), 0o600); err != nil {
		u.t.Fatal(err)
	}
	u.Tenure("install", "--dangerous", file)
	return file
}

// ending is the pipe of a slow service that is told to end, as soon as it is. The next time it does not wait.
func (u *upgraded) ending(name string) *os.File {
	u.t.Helper()
	path := filepath.Join(u.Common(name), "go")
	pipe, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err = errors.Join(err, os.Remove(path)); err != nil {
		u.t.Fatal(err)
	}
	return pipe
}

// Whoever waits for what happens waits through an upgrade: an app for a refresh, snapctl for services, and clients for
// changes, notices and lines of logs; connections on which nothing is asked stay. Nobody has to ask again, and nobody keeps the upgrade waiting.
func TestUpgradeWhileOthersWait(t *testing.T) {
	t.Parallel()
	u := newUpgraded(t)
	boss := newServant(t, u.Instance, "two", "boss")
	u.Tenure("install", "--dangerous", snap(t, "debian12", "1"))
	one := u.patient("one")
	u.patient("two")
	ended := make(chan string, 5)
	wait := func(what string, f func() error) {
		go func() {
			err := f()
			ended <- what
			if err != nil {
				t.Errorf("%s: %v", what, err)
			}
		}()
	}
	done := func(r rig.Result, want string) error {
		if r.Status != 0 || !strings.Contains(r.Stdout, want) {
			return fmt.Errorf("it comes to %+v, want %q", r, want)
		}
		return nil
	}
	wait("refresh", func() error { return done(u.Try("refresh", "--dangerous", one), "one") })
	first := u.ending("one")
	changes, err := u.Client().Changes(t.Context(), "in-progress", "one")
	if err != nil || len(changes) != 1 {
		t.Fatalf("changes in progress: %+v, %v", changes, err)
	}
	id := changes[0].ID
	run := exec.CommandContext(t.Context(), u.Path("snap/bin/one.say"), "on")
	var out bytes.Buffer
	run.Stdout = &out
	says, err := run.StderrPipe()
	if err = errors.Join(err, run.Start()); err != nil {
		t.Fatal(err)
	}
	said := bufio.NewReader(says)
	if line, err := said.ReadString('\n'); err != nil || !strings.Contains(line, "is being changed") {
		t.Fatalf("a run of an app that has to wait says %q, %v", line, err)
	}
	wait("snapctl", func() error {
		if out, status := boss.try("snapctl stop two.slow"); status != 0 {
			return fmt.Errorf("status %d: %s", status, out)
		}
		return nil
	})
	second := u.ending("two")
	followed := make(chan struct{})
	wait("logs", func() error {
		err := u.Client().Logs(t.Context(), []string{"two.slow"}, -1, true, func(line client.Log) error {
			switch line.Message {
			case "begin":
				close(followed)
			case "go on":
				return errWritten
			}
			return nil
		})
		if errors.Is(err, errWritten) {
			return nil
		}
		return fmt.Errorf("it has ended: %w", err)
	})
	wait("watch", func() error {
		_, err := u.Client().Follow(t.Context(), id, changes[0].Revision)
		return err
	})
	wait("notices", func() error {
		began := time.Now()
		found, err := u.Client().Notices(t.Context(), client.NoticeFilter{Types: []string{"change-update"}, Keys: []string{id}, After: began, Timeout: 5 * rig.Patience})
		if err == nil && len(found) != 1 {
			err = fmt.Errorf("there are %d", len(found))
		}
		return err
	})
	<-followed
	next := u.next("plain")
	silent, idle := conversed(t, u.Path("run/tenure/tenured.sock")), conversed(t, u.Path("run/tenure/tenured.sock"))
	if got := silent.gets("/v2/system-info"); got != http.StatusOK {
		t.Errorf("on a connection that is to be silent the answer is %d", got)
	}
	for range 2 {
		if got := idle.gets("/v2/system-info"); got != http.StatusOK {
			t.Errorf("on a connection that is kept the answer is %d", got)
		}
		u.Tenure("daemon", "upgrade", next)
	}
	for _, kept := range []*conversation{idle, silent} {
		if got := kept.gets("/v2/system-info"); got != http.StatusOK {
			t.Errorf("after upgrades the answer is %d", got)
		}
	}
	if strings.Contains(u.Said(), "not everybody was answered") {
		t.Error("somebody has kept the upgrade waiting")
	}
	for _, pipe := range []*os.File{first, second} {
		if _, err := fmt.Fprintln(pipe, "go on"); err != nil {
			t.Fatal(err)
		}
		if err := pipe.Close(); err != nil {
			t.Fatal(err)
		}
	}
	for range cap(ended) {
		t.Logf("%s has ended", <-ended)
	}
	rest, err := io.ReadAll(said)
	if err = errors.Join(err, run.Wait()); err != nil || !strings.HasSuffix(out.String(), " on\n") {
		t.Errorf("the app says %q, %q, %v", out.String(), rest, err)
	}
}

// A new daemon that does not get ready, in whatever way, is replaced by the old one by itself. What is
// in progress goes on.
func TestUpgradeGoesBack(t *testing.T) {
	t.Parallel()
	u := newUpgraded(t)
	u.Tenure("install", "--dangerous", snap(t, "hello", "1"))
	before, version := u.processes(), u.version()
	for _, c := range []struct{ dir, why string }{
		{"next-panics-at-rehearsal", "it panics on purpose"},
		{"hangs-at-rehearsal", "it was not ready after 2s"},
		{"next-exits-at-inherit", "it fails on purpose"},
		{"next-exits-at-start", "it fails on purpose"},
		{"next-hangs-at-start", "it was not ready after 2s"},
		{"exits-at-ready", "it fails on purpose"},
		{"next-exits-at-ready", "it fails on purpose"},
	} {
		patience := "1m"
		if strings.Contains(c.dir, "hangs") {
			patience = "2s"
		}
		r := u.Try("daemon", "upgrade", "--json", "--patience", patience, u.next(c.dir))
		var outcome client.Upgrade
		if err := json.Unmarshal([]byte(r.Stdout), &outcome); err != nil {
			t.Fatalf("%s: %v: %+v", c.dir, err, r)
		}
		if r.Status != 1 || outcome.Status != client.UpgradeError || !strings.Contains(outcome.Err, c.why) || !strings.Contains(r.Stderr, version+" serves again") {
			t.Errorf("%s: %+v, want an error because of %q", c.dir, r, c.why)
		}
		if got := u.version(); got != version {
			t.Errorf("%s: %q serves, want %q", c.dir, got, version)
		}
		if diff := cmp.Diff(before, u.processes()); diff != "" {
			t.Errorf("%s: processes (-before +after):\n%s", c.dir, diff)
		}
		u.Tenure("set", "system", "refresh.retain=3")
	}
	if left, err := filepath.Glob(u.Path("var/lib/tenure/*upgrade*")); err != nil || len(left) > 0 {
		t.Errorf("upgrades leave %v, %v", left, err)
	}
	u.Tenure("refresh", "--dangerous", snap(t, "hello", "2"))
}

// A new daemon that crashes in its own start, where its rehearsal did not, is replaced by the old one, which has waited beside it: who is
// connected is answered, and what runs goes on.
func TestUpgradeCrashes(t *testing.T) {
	t.Parallel()
	u := newUpgraded(t)
	u.Tenure("install", "--dangerous", snap(t, "hello", "1"))
	before, version, holder, known := u.processes(), u.version(), u.Holder(), u.PID()
	for _, dir := range []string{"panics-at-start", "next-panics-at-ready"} {
		next, idle := u.next(dir), conversed(t, u.Path("run/tenure/tenured.sock"))
		if got := idle.gets("/v2/system-info"); got != http.StatusOK {
			t.Errorf("%s: before it the answer is %d", dir, got)
		}
		r := u.Try("daemon", "upgrade", next)
		if r.Status != 1 || !strings.Contains(r.Stderr, "it ended before it was ready") || !strings.Contains(r.Stderr, version+" serves again") {
			t.Errorf("%s: %+v", dir, r)
		}
		daemon, err := u.Client().Daemon(t.Context())
		if err != nil || daemon.Version != version || daemon.PID == known {
			t.Fatalf("%s: %+v, %v answers after process %d", dir, daemon, err, known)
		}
		known = daemon.PID
		if got := idle.gets("/v2/system-info"); got != http.StatusOK {
			t.Errorf("%s: on a connection that is kept the answer is %d", dir, got)
		}
		if diff := cmp.Diff(before, u.processes()); diff != "" || u.Holder() != holder {
			t.Errorf("%s: the holder is process %d, want %d; processes (-before +after):\n%s", dir, u.Holder(), holder, diff)
		}
		if r := exec.CommandContext(t.Context(), filepath.Join(u.Bin, "tenured"), "--root", u.Root).Run(); r == nil { //nolint:gosec // A program of the test.
			t.Errorf("%s: there are two daemons", dir)
		}
	}
	if left, err := filepath.Glob(u.Path("var/lib/tenure/*upgrade*")); err != nil || len(left) > 0 {
		t.Errorf("upgrades leave %v, %v", left, err)
	}
	u.Tenure("refresh", "--dangerous", snap(t, "hello", "2"))
	daemon, err := proc.OpenPID(known)
	if err != nil {
		t.Fatal(err)
	}
	defer daemon.Close()
	if err := daemon.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if exit, err := daemon.Wait(t.Context()); err != nil || exit.Known && !exit.Success() {
		t.Errorf("it ends with %v, %v", exit, err)
	}
	u.Start()
	u.Tenure("daemon", "upgrade", u.next("plain"))
}

// The daemon may come out of a snap: the revision that it runs from stays until it runs from another one.
func TestUpgradeToASnap(t *testing.T) {
	t.Parallel()
	u := newUpgraded(t)
	dir := filepath.Dir(u.put("own/bin", filepath.Join(u.Bin, "tenured")))
	writeFile(t, filepath.Join(dir, "meta/snap.yaml"), "name: own\nversion: '1'\nbase: bare\napps:\n  tenure: {command: bin/tenure}\n")
	file := dir + ".snap"
	u.Tenure("pack", "--compression", "lz4", dir, file)
	u.Tenure("install", "--dangerous", file)
	runsFrom := func(revision string) {
		t.Helper()
		u.Tenure("daemon", "upgrade", u.Path("snap/own/current/bin/tenured"))
		daemon, err := u.Client().Daemon(t.Context())
		if want := u.Path("snap/own", revision, "bin/tenured"); err != nil || daemon.Program != want {
			t.Errorf("the daemon runs from %s, %v, want %s", daemon.Program, err, want)
		}
	}
	runsFrom("x1")
	for range 3 {
		u.Tenure("refresh", "--dangerous", file)
	}
	if _, err := os.Stat(u.Path("snap/own/x1/bin/tenured")); err != nil {
		t.Errorf("the revision that the daemon runs from: %v", err)
	}
	if _, err := os.Stat(u.Path("snap/own/x2/bin/tenured")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the one that nobody runs from: %v", err)
	}
	runsFrom("x4")
	u.Tenure("refresh", "--dangerous", file)
	if _, err := os.Stat(u.Path("snap/own/x1/bin/tenured")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the one that it no longer runs from: %v", err)
	}
}

// What is not fit to be the daemon is refused, and the daemon goes on as if nobody had asked.
func TestUpgradeIsRefused(t *testing.T) {
	t.Parallel()
	u := newUpgraded(t)
	program := u.next("others")
	if err := os.Chown(program, 1, 1); err != nil {
		t.Fatal(err)
	}
	open := u.next("open")
	if err := os.Chmod(filepath.Dir(open), 0o777); err != nil { //nolint:gosec // It is what is to be refused.
		t.Fatal(err)
	}
	shared := u.next("shared")
	if err := os.Chmod(filepath.Dir(shared), 0o777|os.ModeSticky); err != nil {
		t.Fatal(err)
	}
	given, linked := u.next("given"), u.next("linked")
	if err := os.Chown(filepath.Join(filepath.Dir(given), "tenure-run"), 1, 1); err != nil {
		t.Fatal(err)
	}
	link := filepath.Join(filepath.Dir(linked), "snapctl")
	if err := errors.Join(os.Remove(link), os.Symlink(linked, link)); err != nil {
		t.Fatal(err)
	}
	data := filepath.Join(u.put("../var/snap/hello/common", filepath.Join(u.Bin, "tenured")), "tenured")
	writeFile(t, u.Path("script"), "#!/bin/sh\necho '{}'\n")
	for path, why := range map[string]string{
		program:                        "others than root",
		open:                           "others than root",
		shared:                         "see the owner and the mode of " + filepath.Dir(shared),
		given:                          "tenure-run: others than root",
		linked:                         "snapctl: it is a link",
		data:                           "is for the data of snaps",
		u.Path("script"):               "not a tenured",
		filepath.Join(u.Bin, "tenure"): "not a tenured",
		u.Path("programs"):             "not an executable file",
		u.Path("missing"):              "no such file",
		u.next("exits-at-preflight"):   "it fails on purpose",
		u.next("panics-at-preflight"):  "it panics on purpose",
	} {
		if r := u.Try("daemon", "upgrade", path); r.Status != 1 || !strings.Contains(r.Stderr, why) {
			t.Errorf("%s: %+v, want an error because of %q", path, r, why)
		}
	}
	if err := os.RemoveAll(u.Path("var/snap/hello")); err != nil {
		t.Fatal(err)
	}
	if got := strings.Count(u.Said(), "msg=ready"); got != 1 {
		t.Errorf("the daemon has begun %d times, want 1", got)
	}
	// The last one has done no harm to the next.
	u.Tenure("daemon", "upgrade", u.next("plain"))
	if status := u.Tenure("daemon", "status"); !strings.Contains(status, "to next at "+time.Now().Format("2006-")) {
		t.Errorf("the status is\n%s", status)
	}
}

// While it is asked whether a program is fit, the daemon waits for its own children: every package file is read by one.
func TestUpgradeBesideInstalls(t *testing.T) {
	t.Parallel()
	u := newUpgraded(t)
	refused, file := u.next("exits-at-preflight"), snap(t, "hello", "1")
	ctx, cancel := context.WithCancel(t.Context())
	var asking sync.WaitGroup
	defer asking.Wait()
	defer cancel()
	asked := make(chan struct{})
	asking.Go(func() {
		defer close(asked)
		for range 5 {
			if r := u.Try("daemon", "upgrade", refused); r.Status != 1 || !strings.Contains(r.Stderr, "it fails on purpose") {
				t.Errorf("a program that is not fit: %+v", r)
			}
		}
	})
	for installed := false; ctx.Err() == nil; installed = true {
		select {
		case <-asked:
			if installed {
				return
			}
		default:
		}
		if r := u.Try("plan", "install", "--dangerous", file); r.Status != 0 {
			t.Fatalf("beside it: %+v", r)
		}
	}
}

// A daemon that is ended while another one rehearses leaves the state to whoever comes: the journal that the
// other one has migrated is as it was.
func TestUpgradeIsEndedAtItsRehearsal(t *testing.T) {
	t.Parallel()
	u := newUpgraded(t)
	u.Tenure("install", "--dangerous", snap(t, "hello", "1"))
	before := u.processes()
	begun, err := u.Client().Upgrade(t.Context(), u.next("next-hangs-at-rehearsal"), time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	u.awaitMigration()
	u.Stop()
	u.Start()
	daemon, err := u.Client().Daemon(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if up := daemon.Upgrade; up == nil || up.ID != begun.ID || up.Status != client.UpgradeError || daemon.Version != begun.From {
		t.Errorf("what answers is %+v, with the upgrade %+v", daemon, daemon.Upgrade)
	}
	if diff := cmp.Diff(before, u.processes()); diff != "" {
		t.Errorf("processes (-before +after):\n%s", diff)
	}
	u.Tenure("refresh", "--dangerous", snap(t, "hello", "2"))
}

// awaitMigration waits until a rehearsal has brought the journal to its schema.
func (u *upgraded) awaitMigration() {
	u.t.Helper()
	for strings.Count(u.Said(), "migrate journal") < 2 { // The first is that of a copy.
		select {
		case <-u.t.Context().Done():
			u.t.Fatal("no journal is migrated")
		case <-time.After(10 * time.Millisecond):
		}
	}
}
