package policy_test

import (
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"tenure"
	"tenure/internal/policy"
)

// drawProcesses makes a tree as the kernel shows one: a parent is as old as its
// child or older, and may be missing. With ties start times need not differ, so
// that loops of parents can occur, which a hostile reading may show.
func drawProcesses(t *rapid.T, first int, ties bool) []policy.Process {
	n := rapid.IntRange(0, 9).Draw(t, "n")
	procs := make([]policy.Process, n)
	for i := range procs {
		p := &procs[i]
		p.PID, p.Start = first+i, uint64(first+i)
		if ties {
			p.Start = rapid.Uint64Range(1, 2).Draw(t, "start")
		}
		p.PPID = first + rapid.IntRange(-1, n).Draw(t, "parent")
		p.CommandLine = rapid.SampledFrom([]string{"vm 1", "job 2", "vm job", "other", ""}).Draw(t, "command")
		p.Group = rapid.SampledFrom([]string{"", "", "", "a", "a/b", "c"}).Draw(t, "group")
		p.Foreign = p.Group != ""
	}
	return procs
}

func drawMain(t *rapid.T, procs []policy.Process) tenure.Process {
	i := rapid.IntRange(-1, len(procs)-1).Draw(t, "main")
	if i < 0 {
		return tenure.Process{}
	}
	return procs[i].Process
}

func drawVerdict(t *rapid.T, label string, verdicts ...tenure.Verdict) tenure.Verdict {
	return rapid.SampledFrom(append(verdicts, "")).Draw(t, label)
}

func drawStop(t *rapid.T) policy.Stop {
	return policy.Stop{
		Command: rapid.Bool().Draw(t, "command"),
		Signal:  rapid.SampledFrom([]string{"", "SIGINT"}).Draw(t, "signal"),
		Target:  rapid.SampledFrom([]policy.Target{"", policy.TargetGroup, policy.TargetMain}).Draw(t, "target"),
		Timeout: rapid.SampledFrom([]time.Duration{0, time.Second, time.Hour}).Draw(t, "timeout"),
		Kill:    rapid.SampledFrom([]policy.Kill{"", policy.KillNever, policy.KillAfterTimeout}).Draw(t, "kill"),
	}
}

func drawWorkloads(t *rapid.T) []policy.Workload {
	var workloads []policy.Workload
	for _, name := range []string{"vm", "job"} {
		if !rapid.Bool().Draw(t, "declares "+name) {
			continue
		}
		w := policy.Workload{Name: name, Match: name, Verdicts: map[tenure.Reason]tenure.Verdict{}}
		for _, reason := range tenure.Reasons() {
			if v := drawVerdict(t, string(reason), tenure.Endure, tenure.Stop); v != "" {
				w.Verdicts[reason] = v
			}
		}
		if rapid.Bool().Draw(t, "own stop") {
			stop := drawStop(t)
			stop.Target = ""
			w.Stop = &stop
		}
		workloads = append(workloads, w)
	}
	return workloads
}

func drawApp(t *rapid.T) policy.App {
	return policy.App{
		Daemon:      true,
		RefreshMode: rapid.SampledFrom([]policy.RefreshMode{"", policy.RefreshRestart, policy.RefreshEndure, policy.RefreshIgnoreRunning}).Draw(t, "refresh mode"),
		Refresh:     drawVerdict(t, "lifecycle.refresh", tenure.Restart, tenure.Reload, tenure.HandOver, tenure.Endure, tenure.Defer),
		Stop:        drawStop(t),
		Workloads:   drawWorkloads(t),
	}
}

// drawFacts makes a snap with two services, a workload of an earlier revision, runs of
// apps, a hook, and a unit of another snap.
func drawFacts(t *rapid.T) policy.Facts {
	rev := func(n int) tenure.Revision { return tenure.SourceRevision(n) }
	f := policy.Facts{
		Now:       scriptNow(),
		Rulings:   map[tenure.UnitID][]policy.Ruling{},
		Estimates: map[tenure.UnitID]policy.Estimate{},
		Change: policy.Change{
			Reason: rapid.SampledFrom(tenure.Reasons()).Draw(t, "reason"), Snap: "s", From: rev(2),
			Auto: rapid.Bool().Draw(t, "auto"), Leave: rapid.Bool().Draw(t, "leave"), Kill: rapid.Bool().Draw(t, "kill"),
			IgnoreRunning: rapid.Bool().Draw(t, "ignore running"),
		},
		Limits: policy.Limits{MaxStopTimeout: rapid.SampledFrom([]time.Duration{0, time.Minute}).Draw(t, "limit")},
	}
	if f.Change.Reason == tenure.ReasonRefresh || f.Change.Reason == tenure.ReasonRevert {
		f.Change.To = rev(3)
	}
	if rapid.Bool().Draw(t, "today's engine") {
		f.Supported = []tenure.Verdict{tenure.Restart, tenure.Stop, tenure.Endure, tenure.Refuse}
	}
	for n := 1; n <= 3; n++ {
		f.Declarations = append(f.Declarations, policy.Declaration{
			Snap: "s", Revision: rev(n), Apps: map[tenure.App]policy.App{"one": drawApp(t), "two": drawApp(t), "run": {}},
		})
	}
	add := func(id tenure.UnitID, revision tenure.Revision, first int) *policy.Unit {
		procs := drawProcesses(t, first, false)
		f.Units = append(f.Units, policy.Unit{ID: id, Revision: revision, Active: true, Main: drawMain(t, procs), Processes: procs})
		return &f.Units[len(f.Units)-1]
	}
	one, two := tenure.ServiceUnit("s", "one"), tenure.ServiceUnit("s", "two")
	add(one, rev(2), 100)
	add(two, rev(rapid.IntRange(1, 2).Draw(t, "revision of two")), 200)
	add(one.Workload("vm", 301), rev(1), 300)
	add(two.Workload(tenure.Leftover, 401), rev(1), 400)
	add(tenure.UnitID{Snap: "s", Kind: tenure.AppRun, App: "run", Serial: 501}, rev(2), 500)
	add(tenure.UnitID{Snap: "s", Kind: tenure.HookRun, App: "configure", Serial: 601}, rev(2), 600)
	add(tenure.ServiceUnit("other", "one"), rev(1), 700).Uses = []tenure.Ref{{Snap: "s", Revision: rev(2)}}
	return f
}

// simpleOwner is the classification written as its definition: climb from one
// process towards the main one.
func simpleOwner(procs []policy.Process, workloads []policy.Workload, main tenure.Process, p policy.Process) string {
	owner := "orphan"
	for range procs {
		if p.Process == main {
			if owner == "orphan" {
				return "service"
			}
			return owner
		}
		for _, w := range workloads {
			if regexp.MustCompile(w.Match).MatchString(p.CommandLine) {
				owner = fmt.Sprintf("%s.%d", w.Name, p.PID)
				break
			}
		}
		parent := slices.IndexFunc(procs, func(q policy.Process) bool { return q.PID == p.PPID })
		if parent < 0 || procs[parent].Start > p.Start {
			break
		}
		p = procs[parent]
	}
	return owner
}

// simpleClasses gives the class of each process, groups of the service's own included.
func simpleClasses(procs []policy.Process, workloads []policy.Workload, main tenure.Process, target policy.Target) map[int]string {
	classes := map[int]string{}
	for _, p := range procs {
		classes[p.PID] = simpleOwner(procs, workloads, main, p)
	}
	for _, group := range []string{"a", "c"} {
		members := slices.DeleteFunc(slices.Clone(procs), func(p policy.Process) bool { return strings.Split(p.Group, "/")[0] != group })
		if claim := simpleClaim(members, classes, main); claim != "" {
			for _, p := range members {
				classes[p.PID] = claim
			}
		}
	}
	orphans := slices.DeleteFunc(slices.Clone(procs), func(p policy.Process) bool { return classes[p.PID] != "orphan" })
	for _, p := range orphans {
		classes[p.PID] = "service"
		if target == policy.TargetMain {
			classes[p.PID] = fmt.Sprintf("%s.%d", tenure.Leftover, orphans[0].PID)
		}
	}
	return classes
}

// simpleClaim is the workload that a group with these members, oldest first, goes to.
func simpleClaim(members []policy.Process, classes map[int]string, main tenure.Process) string {
	if slices.ContainsFunc(members, func(p policy.Process) bool { return p.Process == main }) {
		return ""
	}
	for _, p := range members {
		if owner := classes[p.PID]; owner != "service" && owner != "orphan" {
			return owner
		}
	}
	return ""
}

func TestClassifyIsItsDefinition(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		procs := drawProcesses(t, 100, false)
		workloads, main := drawWorkloads(t), drawMain(t, procs)
		target := rapid.SampledFrom([]policy.Target{"", policy.TargetGroup, policy.TargetMain}).Draw(t, "target")
		got := map[int]string{}
		for _, class := range policy.Classify(rapid.Permutation(procs).Draw(t, "shuffled"), workloads, main, target) {
			for _, p := range class.Processes {
				got[p.PID] = "service"
				if class.Name != "" {
					got[p.PID] = fmt.Sprintf("%s.%d", class.Name, class.Root.PID)
				}
			}
		}
		if diff := cmp.Diff(simpleClasses(procs, workloads, main, target), got); diff != "" {
			t.Fatalf("classes (-simple +got):\n%s", diff)
		}
	})
}

// TestClassifyLosesNothing holds for readings that the kernel never shows too.
func TestClassifyLosesNothing(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		procs := drawProcesses(t, 100, true)
		main := drawMain(t, procs)
		var got []policy.Process
		for i, class := range policy.Classify(procs, drawWorkloads(t), main, policy.TargetMain) {
			got = append(got, class.Processes...)
			hasMain := slices.ContainsFunc(class.Processes, func(p policy.Process) bool { return p.Process == main })
			if i > 0 && (hasMain || len(class.Processes) == 0) {
				t.Fatalf("class %s has the main process, or none", class.Name)
			}
		}
		byPID := func(a, b policy.Process) int { return a.PID - b.PID }
		slices.SortFunc(got, byPID)
		if diff := cmp.Diff(slices.Clone(procs), append([]policy.Process{}, got...)); diff != "" {
			t.Fatalf("processes (-given +classified):\n%s", diff)
		}
	})
}

// touched is whether the change concerns the unit at all, by the table of the
// design.
func touched(f policy.Facts, u policy.Unit) bool {
	services := f.Change.Reason == tenure.ReasonStop || f.Change.Reason == tenure.ReasonRestart || f.Change.Reason == tenure.ReasonShutdown
	switch {
	case len(u.Processes) == 0 && u.ID.Kind != tenure.Service:
		return false
	case u.ID.Snap != f.Change.Snap:
		return !services && len(u.Processes) > 0
	case u.ID.Kind == tenure.AppRun:
		return !services
	}
	return true
}

func TestEveryProcessIsInOneItem(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		f := drawFacts(t)
		count := map[tenure.Process]int{}
		for _, item := range policy.Decide(f).Items {
			if item.Verdict == "" || item.Rule.Name == "" || item.Rule.Text == "" || item.Rule.Source == "" {
				t.Fatalf("no verdict, or one without a rule: %+v", item)
			}
			for _, p := range item.Processes {
				count[p]++
			}
		}
		for _, u := range f.Units {
			checkCount(t, f, u, count)
		}
	})
}

func checkCount(t *rapid.T, f policy.Facts, u policy.Unit, count map[tenure.Process]int) {
	want := 0
	if touched(f, u) {
		want = 1
	}
	for _, p := range u.Processes {
		if count[p.Process] != want {
			t.Fatalf("process %d of %s is in %d items, want %d", p.PID, u.ID, count[p.Process], want)
		}
	}
}

// simpleVerdict is the table of DESIGN.md section 3 once more, for facts without
// rules, names, force, deferral limits or estimates. Its second result is for
// an engine that can do everything.
func simpleVerdict(f policy.Facts, item policy.Item) tenure.Verdict {
	c := f.Change
	reason, switches := c.Reason, !c.To.IsZero()
	leaves := reason == tenure.ReasonDisable || reason == tenure.ReasonRemove
	var app policy.App
	for _, d := range f.Declarations {
		if d.Snap == item.Unit.Snap && d.Revision == item.Revision {
			app = d.Apps[item.Unit.App]
		}
	}
	switch {
	case item.Unit.Snap != c.Snap:
		return map[bool]tenure.Verdict{true: tenure.Refuse, false: tenure.Endure}[leaves]
	case item.Unit.Kind == tenure.HookRun && reason == tenure.ReasonShutdown && f.Supported != nil:
		return tenure.Stop
	case item.Unit.Kind == tenure.HookRun:
		return tenure.Defer
	case reason == tenure.ReasonShutdown:
		return tenure.Stop
	case item.Unit.Kind == tenure.AppRun && leaves:
		return tenure.Stop
	case item.Unit.Kind == tenure.AppRun && c.IgnoreRunning:
		return tenure.Endure
	case item.Unit.Kind == tenure.AppRun && c.Auto:
		return tenure.Defer
	case item.Unit.Kind == tenure.AppRun:
		return tenure.Refuse
	case item.Unit.Kind == tenure.Workload:
		return simpleWorkloadVerdict(c, app, item.Unit.Name)
	case reason == tenure.ReasonRestart, switches && len(item.Processes) == 0:
		return tenure.Restart
	case !switches:
		return tenure.Stop
	case app.Refresh != "":
		return app.Refresh
	case app.RefreshMode == "" || app.RefreshMode == policy.RefreshRestart:
		return tenure.Restart
	}
	return tenure.Endure
}

func simpleWorkloadVerdict(c policy.Change, app policy.App, name string) tenure.Verdict {
	leaves := c.Reason == tenure.ReasonDisable || c.Reason == tenure.ReasonRemove
	for _, w := range app.Workloads {
		if w.Name != name || w.Verdicts[c.Reason] == "" {
			continue
		}
		if w.Verdicts[c.Reason] == tenure.Endure && leaves && !c.Leave {
			return tenure.Refuse
		}
		return w.Verdicts[c.Reason]
	}
	if leaves {
		return tenure.Stop
	}
	return tenure.Endure
}

func TestDecideIsTheTable(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		f := drawFacts(t)
		for _, item := range policy.Decide(f).Items {
			want := simpleVerdict(f, item)
			if f.Supported != nil {
				switch want {
				case tenure.Reload, tenure.HandOver:
					want = tenure.Restart
				case tenure.Defer:
					want = tenure.Refuse
				case tenure.Restart, tenure.Endure, tenure.Stop, tenure.Refuse:
				}
			}
			if item.Verdict != want {
				t.Fatalf("%s on %s: %s, want %s\n%s", item.Unit, f.Change, item.Verdict, want, policy.Decide(f))
			}
		}
	})
}

// TestNothingProtectedEnds also draws force, rules and names, and asks only for what
// must hold whatever they say.
func TestNothingProtectedEnds(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		f := drawFacts(t)
		f.Change.Force = rapid.Bool().Draw(t, "force")
		ids := []tenure.UnitID{}
		for _, item := range policy.Decide(f).Items {
			ids = append(ids, item.Unit)
		}
		for _, id := range ids {
			if v := drawVerdict(t, "rule for "+id.String(), tenure.Verdicts()...); v != "" {
				f.Rulings[id] = []policy.Ruling{{Aspect: policy.AspectVerdict, Value: string(v), Rule: "r"}}
			}
			if rapid.IntRange(0, 5).Draw(t, "named") == 0 {
				f.Change.Units = append(f.Change.Units, id)
			}
		}
		plan := policy.Decide(f)
		for _, item := range plan.Items {
			checkProtection(t, f, item)
		}
		refuses := slices.ContainsFunc(plan.Items, func(i policy.Item) bool { return i.Verdict == tenure.Refuse })
		if refuses != (plan.Refusal != nil) {
			t.Fatalf("an item refuses: %v, the plan does: %v", refuses, plan.Refusal)
		}
		if f.Change.Force && refuses && f.Change.Reason != tenure.ReasonShutdown {
			t.Fatalf("refuses in spite of --force:\n%s", plan)
		}
	})
}

func checkProtection(t *rapid.T, f policy.Facts, item policy.Item) {
	ended := item.Verdict == tenure.Stop || item.Verdict == tenure.Restart || item.Verdict == tenure.HandOver
	simple := simpleVerdict(f, item)
	spoken := f.Change.Force || len(f.Rulings[item.Unit]) > 0 || slices.Contains(f.Change.Units, item.Unit)
	leaves := f.Change.Reason == tenure.ReasonDisable || f.Change.Reason == tenure.ReasonRemove
	agreed := item.Rule.Source == policy.Administrator || item.Rule.Source == policy.Package && f.Change.Leave
	switch {
	case ended && !spoken && (simple == tenure.Endure || simple == tenure.Refuse || simple == tenure.Defer):
		t.Fatalf("%s ends, and nobody who may has said so:\n%s", item.Unit, policy.Decide(f))
	case leaves && item.Verdict == tenure.Endure && !agreed:
		t.Fatalf("%s lives on after %s without consent:\n%s", item.Unit, f.Change, policy.Decide(f))
	case slices.Contains(f.Change.Units, item.Unit) && item.Verdict == tenure.Endure && item.Unit.Snap == f.Change.Snap:
		t.Fatalf("%s is named and endures:\n%s", item.Unit, policy.Decide(f))
	case item.Verdict == tenure.Endure && !slices.Contains(item.Pins, tenure.Ref{Snap: item.Unit.Snap, Revision: item.Revision}):
		t.Fatalf("%s endures and does not keep its revision", item.Unit)
	case f.Supported != nil && item.Verdict != tenure.Refuse && !slices.Contains(f.Supported, item.Verdict):
		t.Fatalf("%s: the engine cannot %s", item.Unit, item.Verdict)
	}
	if item.Stop != nil {
		checkProtocol(t, f, item)
	}
}

func checkProtocol(t *rapid.T, f policy.Facts, item policy.Item) {
	limit := f.Limits.MaxStopTimeout
	if item.Stop.Timeout <= 0 || limit > 0 && item.Stop.Timeout > limit {
		t.Fatalf("%s: grace period %s, limit %s", item.Unit, item.Stop.Timeout, limit)
	}
	for _, d := range f.Declarations {
		app := d.Apps[item.Unit.App]
		mayNot := d.Snap == item.Unit.Snap && d.Revision == item.Revision && app.Stop.Kill == policy.KillNever
		if mayNot && item.Unit.Kind == tenure.Service && item.Stop.Kill != policy.KillNever && !f.Change.Kill {
			t.Fatalf("%s may be killed although its package forbids it", item.Unit)
		}
	}
	if item.Unit.Kind == tenure.Workload && item.Stop.Target != policy.TargetGroup {
		t.Fatalf("%s: what its first process leaves would live on", item.Unit)
	}
}

func TestOrderDoesNotMatter(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		f := drawFacts(t)
		want := policy.Decide(f)
		f.Units = rapid.Permutation(f.Units).Draw(t, "units")
		f.Declarations = rapid.Permutation(f.Declarations).Draw(t, "declarations")
		for i := range f.Units {
			if len(f.Units[i].Processes) > 0 {
				f.Units[i].Processes = rapid.Permutation(f.Units[i].Processes).Draw(t, "processes")
			}
		}
		if diff := cmp.Diff(want, policy.Decide(f), cmp.AllowUnexported(tenure.Revision{})); diff != "" {
			t.Fatalf("another order, another plan:\n%s", diff)
		}
	})
}

// TestPlansAndFactsCanBeStored holds that what is read back is what was decided, and
// decides the same.
func TestPlansAndFactsCanBeStored(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		facts := drawFacts(t)
		plan := policy.Decide(facts)
		var readPlan policy.Plan
		var readFacts policy.Facts
		store(t, plan, &readPlan)
		store(t, facts, &readFacts)
		if readPlan.String() != plan.String() {
			t.Fatalf("stored:\n%s\nread:\n%s", plan, readPlan)
		}
		if diff := cmp.Diff(plan, policy.Decide(readFacts), cmp.AllowUnexported(tenure.Revision{})); diff != "" {
			t.Fatalf("facts that were stored decide otherwise:\n%s", diff)
		}
	})
}

func store(t *rapid.T, value, read any) {
	data, err := json.Marshal(value)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(data, read); err != nil {
		t.Fatalf("%v in %s", err, data)
	}
}

// TestCompareOfAPlanThatWasKept holds that a plan carried out to the letter differs in
// nothing, and one that was not carried out at all differs wherever it ends something.
func TestCompareOfAPlanThatWasKept(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		f := drawFacts(t)
		plan := policy.Decide(f)
		if plan.Refusal != nil {
			return
		}
		var after []policy.Unit
		ends := false
		for _, item := range plan.Items {
			ends = ends || len(item.Processes) > 0 && (item.Verdict == tenure.Stop || item.Verdict == tenure.Restart)
			after = append(after, carriedOut(f.Change, item))
		}
		if differences := policy.Compare(plan, after); len(differences) > 0 {
			t.Fatalf("carried out to the letter, and yet %v", differences)
		}
		untouched := policy.Compare(plan, f.Units)
		survived := slices.ContainsFunc(untouched, func(d policy.Difference) bool { return d.Kind == policy.Survived })
		if survived != ends {
			t.Fatalf("nothing was done: something survived %v, the plan ends something %v\n%s", survived, ends, plan)
		}
	})
}

// carriedOut is the unit of an item after the change, to the letter of the plan.
func carriedOut(c policy.Change, item policy.Item) policy.Unit {
	unit := policy.Unit{ID: item.Unit, Revision: item.Revision, Active: true}
	switch item.Verdict {
	case tenure.Restart, tenure.Reload, tenure.HandOver:
		unit.Revision = c.To
		if unit.Revision.IsZero() {
			unit.Revision = c.From
		}
	case tenure.Endure, tenure.Defer:
		for _, p := range item.Processes {
			unit.Processes = append(unit.Processes, policy.Process{Process: p})
		}
	case tenure.Stop, tenure.Refuse:
		unit.Active = false
	}
	return unit
}
