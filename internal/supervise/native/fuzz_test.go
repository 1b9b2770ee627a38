package native

import (
	"encoding/json"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"tenure"
	"tenure/internal/proc"
	"tenure/internal/supervise"
)

// fullRecords are records of units in the middle of everything.
func fullRecords() []*record {
	service, process := tenure.ServiceUnit("virt", "virtd"), tenure.Process{PID: 1 << 21, Start: 7}
	stop := supervise.StopProtocol{Target: supervise.TargetGroup, Timeout: time.Minute, Kill: supervise.KillNever, Command: &supervise.Command{Argv: []string{"/bin/stop"}}}
	spec := supervise.Spec{
		Unit: service, Revision: tenure.LocalRevision(1), Type: supervise.Notify, Command: supervise.Command{Argv: []string{"/bin/virtd"}, Env: []string{"A=b"}},
		Stop: stop, Restart: supervise.RestartPolicy{Condition: supervise.RestartAlways, Delay: time.Second}, After: []tenure.UnitID{tenure.ServiceUnit("virt", "log")},
		Sockets: []supervise.Socket{{Name: "s", Network: "unix", Address: "/run/s"}}, Timer: "mon,10:00~12:00",
		Workloads: []supervise.Workload{{Name: "vm", Match: "qemu.*", Stop: stop}},
	}
	workload := spec.Branch(service.Workload("vm", 4711), []string{"qemu"}, stop)
	heir := spec
	heir.Unit = service.Workload(tenure.Successor, 2)
	exit := proc.Exit{Known: true, Code: 1}
	return []*record{
		{
			Boot: "boot", Spec: &spec, State: supervise.Stopping, Generation: 3, Main: process, Group: "/groups/virt/virtd.3", Ceded: []string{"/groups/virt/virtd.3/vm"},
			Ending: &ending{Cause: supervise.CauseRequest, Reason: tenure.ReasonRefresh, Phase: phaseSignal, Told: 5, Signalled: []tenure.Process{process}},
			Aux:    "/groups/virt/virtd.3=stop1", AuxKind: auxStop, AuxMain: process, Deadline: map[alarm]moment{alarmStop: 7, alarmAux: -1},
		},
		{Boot: "boot", Spec: &spec, State: supervise.Backoff, Generation: 1, Streak: 3, Exit: &exit, LastExit: &exit, Deadline: map[alarm]moment{alarmBackoff: 1 << 62}},
		{
			Boot: "boot", Spec: &workload, State: supervise.Running, Generation: 1, Passive: true, Parent: service, Group: "/groups/virt/virtd+vm.4711.1",
			Claims: []string{"/groups/virt/virtd.3/vm"}, Moving: []tenure.Process{process}, From: "/groups/virt/virtd.3",
		},
		{Boot: "boot", Spec: &heir, State: supervise.Running, Generation: 4, Heir: true, Group: "/groups/virt/virtd.4", Shared: map[string]string{"s": "t"}, Kept: []keptFile{{Name: "s"}}},
	}
}

// FuzzRecord finds the record of a unit as somebody has left it, beside others: it is passed over with an error, or a supervisor
// can go on with it, and keeps what it has read.
func FuzzRecord(f *testing.F) {
	for _, rec := range fullRecords() {
		text, err := json.Marshal(rec)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(text)
		for at := len(text) / 8; at < len(text); at += len(text) / 8 {
			f.Add(append(slices.Clone(text[:at]), text[at+1:]...))
		}
	}
	f.Add([]byte(`{"boot":"boot","spec":{"unit":"virt.virtd"},"state":"stopping","ending":{"phase":"over"}}`))
	f.Add([]byte(`{"boot":"boot","spec":{"unit":"virt.virtd","workloads":[{"match":"("}]},"state":"running","streak":-1,"generation":-9}`))
	f.Add([]byte(`{"boot":"boot","spec":null}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		r := records{t.TempDir()}
		beside := fullRecords()
		for _, rec := range beside {
			if err := r.save(rec); err != nil {
				t.Fatal(err)
			}
		}
		unit := beside[0].Spec.Unit
		if err := os.WriteFile(r.path(unit), text, 0o600); err != nil {
			t.Fatal(err)
		}
		recs, warnings := r.load("boot")
		if len(recs) < len(beside)-2 || len(warnings) > 1 {
			t.Errorf("of %d records beside it %d are read: %v", len(beside)-1, len(recs), warnings)
		}
		recs, stale := resumeHandOvers(recs)
		mend(recs)
		if len(recs)+len(stale) == 0 {
			t.Error("nothing is left of any record")
		}
		s := &Supervisor{boot: "boot"}
		for _, rec := range recs {
			s.goesOn(t, rec)
		}
	})
}

// goesOn has a unit of a record, and the record written again as it is.
func (s *Supervisor) goesOn(t *testing.T, rec *record) {
	t.Helper()
	u := newUnit(s, *rec)
	_, _ = compileWorkloads(rec.Spec.Workloads) // A warning, if there is anything.
	if delay := restartDelay(rec.Spec.Restart, rec.Streak); delay <= 0 {
		t.Errorf("it is started again after %s", delay)
	}
	if e := rec.Ending; e != nil {
		u.resumeGrace()
		_, _, _ = u.stopSignal(), e.took(u.grace()), u.keeper() // They take any.
	}
	r := records{t.TempDir()}
	if err := r.save(&u.rec); err != nil {
		t.Fatalf("what was read cannot be written: %v", err)
	}
	again, warnings := r.load("boot")
	if len(warnings) > 0 || len(again) != 1 {
		t.Fatalf("what was written is read as %v, %v", again, warnings)
	}
	before, err := json.Marshal(&u.rec)
	if err != nil {
		t.Fatal(err)
	}
	after, err := json.Marshal(again[0])
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(before), string(after)); diff != "" {
		t.Errorf("what was written is another (-want +got):\n%s", diff)
	}
}
