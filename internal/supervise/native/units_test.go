package native

import (
	"context"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"testing"
	"time"

	"tenure"
	"tenure/internal/proc"
	"tenure/internal/supervise"
	"tenure/internal/supervise/supervisetest"
)

// A service that does not report in time is aborted, and started again.
func TestWatchdog(t *testing.T) {
	t.Parallel()
	s := newRoot(t).supervisor(t)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	events := s.Events(ctx)
	spec := service(t, "silent", supervisetest.Program{Notify: true}, func(s *supervise.Spec) {
		s.Watchdog = 50 * time.Millisecond
		s.Restart = supervise.RestartPolicy{Condition: supervise.RestartOnWatchdog, Delay: time.Millisecond}
	})
	if err := s.Start(t.Context(), spec); err != nil {
		t.Fatal(err)
	}
	var aborted bool
	for e := range events {
		aborted = aborted || e.Kind == supervise.EventSignal && e.Signal == "SIGABRT"
		if e.State == supervise.Running && aborted {
			break
		}
	}
	if status := statusOf(t, s, spec.Unit); status.Generation != 2 {
		t.Errorf("status %+v, want a second generation", status)
	}
}

// Who is not a process of the unit is not heard.
func TestNotifyFromOutside(t *testing.T) {
	t.Parallel()
	r := newRoot(t)
	s := r.supervisor(t)
	spec := service(t, "talker", supervisetest.Program{Notify: true, Status: "its own"})
	if err := s.Start(t.Context(), spec); err != nil {
		t.Fatal(err)
	}
	u, _ := s.find(spec.Unit)
	conn, err := net.Dial("unixgram", filepath.Join(u.dir(), notifyName))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := fmt.Fprintf(conn, "STATUS=forged\nMAINPID=%d", os.Getpid()); err != nil {
		t.Fatal(err)
	}
	before := statusOf(t, s, spec.Unit)
	if err := s.Reload(t.Context(), supervise.ReloadRequest{Spec: spec}); err != nil { // SIGHUP ends it, after the forgery was read.
		t.Fatal(err)
	}
	after := until(t, s, spec.Unit, func(s supervise.Status) bool { return !s.State.Alive() })
	if before.Text != "its own" || after.LastExit == nil || after.LastExit.Signal != "SIGHUP" {
		t.Errorf("before %+v, after %+v", before, after)
	}
}

// payload moves the second process of a unit into a group below the unit's, as a
// container manager does, and returns the process and the group.
func payload(t *testing.T, s *Supervisor, id tenure.UnitID) (proc.Info, proc.Group) {
	t.Helper()
	infos, err := s.Processes(t.Context(), id)
	if err != nil || len(infos) != 2 {
		t.Fatalf("processes %+v, %v", infos, err)
	}
	group := proc.GroupAt(filepath.Join(statusOf(t, s, id).Group, "payload"))
	if err := os.Mkdir(group.Path(), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := group.Move(infos[1].PID); err != nil {
		t.Fatal(err)
	}
	return infos[1], group
}

// Processes are never moved out of groups that a service made. What becomes of
// them is up to the stop target and the patterns.
func TestGroupsOfTheService(t *testing.T) {
	t.Parallel()
	s := newRoot(t).supervisor(t)
	for _, test := range []struct {
		name     string
		target   supervise.Target
		match    string
		survives string
	}{
		{"main", supervise.TargetMain, "", tenure.Leftover},
		{"group", supervise.TargetGroup, "", ""},
		{"claimed", supervise.TargetGroup, "name=container", "ct"},
		{"both", supervise.TargetMain, "name=container", "ct"},
	} {
		spec := service(t, test.name, supervisetest.Program{Notify: true, Children: []supervisetest.Program{{Name: "container", Daemonize: true}}},
			func(spec *supervise.Spec) {
				spec.Stop.Target = test.target
				if test.match != "" {
					stop := spec.Stop
					stop.Target = supervise.TargetGroup
					spec.Workloads = []supervise.Workload{{Name: "ct", Match: test.match, Stop: stop}}
				}
			})
		if err := s.Start(t.Context(), spec); err != nil {
			t.Fatal(err)
		}
		container, group := payload(t, s, spec.Unit)
		ended, err := s.Stop(t.Context(), supervise.StopRequest{Units: []tenure.UnitID{spec.Unit}, Reason: tenure.ReasonRefresh})
		if err != nil {
			t.Fatalf("%s: %v", test.name, err)
		}
		if test.survives == "" {
			if len(ended.Left) > 0 {
				t.Errorf("%s: left %v, want nothing", test.name, ended.Left)
			}
			continue
		}
		if len(ended.Left) != 1 || ended.Left[0].Name != test.survives {
			t.Fatalf("%s: left %v, want %s", test.name, ended.Left, test.survives)
		}
		now, err := s.Processes(t.Context(), ended.Left[0])
		if err != nil || len(now) != 1 || now[0].Process != container.Process {
			t.Errorf("%s: %+v lives, %v, want %+v", test.name, now, err, container.Process)
		}
		if where, err := proc.GroupAt(group.Path()).Processes(); err != nil || len(where) != 1 {
			t.Errorf("%s: the container is not where it was: %+v, %v", test.name, where, err)
		}
		if unit, ok := s.UnitOf(group.Path()); !ok || unit != ended.Left[0] {
			t.Errorf("%s: the container's group is of %s", test.name, unit)
		}
		if _, err := s.Stop(t.Context(), supervise.StopRequest{Units: ended.Left, Reason: tenure.ReasonRemove}); err != nil {
			t.Error(err)
		}
		if infos, err := group.Processes(); err != nil || len(infos) > 0 {
			t.Errorf("%s: left after the stop: %+v, %v", test.name, infos, err)
		}
	}
}

// The unit's group is killed while a claimed group below it lives: only what is
// the unit's own dies.
func TestKillBesideAClaimedGroup(t *testing.T) {
	t.Parallel()
	s := newRoot(t).supervisor(t)
	spec := service(t, "hard", supervisetest.Program{Notify: true, IgnoreTerm: true, Children: []supervisetest.Program{{Name: "container", Daemonize: true}}},
		func(spec *supervise.Spec) {
			spec.Workloads = []supervise.Workload{{Name: "ct", Match: "name=container", Stop: spec.Stop}}
			spec.Stop.Timeout = 30 * time.Millisecond
		})
	if err := s.Start(t.Context(), spec); err != nil {
		t.Fatal(err)
	}
	container, _ := payload(t, s, spec.Unit)
	ended, err := s.Stop(t.Context(), supervise.StopRequest{Units: []tenure.UnitID{spec.Unit}})
	if err != nil || len(ended.Killed) != 1 || len(ended.Left) != 1 {
		t.Fatalf("ended %+v, %v", ended, err)
	}
	handle, err := proc.Open(container.Process)
	if err != nil {
		t.Fatalf("the container died: %v", err)
	}
	handle.Close()
}

// A timer that went off while no daemon ran is made up for at once.
func TestTimerOverTheDaemon(t *testing.T) {
	t.Parallel()
	r := newRoot(t)
	s, end := r.run(t)
	spec := service(t, "timed", supervisetest.Program{Exits: true}, func(s *supervise.Spec) { s.Timer, s.Type = "00:00-24:00/2", supervise.Oneshot })
	if err := s.Start(t.Context(), spec); err != nil {
		t.Fatal(err)
	}
	end()
	store := records{r.path("units")}
	rec, err := readRecord(store.path(spec.Unit))
	if err != nil || rec.Next.IsZero() {
		t.Fatalf("record %+v, %v", rec, err)
	}
	rec.Next = time.Now()
	if err := store.save(rec); err != nil {
		t.Fatal(err)
	}
	s = r.supervisor(t)
	status := until(t, s, spec.Unit, func(s supervise.Status) bool { return s.Generation == 1 && s.State == supervise.Waiting })
	if status.LastExit == nil || !status.LastExit.Success() {
		t.Errorf("exit %v", status.LastExit)
	}
}

// A unit that is not running but started elsewhere cannot be mistaken: the
// process that tracking is asked for must be the one that has the pid.
func TestTrackTheWrongProcess(t *testing.T) {
	t.Parallel()
	s := newRoot(t).supervisor(t)
	process := supervisetest.SpawnOutside(t, supervisetest.Program{Notify: true})
	process.Start++
	id := tenure.UnitID{Snap: "native", Kind: tenure.AppRun, App: "app", Serial: process.PID}
	if err := s.Track(t.Context(), supervise.Spec{Unit: id}, process); err == nil {
		t.Error("a process that is another was tracked")
	}
	if _, known := s.find(id); known {
		t.Error("its unit is known")
	}
}

// A socket is held while its service is restarted by a new daemon, too.
func TestHeldSocketOverTheDaemon(t *testing.T) {
	t.Parallel()
	r := newRoot(t)
	s, end := r.run(t)
	socket := supervise.Socket{Name: "main", Network: "unix", Address: r.path("s"), Mode: 0o600}
	spec := service(t, "server", supervisetest.Program{Notify: true, Serve: true}, func(s *supervise.Spec) { s.Sockets = []supervise.Socket{socket} })
	if err := s.Start(t.Context(), spec); err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(socket.Address); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v, want 0600", info.Mode(), err)
	}
	<-supervisetest.Connect(t, socket)
	if _, err := s.Stop(t.Context(), supervise.StopRequest{Units: []tenure.UnitID{spec.Unit}, HoldSockets: true}); err != nil {
		t.Fatal(err)
	}
	end()
	waiting := supervisetest.Connect(t, socket)
	s = r.supervisor(t)
	if err := s.Start(t.Context(), spec); err != nil {
		t.Fatal(err)
	}
	if answer := <-waiting; answer == "" {
		t.Error("who waited was not answered")
	}
	if _, err := s.Stop(t.Context(), supervise.StopRequest{Units: []tenure.UnitID{spec.Unit}}); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(socket.Address); !os.IsNotExist(err) {
		t.Errorf("the socket file is left: %v", err)
	}
}

// The reason is readable before the signal comes.
func TestReasonFile(t *testing.T) {
	t.Parallel()
	r := newRoot(t)
	s := r.supervisor(t)
	spec := service(t, "curious", supervisetest.Program{Notify: true, TermAfter: time.Millisecond})
	if err := s.Start(t.Context(), spec); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Stop(t.Context(), supervise.StopRequest{Units: []tenure.UnitID{spec.Unit}, Reason: tenure.ReasonRefresh}); err != nil {
		t.Fatal(err)
	}
	u, _ := s.find(spec.Unit)
	if text, err := fs.ReadFile(os.DirFS(u.dir()), reasonName); err != nil || string(text) != "refresh\n" {
		t.Errorf("reason %q, %v", text, err)
	}
}

// Two hundred services cost little: goroutines and memory per unit.
func TestManyUnits(t *testing.T) { //nolint:paralleltest // It counts what all tests have.
	const count, perUnit, passing = 200, 40 << 10, 20
	r := newRoot(t)
	s := r.supervisor(t)
	before, goroutines := memory(), runtime.NumGoroutine()
	var specs []supervise.Spec
	for i := range count {
		spec := service(t, fmt.Sprintf("service-%d", i), supervisetest.Program{})
		spec.Command.Argv = []string{"/bin/sleep", "1000"}
		specs = append(specs, spec)
	}
	for batch := range slices.Chunk(specs, 20) {
		if err := s.Start(t.Context(), batch...); err != nil {
			t.Fatal(err)
		}
	}
	// The holder runs in this process too, and keeps a stream per log; it is
	// counted among the units' goroutines here. Some others are just about to end.
	if grown := runtime.NumGoroutine() - goroutines; grown > 4*count+passing {
		t.Errorf("%d goroutines for %d units", grown, count)
	}
	if grown := memory() - before; grown > count*perUnit {
		t.Errorf("%d KiB for %d units, want at most %d each", grown>>10, count, perUnit>>10)
	}
	var ids []tenure.UnitID
	for _, spec := range specs {
		ids = append(ids, spec.Unit)
	}
	if _, err := s.Stop(t.Context(), supervise.StopRequest{Units: ids}); err != nil {
		t.Error(err)
	}
}

// memory is what the heap and the stacks take after a collection.
func memory() int64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc + m.StackInuse)
}
