package native

import (
	"slices"
	"sync"
	"testing"
	"time"

	"tenure"
	"tenure/internal/proc"
	"tenure/internal/supervise"
	"tenure/internal/supervise/supervisetest"
)

// A signal is with the Recorder before it is with the process, whichever way it is
// sent, so that the death of the daemon between the two loses nothing.
func TestSignalsAreRecordedFirst(t *testing.T) {
	t.Parallel()
	r := newRoot(t)
	var mu sync.Mutex
	told := map[tenure.Process]bool{}
	r.witness = func(e supervise.Event) {
		mu.Lock()
		defer mu.Unlock()
		for _, process := range e.Processes {
			if e.Kind != supervise.EventSignal || told[process] {
				continue // One that was told before may end at any moment.
			}
			told[process] = true
			info, err := proc.Read(process.PID)
			if err != nil || info.Process != process || info.State == 'Z' {
				t.Errorf("%s to %d is recorded when the process has ended: %v", e.Signal, process.PID, err)
			}
		}
	}
	s := r.supervisor(t)
	exe := supervisetest.Executable(t)
	spec := func(app tenure.App, target supervise.Target, p supervisetest.Program) supervise.Spec {
		p.Notify = true
		return supervise.Spec{
			Unit: tenure.ServiceUnit("report", app), Revision: tenure.LocalRevision(1), Type: supervise.Notify, Command: p.Command(exe),
			Stop:    supervise.StopProtocol{Target: target, Timeout: 50 * time.Millisecond, Kill: supervise.KillAfterTimeout},
			Restart: supervise.RestartPolicy{Condition: supervise.RestartNever},
		}
	}
	forked := supervisetest.Program{IgnoreTerm: true, Children: []supervisetest.Program{{Name: "child", IgnoreTerm: true}}}
	whole := spec("whole", supervise.TargetGroup, forked)
	single := spec("single", supervise.TargetMain, supervisetest.Program{IgnoreTerm: true})
	kept := spec("kept", supervise.TargetGroup, forked)
	kept.Workloads = []supervise.Workload{{Name: "vm", Match: "name=nothing", Stop: kept.Stop}}
	slow := spec("slow", supervise.TargetGroup, supervisetest.Program{})
	command := supervisetest.Program{Name: "stopper", IgnoreTerm: true}.Command(exe)
	slow.Stop.Command = &command
	specs := []supervise.Spec{whole, single, kept, slow}
	if err := s.Start(t.Context(), specs...); err != nil {
		t.Fatal(err)
	}
	var units []tenure.UnitID
	for _, spec := range specs {
		units = append(units, spec.Unit)
	}
	if _, err := s.Stop(t.Context(), supervise.StopRequest{Units: units, Reason: tenure.ReasonStop}); err != nil {
		t.Fatal(err)
	}
	type sent struct {
		signal string
		to     int
		whole  bool
		helper string
		late   bool
	}
	got := map[tenure.App][]sent{}
	for _, e := range r.record.All() {
		if e.Kind == supervise.EventSignal {
			got[e.Unit.App] = append(got[e.Unit.App], sent{e.Signal, len(e.Processes), e.Whole, e.Helper, e.Late})
		}
	}
	for app, want := range map[tenure.App][]sent{
		"whole":  {{"SIGTERM", 2, false, "", false}, {"SIGKILL", 2, true, "", true}},
		"single": {{"SIGTERM", 1, false, "", false}, {"SIGKILL", 1, false, "", true}},
		"kept":   {{"SIGTERM", 2, false, "", false}, {"SIGKILL", 2, false, "", true}},
		"slow":   {{"SIGKILL", 1, true, "stop", true}, {"SIGTERM", 1, false, "", false}},
	} {
		all := got[app]
		for len(all) > len(want) && all[len(all)-1].signal == "SIGKILL" {
			all = all[:len(all)-1] // One that has not ended yet is told again.
		}
		if !slices.Equal(all, want) {
			t.Errorf("%s was sent %+v, want %+v", app, all, want)
		}
	}
}
