package systemd

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"tenure"
	"tenure/internal/supervise"
	"tenure/internal/supervise/supervisetest"
)

// sockets are one of each kind; the directory of the file is a mount of itself, as that of a snap's common data.
func (sc *scene) sockets() []supervise.Socket {
	sc.t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0") //nolint:noctx // Binding does not wait.
	if err != nil {
		sc.t.Fatal(err)
	}
	defer listener.Close() //nolint:errcheck // Its address is free then.
	common := sc.path("common")
	if err = os.Mkdir(common, 0o755); err == nil {
		err = unix.Mount(common, common, "", unix.MS_BIND, "")
	}
	if err != nil {
		sc.t.Fatal(err)
	}
	sc.t.Cleanup(func() {
		if err := unix.Unmount(common, 0); err != nil {
			sc.t.Error(err)
		}
	})
	return []supervise.Socket{
		{Name: "tcp", Network: "tcp", Address: listener.Addr().String()},
		{Name: "file", Network: "unix", Address: sc.path("common/file.sock"), Mode: 0o640},
		{Name: "abstract", Network: "unix-abstract", Address: sc.prefix + ".hand.door"},
	}
}

func (sc *scene) server(revision int, sockets ...supervise.Socket) supervise.Spec {
	sc.t.Helper()
	return sc.spec("web", supervisetest.Program{Notify: true, Serve: true}, func(s *supervise.Spec) {
		s.Revision, s.Sockets = tenure.LocalRevision(revision), sockets
	})
}

// connect connects, and returns what waits for the answer: the pid of who answers.
func (sc *scene) connect(s supervise.Socket) func() string {
	sc.t.Helper()
	network, address := s.Network, s.Address
	if network == "unix-abstract" {
		network, address = "unix", "@"+address
	}
	conn, err := new(net.Dialer).DialContext(sc.ctx, network, address)
	if err != nil {
		sc.t.Fatalf("connect to %s: %v", s.Name, err)
	}
	return func() string {
		sc.t.Helper()
		defer conn.Close() //nolint:errcheck // It has been read.
		if deadline, ok := sc.ctx.Deadline(); ok {
			_ = conn.SetDeadline(deadline)
		}
		line, err := bufio.NewReader(conn).ReadString('\n')
		if err != nil {
			sc.t.Fatalf("no answer of %s: %v", s.Name, err)
		}
		return strings.TrimSpace(line)
	}
}

// expectRefused fails the test if anybody listens.
func (sc *scene) expectRefused(s supervise.Socket) {
	sc.t.Helper()
	network, address := s.Network, s.Address
	if network == "unix-abstract" {
		network, address = "unix", "@"+address
	}
	if conn, err := new(net.Dialer).DialContext(sc.ctx, network, address); err == nil {
		_ = conn.Close()
		sc.t.Errorf("somebody listens at %s", s.Name)
	}
}

func (sc *scene) inState(want supervise.State) supervise.Status {
	sc.t.Helper()
	sc.await("the service is "+string(want), func() bool { return sc.status(unitOf("web")).State == want })
	return sc.status(unitOf("web"))
}

// TestSocketsAreUnits: people see them, the service has them in the order of their declaration, and
// who stops it closes them.
func TestSocketsAreUnits(t *testing.T) {
	t.Parallel()
	sc := newScene(t)
	sockets := sc.sockets()
	sc.start(sc.server(1, sockets...))
	sc.inState(supervise.Listening)
	listed := sc.systemctl("list-sockets", "--no-pager", "--no-legend", sc.alias("web")+".*")
	for _, s := range sockets {
		alias := sc.alias("web") + "." + s.Name + socketUnit
		// systemd reads an alias that is new a moment later.
		sc.await(alias+" listens", func() bool {
			return sc.systemctl("show", "--value", "--property=ActiveState,SubState", alias) == "active\nlistening"
		})
		if id := sc.systemctl("show", "--value", "--property=Id", alias); !strings.Contains(listed, id) {
			t.Errorf("list-sockets has no %s:\n%s", id, listed)
		}
	}
	info, err := os.Lstat(sockets[1].Address)
	if err != nil || info.Mode() != os.ModeSocket|0o640 {
		t.Errorf("the socket file is %v, %v", info, err)
	}
	first := sc.connect(sockets[0])()
	for _, s := range sockets[1:] {
		if got := sc.connect(s)(); got != first {
			t.Errorf("process %s answers at %s, want %s", got, s.Name, first)
		}
	}
	if running := sc.inState(supervise.Running); fmt.Sprint(running.Main.PID) != first {
		t.Errorf("process %s answers, and not %+v", first, running.Main)
	}
	if _, err := sc.s.Stop(sc.ctx, supervise.StopRequest{Units: []tenure.UnitID{unitOf("web")}, Reason: tenure.ReasonStop}); err != nil {
		t.Error(err)
	}
	for _, s := range sockets {
		sc.expectRefused(s)
	}
	if _, err := os.Lstat(sockets[1].Address); !os.IsNotExist(err) {
		t.Errorf("the socket file is there: %v", err)
	}
}

// TestConnectionsAtOnce: whoever tells of one of them does not wait for another life of the service.
func TestConnectionsAtOnce(t *testing.T) {
	t.Parallel()
	sc := newScene(t)
	sockets := sc.sockets()
	sc.start(sc.server(1, sockets...))
	sc.inState(supervise.Listening)
	var answers []func() string
	for _, s := range sockets {
		answers = append(answers, sc.connect(s))
	}
	for _, answer := range answers {
		answer()
	}
	for _, s := range sockets {
		door := sc.systemctl("show", "--value", "--property=Id", sc.alias("web")+"."+s.Name+socketUnit)
		teller := strings.TrimSuffix(door, socketUnit) + service
		sc.await(teller+" has ended", func() bool {
			return sc.systemctl("show", "--value", "--property=ActiveState", teller) == "inactive"
		})
	}
}

// TestConnectionsWithoutASupervisor: systemd starts the service for who connects, with all its sockets.
func TestConnectionsWithoutASupervisor(t *testing.T) {
	t.Parallel()
	sc := newScene(t)
	sockets := sc.sockets()
	sc.start(sc.server(1, sockets...))
	sc.end()
	first := sc.connect(sockets[2])()
	for _, s := range sockets[:2] {
		if got := sc.connect(s)(); got != first {
			t.Errorf("process %s answers at %s, want %s", got, s.Name, first)
		}
	}
	sc.another()
	if running := sc.inState(supervise.Running); fmt.Sprint(running.Main.PID) != first {
		t.Errorf("process %s answers, and not %+v", first, running.Main)
	}
}

// TestWhoConnectsUndoesNoStop: somebody has connected while the service was down, and systemd has started what tells of that. When it comes
// to that, there is no supervisor, and the service runs, and is being stopped.
func TestWhoConnectsUndoesNoStop(t *testing.T) {
	t.Parallel()
	sc := newScene(t)
	sc.start(sc.spec("web", supervisetest.Program{Notify: true, TermAfter: 3 * tellAgain}))
	main := sc.status(unitOf("web")).Main
	sc.end()
	said := make(chan error, 1)
	tells := func() { said <- tell(verbConnect, sc.path("nobody.sock"), sc.alias("web")+service, sc.path("state")) }
	heard := func() error {
		select {
		case err := <-said:
			return err
		case <-sc.ctx.Done():
			return context.Cause(sc.ctx)
		}
	}
	go tells()
	if err := heard(); err != nil {
		t.Errorf("of a service that runs: %v", err)
	}
	stopped := make(chan error, 1)
	go func() { stopped <- exec.CommandContext(sc.ctx, "systemctl", "stop", sc.alias("web")+service).Run() }()
	sc.await("the service is being stopped", func() bool { return sc.show("web", "ActiveState") == "deactivating" })
	go tells()
	// It looks more than once until the service has ended.
	if err := <-stopped; err != nil {
		t.Errorf("the stop was given up: %v", err)
	}
	// Who has connected is served then, as nobody has closed the sockets.
	if err := heard(); err != nil {
		t.Error(err)
	}
	sc.another()
	if now := sc.status(unitOf("web")); now.State != supervise.Running || now.Main == main {
		t.Errorf("the service is %+v", now)
	}
}

// TestConnectionsInTheGap: they reach the new revision, also when the supervisor dies in the gap: nobody
// starts the old one.
func TestConnectionsInTheGap(t *testing.T) {
	t.Parallel()
	sc := newScene(t)
	sockets := sc.sockets()
	sc.start(sc.server(1, sockets...))
	old := sc.connect(sockets[0])()
	sc.s.Gap(true)
	down := supervise.StopRequest{Units: []tenure.UnitID{unitOf("web")}, Reason: tenure.ReasonRefresh, HoldSockets: true}
	if _, err := sc.s.Stop(sc.ctx, down); err != nil {
		t.Fatal(err)
	}
	var answers []func() string
	for _, s := range sockets {
		answers = append(answers, sc.connect(s))
	}
	teller := strings.TrimSuffix(sc.systemctl("show", "--value", "--property=Id", sc.alias("web")+".tcp"+socketUnit), socketUnit) + service
	sc.await("systemd asks for the service to be started", func() bool {
		return sc.systemctl("show", "--value", "--property=ActiveState", teller) == "active"
	})
	sc.end()
	for _, s := range sockets {
		answers = append(answers, sc.connect(s))
	}
	if main := sc.show("web", "MainPID"); main != "0" {
		t.Errorf("process %s of the old revision runs", main)
	}
	sc.another()
	sc.s.Gap(true)
	sc.start(sc.server(2, sockets...))
	for _, answer := range answers {
		if got := answer(); got == old {
			t.Error("the old process has answered")
		}
	}
	sc.s.Gap(false)
	if running := sc.inState(supervise.Running); running.Revision != tenure.LocalRevision(2) {
		t.Errorf("revision %s runs", running.Revision)
	}
}

// TestOtherSockets: a refresh declares another address, another mode, another name, one more and one less.
func TestOtherSockets(t *testing.T) {
	t.Parallel()
	sc := newScene(t)
	sockets := sc.sockets()
	sc.start(sc.server(1, sockets...))
	sc.connect(sockets[0])()
	renamed, more, moved := sockets[0], sockets[1], sockets[2]
	renamed.Name, renamed.Mode = "port", 0o600 // It is the same port.
	more.Name, more.Address, more.Mode = "more", sc.path("more.sock"), 0
	moved.Address += "2"
	file := sockets[1]
	file.Mode = 0o600
	next := []supervise.Socket{renamed, file, moved, more}
	check := func(revision int) {
		t.Helper()
		first := sc.connect(renamed)()
		for _, s := range next[1:] {
			if got := sc.connect(s)(); got != first {
				t.Errorf("process %s answers at %s, want %s", got, s.Name, first)
			}
		}
		sc.expectRefused(sockets[2])
		if info, err := os.Lstat(file.Address); err != nil || info.Mode() != os.ModeSocket|0o600 {
			t.Errorf("the socket file is %v, %v", info, err)
		}
		if running := sc.inState(supervise.Running); running.Revision != tenure.LocalRevision(revision) {
			t.Errorf("revision %s runs, want x%d", running.Revision, revision)
		}
	}
	sc.restart(sc.server(2, next...))
	check(2)
	if left, err := filepath.Glob("/run/systemd/system/" + sc.alias("web") + ".s*" + socketUnit); err != nil || len(left) != len(next) {
		t.Errorf("units of sockets %v, %v, want %d", left, err, len(next))
	}

	// And back, with an overlap: all answer, by the new generation once it is the service.
	next, sockets = sockets, next
	old := sc.status(unitOf("web")).Main.PID
	if err := sc.s.Succeed(sc.ctx, sc.server(3, next...)); err != nil {
		t.Fatal(err)
	}
	draining, err := sc.s.TakeOver(sc.ctx, unitOf("web"), 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := sc.s.Stop(sc.ctx, supervise.StopRequest{Units: []tenure.UnitID{draining}, Reason: tenure.ReasonRefresh}); err != nil {
		t.Fatal(err)
	}
	if err := sc.s.host.Closed(sc.ctx, unitOf("web")); err != nil {
		t.Fatal(err)
	}
	for _, s := range next {
		if got := sc.connect(s)(); got == fmt.Sprint(old) {
			t.Errorf("the old process answers at %s", s.Name)
		}
	}
	sc.expectRefused(sockets[2])
	sc.expectRefused(sockets[3])
	sc.inState(supervise.Running)
}

// TestSocketFilesFollowNoLinks: a package that puts a link in the way of its socket moves nothing of the
// machine's.
func TestSocketFilesFollowNoLinks(t *testing.T) {
	t.Parallel()
	sc := newScene(t)
	precious := sc.path("etc")
	sc.write(filepath.Join(precious, "shadow"), "precious")
	if err := os.Symlink(precious, sc.path("data")); err != nil {
		t.Fatal(err)
	}
	err := sc.s.Start(sc.ctx, sc.server(1, supervise.Socket{Name: "evil", Network: "unix", Address: sc.path("data/shadow")}))
	if err == nil {
		t.Error("the socket is opened")
	}
	if text, err := os.ReadFile(filepath.Join(precious, "shadow")); err != nil || string(text) != "precious" {
		t.Errorf("the file is %q, %v", text, err)
	}
}

// TestTimersAreUnits: people see when a service starts next, and systemd starts it, with a supervisor
// and without.
func TestTimersAreUnits(t *testing.T) {
	t.Parallel()
	sc := newScene(t)
	log := sc.path("log")
	spec := sc.spec("web", supervisetest.Program{}, func(s *supervise.Spec) {
		s.Type, s.Timer, s.Restart.Condition = supervise.Oneshot, "mon1,12:34", supervise.RestartNever
		s.Command = supervise.Command{Argv: []string{"/bin/sh", "-c", "echo struck >>" + log}}
	})
	sc.start(spec)
	sc.inState(supervise.Waiting)
	sc.await("list-timers says when it starts next", func() bool {
		return strings.Contains(sc.systemctl("list-timers", "--no-pager", "--no-legend", sc.alias("web")+".*"), "12:34:00")
	})
	id := sc.systemctl("show", "--value", "--property=Id", sc.alias("web")+timerUnit)
	sc.write("/run/systemd/system/"+id+dropIn+"/often.conf", "[Timer]\nOnCalendar=*:*:*\n")
	sc.systemctl("daemon-reload")
	struck := func(n int) func() bool {
		return func() bool {
			text, _ := os.ReadFile(log) // It is not there before.
			return strings.Count(string(text), "struck") >= n
		}
	}
	sc.await("it has been started", struck(1))
	sc.await("it waits again", func() bool { return sc.status(unitOf("web")).State == supervise.Waiting })
	sc.end()
	begun, _ := os.ReadFile(log)
	sc.await("it has been started without a supervisor", struck(strings.Count(string(begun), "struck")+2))
	sc.another()
	// What was begun without a supervisor is over when the timer has struck for this one.
	begun, _ = os.ReadFile(log)
	sc.await("it has been started by the next supervisor", struck(strings.Count(string(begun), "struck")+2))
	if _, err := sc.s.Stop(sc.ctx, supervise.StopRequest{Units: []tenure.UnitID{unitOf("web")}, Reason: tenure.ReasonStop}); err != nil {
		t.Error(err)
	}
	if listed := sc.systemctl("list-timers", "--no-pager", "--no-legend", sc.alias("web")+".*"); listed != "" {
		t.Errorf("a stopped service has the timer %q", listed)
	}
}
