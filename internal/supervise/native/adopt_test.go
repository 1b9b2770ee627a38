package native

import (
	"bufio"
	"context"
	"encoding/json"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"
	"time"

	"tenure"
	"tenure/internal/proc"
	"tenure/internal/supervise"
	"tenure/internal/supervise/supervisetest"
)

func startJSON(ctx context.Context, s *Supervisor, text string) error {
	var specs []supervise.Spec
	if err := json.Unmarshal([]byte(text), &specs); err != nil {
		return err
	}
	return s.Start(ctx, specs...)
}

// process is a supervisor in a process of its own.
type process struct {
	t     *testing.T
	cmd   *exec.Cmd
	in    io.WriteCloser
	lines chan string
}

func (r *root) process(t *testing.T) *process {
	t.Helper()
	name := filepath.Base(r.hierarchy.Path())
	if err := os.WriteFile(r.path("hierarchy"), []byte(name), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(supervisetest.Executable(t), "daemon", r.dir)
	cmd.Stderr = supervisetest.LogWriter(t)
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	p := &process{t: t, cmd: cmd, in: in, lines: make(chan string, 16)}
	go func() {
		defer close(p.lines)
		for lines := bufio.NewScanner(out); lines.Scan(); {
			p.lines <- lines.Text()
		}
	}()
	t.Cleanup(p.kill)
	return p
}

func (p *process) order(line string) {
	p.t.Helper()
	if _, err := io.WriteString(p.in, line+"\n"); err != nil {
		p.t.Fatal(err)
	}
}

func (p *process) start(specs ...supervise.Spec) {
	p.t.Helper()
	text, err := json.Marshal(specs)
	if err != nil {
		p.t.Fatal(err)
	}
	p.order("start " + string(text))
	if answer := <-p.lines; answer != `start "<nil>"` {
		p.t.Fatalf("daemon: %s", answer)
	}
}

// kill is what happens to daemons.
func (p *process) kill() {
	if p.cmd.ProcessState == nil {
		_ = p.cmd.Process.Kill()
		_ = p.cmd.Wait()
	}
}

func service(t *testing.T, name string, p supervisetest.Program, change ...func(*supervise.Spec)) supervise.Spec {
	t.Helper()
	p.Name = name
	spec := supervise.Spec{
		Unit: tenure.ServiceUnit("native", tenure.App(name)), Revision: tenure.LocalRevision(3), Type: supervise.Simple,
		Command: p.Command(supervisetest.Executable(t)),
		Stop:    supervise.StopProtocol{Target: supervise.TargetGroup, Timeout: 20 * time.Second, Kill: supervise.KillAfterTimeout},
		Restart: supervise.RestartPolicy{Condition: supervise.RestartNever},
	}
	if p.Notify {
		spec.Type = supervise.Notify
	}
	for _, c := range change {
		c(&spec)
	}
	return spec
}

func statusOf(t *testing.T, s *Supervisor, id tenure.UnitID) supervise.Status {
	t.Helper()
	u, ok := s.find(id)
	if !ok {
		t.Fatalf("%s is not known", id)
	}
	return u.status.Load().Status
}

// until waits until the status of a unit is as wanted.
func until(t *testing.T, s *Supervisor, id tenure.UnitID, want func(supervise.Status) bool) supervise.Status {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	events := s.Events(ctx)
	if u, ok := s.find(id); ok && want(u.status.Load().Status) {
		return u.status.Load().Status
	}
	for range events {
		if u, ok := s.find(id); ok && want(u.status.Load().Status) {
			return u.status.Load().Status
		}
	}
	t.Fatalf("%s: %+v", id, statusOf(t, s, id))
	return supervise.Status{}
}

// A daemon that is killed touches no service; the next one finds them all, with
// their main processes, and stops them as their protocols say.
func TestAdoptAfterKill(t *testing.T) {
	t.Parallel()
	r := newRoot(t)
	p := r.process(t)
	plain := service(t, "plain", supervisetest.Program{})
	talker := service(t, "talker", supervisetest.Program{Notify: true, Status: "serving", TermAfter: time.Millisecond, TermCode: 5})
	crasher := service(t, "crasher", supervisetest.Program{Exits: true, Code: 1}, func(s *supervise.Spec) {
		s.Restart = supervise.RestartPolicy{Condition: supervise.RestartAlways, Delay: time.Hour}
	})
	p.start(plain, talker, crasher)
	p.kill()
	s := r.supervisor(t)
	for _, spec := range []supervise.Spec{plain, talker} {
		status := statusOf(t, s, spec.Unit)
		if status.State != supervise.Running || status.Generation != 1 {
			t.Errorf("adopted %+v", status)
		}
		if _, err := proc.Open(status.Main); err != nil {
			t.Errorf("main of %s: %v", spec.Unit, err)
		}
		if err := s.Start(t.Context(), spec); err != nil {
			t.Errorf("start of what runs: %v", err)
		}
		if again := statusOf(t, s, spec.Unit); again.Main != status.Main {
			t.Errorf("main %+v, want %+v", again.Main, status.Main)
		}
	}
	if text := statusOf(t, s, talker.Unit).Text; text != "serving" {
		t.Errorf("text %q", text)
	}
	if status := until(t, s, crasher.Unit, func(s supervise.Status) bool { return s.State == supervise.Backoff }); status.Restarts != 1 {
		t.Errorf("adopted in back-off %+v", status)
	}
	ended, err := s.Stop(t.Context(), supervise.StopRequest{Units: []tenure.UnitID{talker.Unit}})
	if err != nil || ended.Exits[talker.Unit].Code != 5 {
		t.Errorf("stop: %+v, %v, want exit status 5, of a process that is another's child", ended, err)
	}
}

// What ended while no daemon ran is a crash, whether or not its exit is still
// to be known (its zombie may be there).
func TestAdoptTheDead(t *testing.T) {
	t.Parallel()
	r := newRoot(t)
	p := r.process(t)
	restarted := service(t, "restarted", supervisetest.Program{}, func(s *supervise.Spec) { s.Restart.Condition = supervise.RestartOnFailure })
	failed := service(t, "failed", supervisetest.Program{}, func(s *supervise.Spec) { s.Restart.Condition = supervise.RestartOnSuccess })
	p.start(restarted, failed)
	p.kill()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	all := proc.GroupAt(r.hierarchy.Path())
	infos, err := all.Processes()
	if err != nil || len(infos) != 2 {
		t.Fatalf("processes %+v, %v", infos, err)
	}
	for _, info := range infos {
		handle, err := proc.Open(info.Process)
		if err != nil {
			t.Fatal(err)
		}
		if err := handle.Signal(9); err != nil {
			t.Fatal(err)
		}
		handle.Close()
	}
	if err := all.AwaitEmpty(ctx); err != nil {
		t.Fatal(err)
	}
	s := r.supervisor(t)
	status := until(t, s, restarted.Unit, func(s supervise.Status) bool { return s.Generation == 2 && s.State == supervise.Running })
	if status.Restarts != 1 || status.LastExit == nil || status.LastExit.Success() {
		t.Errorf("restarted %+v", status)
	}
	until(t, s, failed.Unit, func(s supervise.Status) bool { return s.State == supervise.Failed })
}

// A main process that ended while no daemon ran, and had said before which one is the main process from then on, has left the service to that.
func TestAdoptWhatWasSaid(t *testing.T) {
	t.Parallel()
	r := newRoot(t)
	p := r.process(t)
	spec := service(t, "successive", supervisetest.Program{
		Notify: true, TermSay: "STATUS=left\nMAINPID=CHILD", TermAfter: time.Millisecond, Children: []supervisetest.Program{{Name: "next"}},
	})
	p.start(spec)
	group := proc.GroupAt(r.hierarchy.Path())
	infos, err := group.Processes()
	if err != nil || len(infos) != 2 {
		t.Fatalf("processes %+v, %v", infos, err)
	}
	main, next := infos[0], infos[1]
	if next.PPID != main.PID {
		main, next = next, main
	}
	handle, err := proc.Open(main.Process)
	if err != nil {
		t.Fatal(err)
	}
	defer handle.Close()
	p.kill()
	if err := handle.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if _, err := handle.Wait(t.Context()); err != nil {
		t.Fatal(err)
	}
	// Whose parent has not seen the end yet would be there.
	for handle.Signal(0) == nil {
		<-time.After(time.Millisecond)
	}
	s := r.supervisor(t)
	status := statusOf(t, s, spec.Unit)
	if status.State != supervise.Running || status.Main != next.Process || status.Generation != 1 || status.Text != "left" {
		t.Errorf("adopted %+v, want main process %v", status, next.Process)
	}
}

// A service that says that it lives does not pay for it that nobody has heard it for longer than it may be silent.
func TestAdoptWhoWasNotHeard(t *testing.T) {
	t.Parallel()
	const often, most = 10 * time.Millisecond, 200 * time.Millisecond
	r := newRoot(t)
	p := r.process(t)
	var specs []supervise.Spec
	for n := range 8 { // Each might be lucky.
		spec := service(t, "alive"+strconv.Itoa(n), supervisetest.Program{Notify: true, Alive: 1 << 20, Every: often})
		spec.Watchdog = most
		specs = append(specs, spec)
	}
	p.start(specs...)
	p.kill()
	<-time.After(2 * most)
	s := r.supervisor(t)
	for _, spec := range specs {
		if status := statusOf(t, s, spec.Unit); status.State != supervise.Running || status.Generation != 1 {
			t.Errorf("adopted %+v", status)
		}
	}
}

// A stop in whose middle the daemon was killed is gone on with.
func TestAdoptAStop(t *testing.T) {
	t.Parallel()
	r := newRoot(t)
	p := r.process(t)
	stubborn := service(t, "stubborn", supervisetest.Program{Notify: true, IgnoreTerm: true}, func(s *supervise.Spec) { s.Stop.Timeout = time.Second })
	p.start(stubborn)
	p.order("stop " + stubborn.Unit.String())
	path := records{r.path("units")}.path(stubborn.Unit)
	awaitRecord(t, path, func(rec *record) bool { return rec.Ending != nil && len(rec.Ending.Signalled) > 0 })
	p.kill()
	s := r.supervisor(t)
	status := until(t, s, stubborn.Unit, func(s supervise.Status) bool { return s.State == supervise.Inactive })
	if status.LastExit == nil || status.LastExit.Signal != "SIGKILL" {
		t.Errorf("exit %v, want SIGKILL after the rest of the grace period", status.LastExit)
	}
}

// A stop command in whose launch the daemon was killed has its time.
func TestAdoptAStopCommand(t *testing.T) {
	t.Parallel()
	r := newRoot(t)
	command := supervisetest.Program{Name: "stopper", IgnoreTerm: true}.Command(supervisetest.Executable(t))
	spec := service(t, "commanded", supervisetest.Program{Notify: true}, func(s *supervise.Spec) { s.Stop.Command, s.Stop.Timeout = &command, time.Second })
	s, end := r.run(t)
	if err := s.Start(t.Context(), spec); err != nil {
		t.Fatal(err)
	}
	go func() { _, _ = s.Stop(t.Context(), supervise.StopRequest{Units: []tenure.UnitID{spec.Unit}}) }()
	path := records{r.path("units")}.path(spec.Unit)
	awaitRecord(t, path, func(rec *record) bool { return rec.AuxMain.PID != 0 })
	end()
	lagging, err := readRecord(path)
	if err != nil {
		t.Fatal(err)
	}
	lagging.AuxMain = tenure.Process{}
	if err := (records{r.path("units")}).save(lagging); err != nil {
		t.Fatal(err)
	}
	s = r.supervisor(t)
	until(t, s, spec.Unit, func(s supervise.Status) bool { return s.State == supervise.Inactive })
	for _, e := range r.record.All() {
		if e.Helper != "" && !e.Late {
			t.Errorf("the command was ended before its time: %+v", e)
		}
	}
}

// The end of a unit that is to start again is not always in its record when the
// supervisor dies: the next one finds it.
func TestAdoptABriefRest(t *testing.T) {
	t.Parallel()
	r := newRoot(t)
	spec := service(t, "brief", supervisetest.Program{Notify: true})
	s, end := r.run(t)
	if err := s.Start(t.Context(), spec); err != nil {
		t.Fatal(err)
	}
	path := (records{r.path("units")}).path(spec.Unit)
	lagging, err := readRecord(path)
	if err != nil {
		t.Fatal(err)
	}
	lagging.State = supervise.Stopping
	lagging.Ending = &ending{
		Cause: supervise.CauseRequest, Reason: tenure.ReasonRefresh, Hold: true, Phase: phaseSignal, Signalled: []tenure.Process{lagging.Main},
	}
	if _, err := s.Stop(t.Context(), supervise.StopRequest{Units: []tenure.UnitID{spec.Unit}, HoldSockets: true}); err != nil {
		t.Fatal(err)
	}
	if status := statusOf(t, s, spec.Unit); status.State != supervise.Inactive {
		t.Errorf("stopped %+v", status)
	}
	end()
	if rec, err := readRecord(path); err != nil || rec.State != supervise.Inactive || !rec.Holding {
		t.Errorf("record of a supervisor that ends: %+v, %v", rec, err)
	}
	if err := (records{r.path("units")}).save(lagging); err != nil {
		t.Fatal(err)
	}
	s = r.supervisor(t)
	until(t, s, spec.Unit, func(s supervise.Status) bool { return s.State == supervise.Inactive })
	if err := s.Start(t.Context(), spec); err != nil {
		t.Fatal(err)
	}
	if status := statusOf(t, s, spec.Unit); status.State != supervise.Running || status.Generation != 2 {
		t.Errorf("started again %+v", status)
	}
}

// awaitRecord reads a record until it is as wanted: nobody tells of another
// process's files but the files.
func awaitRecord(t *testing.T, path string, want func(*record) bool) {
	t.Helper()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for {
		if rec, err := readRecord(path); err == nil && want(rec) {
			return
		}
		select {
		case <-tick.C:
		case <-t.Context().Done():
			t.Fatalf("record %s never was as wanted", path)
		}
	}
}

// Workloads and leftovers, and groups whose record is lost, are found again.
func TestAdoptWorkloads(t *testing.T) {
	t.Parallel()
	r := newRoot(t)
	first, end := r.run(t)
	spec := service(t, "virtd", supervisetest.Program{Notify: true, Children: []supervisetest.Program{
		{Name: "machine", Daemonize: true}, {Name: "dns", Daemonize: true},
	}}, func(s *supervise.Spec) {
		s.Stop.Target = supervise.TargetMain
		s.Workloads = []supervise.Workload{{Name: "vm", Match: "name=machine", Stop: s.Stop}}
	})
	if err := first.Start(t.Context(), spec); err != nil {
		t.Fatal(err)
	}
	ended, err := first.Stop(t.Context(), supervise.StopRequest{Units: []tenure.UnitID{spec.Unit}})
	if err != nil || len(ended.Left) != 2 {
		t.Fatalf("stop: %+v, %v", ended, err)
	}
	end()
	lost := ended.Left[0]
	if err := os.Remove(records{r.path("units")}.path(lost)); err != nil {
		t.Fatal(err)
	}
	s := r.supervisor(t)
	for _, id := range ended.Left {
		status := until(t, s, id, func(s supervise.Status) bool { return s.State == supervise.Running && s.Main.PID != 0 })
		if status.Revision != spec.Revision {
			t.Errorf("%s has revision %s, want %s", id, status.Revision, spec.Revision)
		}
		if unit, ok := s.UnitOf(status.Group); !ok || unit != id {
			t.Errorf("group %s is of %s, want %s", status.Group, unit, id)
		}
	}
}
