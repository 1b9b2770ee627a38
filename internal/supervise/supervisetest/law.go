package supervisetest

import (
	"context"
	"errors"
	"slices"
	"testing"
	"time"

	"tenure"
	"tenure/internal/supervise"
)

// Run tests everything that package supervise promises. Each part gets a
// supervisor of its own, which must have no units.
func Run(t *testing.T, newHarness func(t *testing.T) Harness) {
	t.Helper()
	for _, part := range slices.Concat(lives(), words(), reports(), terms(), restarts()) {
		t.Run(part.name, func(t *testing.T) {
			t.Parallel()
			part.test(begin(t, newHarness(t)))
		})
	}
}

// part is one part of the law.
type part struct {
	name string
	test func(*law)
}

// lives are how units begin, end and wait for each other.
func lives() []part {
	return []part{
		{"a simple service runs until it is stopped", simpleService},
		{"starting what runs does nothing", startTwice},
		{"notify is ready when it says so", notifyReady},
		{"notify that exits is not ready", notifyExits},
		{"a start that takes too long is ended", startTimeout},
		{"a program that does not exist", noSuchProgram},
		{"oneshot is ready when it has ended well", oneshot},
		{"oneshot that fails", oneshotFails},
		{"forking leaves its main process", forking},
		{"SIGKILL follows the grace period", killAfterTimeout},
		{"SIGKILL is never sent where it is forbidden", killNever},
		{"an administrator may order SIGKILL", killByOrder},
		{"a limit cuts the grace period", graceLimit},
		{"the terms of a stop go before the protocol", stopTerms},
		{"what main leaves behind is the leftover", leftover},
		{"a stop of the group leaves nothing", groupLeavesNothing},
		{"workloads live through a stop", workloads},
		{"workloads live through a crash", workloadsCrash},
		{"a workload is stopped by its own protocol", stopWorkload},
		{"a service starts workloads by name", branches},
		{"the end of a workload with a name is known", branchEnds},
		{"a workload with a name goes to the background", branchDaemonizes},
		{"a workload with a name has a protocol of its own", branchStops},
		{"a process is adopted with what came out of it", adopts},
		{"a process is adopted from workload to workload", adoptsAgain},
		{"what cannot be adopted", adoptsNothing},
		{"a crash is followed by a restart", restartOnFailure},
		{"a clean exit is not a failure", cleanExit},
		{"a stop ends the back-off", stopInBackoff},
		{"order on start and on stop", ordered},
		{"a failed start keeps others from being started", orderedFailure},
		{"units that wait for each other", orderedCircle},
		{"reload sends SIGHUP", reloadSignal},
		{"reload runs the command", reloadCommand},
		{"reload follows another Spec", reloadFollows},
		{"the stop command comes before the signal", stopCommand},
		{"the post-stop command runs after every end", postStop},
		{"a stop outlives who asked for it", stopOutlives},
		{"a stop ends a start", stopWhileStarting},
		{"a start waits for a stop", startWhileStopping},
		{"forgotten units are unknown", forgetUnits},
		{"unknown units", unknownUnits},
		{"a socket starts its service", socketActivation},
		{"a socket is held over a restart", heldSocket},
		{"a timer waits", timerWaits},
		{"a successor takes over", takesOver},
		{"a successor that is not ready leaves its service alone", successorNotReady},
		{"a successor that ends leaves its service alone", successorEnds},
		{"a successor can be told to end", successorStopped},
		{"a generation that drains has a time of its own", drainTimeout},
		{"EXTEND_TIMEOUT_USEC extends the time to drain", extendsItsDrain},
		{"a service that does not run is taken over", takesOverNothing},
		{"a hand-over back", handsBack},
		{"workloads live through a hand-over", handsOverWorkloads},
		{"a process from elsewhere is tracked", tracked},
	}
}

// words are what services say of themselves, what becomes of it, and how they end.
func words() []part {
	return []part{
		{"the back-off grows", growingBackoff},
		{"STATUS is what a service says of itself", saysStatus},
		{"STOPPING is an end of its own accord", saysStopping},
		{"STOPPING is bounded by the grace period", saysStoppingAndStays},
		{"MAINPID makes another process the main one", saysMain},
		{"EXTEND_TIMEOUT_USEC extends a start", extendsItsStart},
		{"EXTEND_TIMEOUT_USEC extends a stop", extendsItsStop},
		{"EXTEND_TIMEOUT_USEC extends no stop beyond its limit", extendsWithinLimit},
		{"FDSTORE keeps descriptors, FDSTOREREMOVE drops them", storedDescriptors},
		{"a missed watchdog aborts", watchdogMissed},
		{"a fed watchdog does not", watchdogFed},
		{"workloads are split off while the service goes on", splitEarly},
		{"what is printed can be read and followed", printed},
	}
}

func simpleService(l *law) {
	id := unit("simple")
	l.start(l.spec("simple", Program{}))
	status := l.inState(id, supervise.Running)
	if status.Main.PID == 0 || status.Generation != 1 || status.Started.IsZero() || status.Revision != tenure.LocalRevision(1) {
		l.t.Errorf("status of a running unit: %+v", status)
	}
	infos := l.processes(id)
	if len(infos) != 1 || infos[0].Process != status.Main {
		l.t.Fatalf("processes %+v, want the main process %+v alone", infos, status.Main)
	}
	ended := l.stop(id)
	if exit := ended.Exits[id]; exit.Signal != "SIGTERM" || len(ended.Left) > 0 || len(ended.Killed) > 0 {
		l.t.Errorf("ended %+v", ended)
	}
	if status := l.inState(id, supervise.Inactive); status.Main.PID != 0 {
		l.t.Errorf("main process of a stopped unit: %+v", status)
	}
	if infos := l.processes(id); len(infos) != 0 {
		l.t.Errorf("processes of a stopped unit: %+v", infos)
	}
	l.becomes(id, supervise.Starting)
	l.becomes(id, supervise.Running)
	l.becomes(id, supervise.Stopping)
	signal := l.event("signal", func(e supervise.Event) bool { return e.Kind == supervise.EventSignal })
	if signal.Signal != "SIGTERM" || signal.Reason != tenure.ReasonStop || !slices.Equal(signal.Processes, []tenure.Process{status.Main}) {
		l.t.Errorf("event of the signal: %+v, want SIGTERM to %+v", signal, status.Main)
	}
	l.empty(id)
	l.stop(id)
}

func startTwice(l *law) {
	id := unit("twice")
	l.start(l.spec("twice", Program{}))
	main := l.status(id).Main
	l.start(l.spec("twice", Program{}))
	if again := l.status(id); again.Main != main || again.Generation != 1 {
		l.t.Errorf("an equal start made %+v of %+v", again, main)
	}
	err := l.Supervisor.Start(l.ctx, l.spec("twice", Program{Code: 1}))
	if !errors.Is(err, supervise.ErrRunning) {
		l.t.Errorf("start with another Spec: %v, want ErrRunning", err)
	}
	l.stop(id)
	l.start(l.spec("twice", Program{Code: 1}))
	if again := l.status(id); again.Main == main || again.Generation != 2 {
		l.t.Errorf("a new start made %+v", again)
	}
	l.stop(id)
}

func notifyReady(l *law) {
	id := unit("notify")
	begun := time.Now()
	l.start(l.spec("notify", Program{Notify: true, ReadyAfter: 50 * time.Millisecond, Status: "warming up"}))
	if took := time.Since(begun); took < 50*time.Millisecond {
		l.t.Errorf("start returned after %s, before the service was ready", took)
	}
	if status := l.inState(id, supervise.Running); status.Text != "warming up" {
		l.t.Errorf("text %q, want what the service said", status.Text)
	}
	l.stop(id)
}

func (l *law) failsToStart(spec supervise.Spec) *supervise.StartError {
	l.t.Helper()
	err := l.Supervisor.Start(l.ctx, spec)
	failed, ok := errors.AsType[*supervise.StartError](err)
	if !ok || !errors.Is(err, supervise.ErrNotReady) || failed.Unit != spec.Unit {
		l.t.Fatalf("start: %v, want a StartError of kind ErrNotReady for %s", err, spec.Unit)
	}
	return failed
}

func notifyExits(l *law) {
	failed := l.failsToStart(l.spec("early", Program{Print: []string{"no configuration"}, Exits: true, Code: 7},
		func(s *supervise.Spec) { s.Type = supervise.Notify }))
	if failed.Exit == nil || failed.Exit.Code != 7 {
		l.t.Errorf("exit %v, want exit status 7", failed.Exit)
	}
	if !slices.Contains(failed.Log, "no configuration") {
		l.t.Errorf("log %q, want what it wrote", failed.Log)
	}
	l.inState(unit("early"), supervise.Failed)
}

func startTimeout(l *law) {
	_ = l.failsToStart(l.spec("slow", Program{}, func(s *supervise.Spec) {
		s.Type, s.StartTimeout = supervise.Notify, 30*time.Millisecond
	}))
	l.inState(unit("slow"), supervise.Failed)
	if infos := l.processes(unit("slow")); len(infos) > 0 {
		l.t.Errorf("processes are left: %+v", infos)
	}
}

func noSuchProgram(l *law) {
	_ = l.failsToStart(l.spec("missing", Program{}, func(s *supervise.Spec) { s.Command.Argv = []string{"/nonexistent/program"} }))
	l.inState(unit("missing"), supervise.Failed)
}

func oneshot(l *law) {
	id := unit("once")
	l.start(l.spec("once", Program{Exits: true, RunFor: 20 * time.Millisecond}, func(s *supervise.Spec) { s.Type = supervise.Oneshot }))
	status := l.inState(id, supervise.Inactive)
	if status.LastExit == nil || !status.LastExit.Success() {
		l.t.Errorf("last exit %v, want 0", status.LastExit)
	}
	l.empty(id)
}

func oneshotFails(l *law) {
	failed := l.failsToStart(l.spec("once", Program{Exits: true, Code: 3}, func(s *supervise.Spec) { s.Type = supervise.Oneshot }))
	if failed.Exit == nil || failed.Exit.Code != 3 {
		l.t.Errorf("exit %v, want exit status 3", failed.Exit)
	}
	l.inState(unit("once"), supervise.Failed)
	l.start(l.spec("once", Program{Exits: true, Code: 3}, func(s *supervise.Spec) {
		s.Type, s.Restart.SuccessExit = supervise.Oneshot, []int{3}
	}))
	l.inState(unit("once"), supervise.Inactive)
}

func forking(l *law) {
	id := unit("forking")
	l.start(l.spec("forking", Program{Daemonize: true}, func(s *supervise.Spec) { s.Type = supervise.Forking }))
	status, infos := l.inState(id, supervise.Running), l.processes(id)
	if len(infos) != 1 || infos[0].Process != status.Main {
		l.t.Errorf("main %+v, processes %+v", status.Main, infos)
	}
	l.stop(id)
	l.empty(id)
}

func killAfterTimeout(l *law) {
	id := unit("stubborn")
	l.start(l.spec("stubborn", Program{Notify: true, IgnoreTerm: true}, func(s *supervise.Spec) { s.Stop.Timeout = 30 * time.Millisecond }))
	ended := l.stop(id)
	if !slices.Equal(ended.Killed, []tenure.UnitID{id}) || ended.Exits[id].Signal != "SIGKILL" {
		l.t.Errorf("ended %+v, want it killed", ended)
	}
	l.inState(id, supervise.Inactive)
	l.event("SIGKILL", func(e supervise.Event) bool { return e.Kind == supervise.EventSignal && e.Signal == "SIGKILL" })
}

func (l *law) unkillable() supervise.Spec {
	return l.spec("database", Program{Notify: true, IgnoreTerm: true}, func(s *supervise.Spec) {
		s.Stop = supervise.StopProtocol{Target: supervise.TargetMain, Timeout: 30 * time.Millisecond, Kill: supervise.KillNever}
	})
}

func killNever(l *law) {
	id := unit("database")
	l.start(l.unkillable())
	main := l.status(id).Main
	_, err := l.Supervisor.Stop(l.ctx, supervise.StopRequest{Units: []tenure.UnitID{id}, Reason: tenure.ReasonRefresh})
	if !errors.Is(err, supervise.ErrStopTimeout) {
		l.t.Errorf("stop: %v, want ErrStopTimeout", err)
	}
	if status := l.inState(id, supervise.Running); status.Main != main {
		l.t.Errorf("main process %+v, want %+v", status.Main, main)
	}
	l.start(l.unkillable())
	if _, err := l.Supervisor.Stop(l.ctx, supervise.StopRequest{Units: []tenure.UnitID{id}, Kill: true}); err != nil {
		l.t.Errorf("stop by order: %v", err)
	}
}

func killByOrder(l *law) {
	id := unit("database")
	l.start(l.unkillable())
	ended, err := l.Supervisor.Stop(l.ctx, supervise.StopRequest{Units: []tenure.UnitID{id}, Reason: tenure.ReasonStop, Kill: true})
	if err != nil || !slices.Equal(ended.Killed, []tenure.UnitID{id}) {
		l.t.Errorf("stop by order: %+v, %v", ended, err)
	}
	l.inState(id, supervise.Inactive)
	l.wantRecorded(supervise.EventSignal, "database x1 SIGTERM to 1 request stop 0", "database x1 SIGKILL to 1 late forced request stop 0")
}

func graceLimit(l *law) {
	id := unit("patient")
	l.start(l.spec("patient", Program{Notify: true, IgnoreTerm: true}, func(s *supervise.Spec) { s.Stop.Timeout = 2 * patience }))
	ended, err := l.Supervisor.Stop(l.ctx, supervise.StopRequest{Units: []tenure.UnitID{id}, Limit: 30 * time.Millisecond})
	if err != nil || !slices.Equal(ended.Killed, []tenure.UnitID{id}) {
		l.t.Errorf("ended %+v, %v, want it killed", ended, err)
	}
}

func stopTerms(l *law) {
	id, other := unit("ruled"), unit("free")
	for _, name := range []string{"ruled", "free"} {
		l.start(l.spec(name, Program{Notify: true, IgnoreTerm: true}, func(s *supervise.Spec) { s.Stop.Timeout = 2 * patience }))
	}
	req := supervise.StopRequest{
		Units: []tenure.UnitID{id, other}, Reason: tenure.ReasonStop,
		Terms: map[tenure.UnitID]supervise.Terms{
			id:    {Timeout: 30 * time.Millisecond, Kill: supervise.KillNever},
			other: {Timeout: 30 * time.Millisecond},
		},
	}
	ended, err := l.Supervisor.Stop(l.ctx, req)
	if !errors.Is(err, supervise.ErrStopTimeout) || !slices.Equal(ended.Killed, []tenure.UnitID{other}) {
		l.t.Errorf("ended %+v, %v, want only %s killed", ended, err, other)
	}
	l.inState(id, supervise.Running)
	// They are for one request alone.
	req.Units, req.Terms = []tenure.UnitID{id}, map[tenure.UnitID]supervise.Terms{id: {Timeout: 30 * time.Millisecond, Kill: supervise.KillAfterTimeout}}
	if ended, err = l.Supervisor.Stop(l.ctx, req); err != nil || !slices.Equal(ended.Killed, []tenure.UnitID{id}) {
		l.t.Errorf("ended %+v, %v, want it killed", ended, err)
	}
}

func stopOutlives(l *law) {
	id := unit("leisurely")
	l.start(l.spec("leisurely", Program{Notify: true, TermAfter: 100 * time.Millisecond, TermCode: 4}))
	ctx, cancel := context.WithCancelCause(l.ctx)
	gone := errors.New("the asker has gone")
	done := make(chan error, 1)
	go func() {
		_, err := l.Supervisor.Stop(ctx, supervise.StopRequest{Units: []tenure.UnitID{id}})
		done <- err
	}()
	l.becomes(id, supervise.Stopping)
	cancel(gone)
	if err := <-done; !errors.Is(err, gone) {
		l.t.Errorf("stop: %v, want the cause of its end", err)
	}
	l.becomes(id, supervise.Inactive)
	if exit := l.status(id).LastExit; exit == nil || exit.Code != 4 {
		l.t.Errorf("exit %v, want 4", exit)
	}
}

func stopWhileStarting(l *law) {
	id := unit("never-ready")
	done := make(chan error, 1)
	go func() {
		done <- l.Supervisor.Start(l.ctx, l.spec("never-ready", Program{}, func(s *supervise.Spec) { s.Type = supervise.Notify }))
	}()
	l.becomes(id, supervise.Starting)
	l.stop(id)
	if err := <-done; !errors.Is(err, supervise.ErrNotReady) {
		l.t.Errorf("start: %v, want ErrNotReady", err)
	}
	l.inState(id, supervise.Inactive)
}

func startWhileStopping(l *law) {
	id := unit("again")
	slow := l.spec("again", Program{Notify: true, TermAfter: 100 * time.Millisecond})
	l.start(slow)
	main := l.status(id).Main
	done := make(chan error, 1)
	go func() {
		_, err := l.Supervisor.Stop(l.ctx, supervise.StopRequest{Units: []tenure.UnitID{id}})
		done <- err
	}()
	l.becomes(id, supervise.Stopping)
	l.start(slow)
	if err := <-done; err != nil {
		l.t.Errorf("stop: %v", err)
	}
	if status := l.inState(id, supervise.Running); status.Main == main || status.Generation != 2 {
		l.t.Errorf("status %+v, want a second generation", status)
	}
	l.stop(id)
}

func forgetUnits(l *law) {
	id := unit("forget")
	l.start(l.spec("forget", Program{}))
	if err := l.Supervisor.Forget(l.ctx, id); !errors.Is(err, supervise.ErrRunning) {
		l.t.Errorf("forget a running unit: %v, want ErrRunning", err)
	}
	l.stop(id)
	if err := l.Supervisor.Forget(l.ctx, id); err != nil {
		l.t.Errorf("forget: %v", err)
	}
	if status, known := l.known(id); known {
		l.t.Errorf("a forgotten unit is known: %+v", status)
	}
}

func unknownUnits(l *law) {
	id := unit("unknown")
	if _, err := l.Supervisor.Processes(l.ctx, id); !errors.Is(err, supervise.ErrUnknown) {
		l.t.Errorf("processes: %v, want ErrUnknown", err)
	}
	if err := l.Supervisor.Reload(l.ctx, supervise.ReloadRequest{Spec: l.spec("unknown", Program{})}); !errors.Is(err, supervise.ErrUnknown) {
		l.t.Errorf("reload: %v, want ErrUnknown", err)
	}
	l.stop(id)
	if err := l.Supervisor.Forget(l.ctx, id); err != nil {
		l.t.Errorf("forget: %v", err)
	}
}

func timerWaits(l *law) {
	id := unit("timer")
	l.start(l.spec("timer", Program{}, func(s *supervise.Spec) { s.Timer = "00:00-24:00/2" }))
	l.inState(id, supervise.Waiting)
	l.stop(id)
	l.inState(id, supervise.Inactive)
}

func tracked(l *law) {
	tracker, ok := l.Supervisor.(supervise.Tracker)
	if !ok {
		l.t.Skip("this supervisor tracks nothing")
	}
	p := Program{Name: "editor", Children: []Program{{Name: "plugin"}}, Notify: true}
	process := l.Spawn(l.t, p)
	id := tenure.UnitID{Snap: "law", Kind: tenure.AppRun, App: "editor", Serial: process.PID}
	spec := l.spec("editor", p, func(s *supervise.Spec) { s.Unit, s.Type = id, supervise.Simple })
	if err := tracker.Track(l.ctx, spec, process); err != nil {
		l.t.Fatal(err)
	}
	if status := l.inState(id, supervise.Running); status.Main != process {
		l.t.Errorf("main %+v, want %+v", status.Main, process)
	}
	if infos := l.processes(id); len(infos) != 2 {
		l.t.Errorf("processes %+v, want the editor and its plugin", infos)
	}
	l.stop(id)
	l.empty(id)
}
