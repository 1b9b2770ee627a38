package bench

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"tenure"
	"tenure/internal/policy"
	"tenure/internal/rules"
)

// What a decision may take, and about how much.
const (
	decideProcesses = 10_000
	decideUnits     = 1_000
	decideRules     = 100
	decideTarget    = 20 * time.Millisecond
)

// benchDecide is a decision about a manager of machines: the rules are asked about each of
// its units, and the plan is made.
func benchDecide(b *testing.B, t *table, n int) {
	set, err := rules.Parse("policy.yaml", []byte(manyRules(decideRules)))
	if err != nil {
		b.Fatal(err)
	}
	var took series
	for range n {
		facts := manyProcesses(decideUnits, decideProcesses)
		start := time.Now()
		plan := decide(set, &facts)
		took.add(time.Since(start))
		checkDecision(b, plan)
	}
	t.row(fmt.Sprintf("decision, %d processes in %d units, %d rules", decideProcesses, decideUnits, decideRules), took)
	t.holdTime("decision, median", took.median(), decideTarget)
}

func decide(set *rules.Set, facts *policy.Facts) policy.Plan {
	snap := rules.Snap{Name: facts.Change.Snap, Revision: facts.Change.From, Version: "1.0", Type: "app", Confinement: "strict"}
	update := &rules.Update{From: facts.Change.From, To: facts.Change.To, FromVersion: "1.0", ToVersion: "2.0"}
	result := set.Evaluate(rules.About(facts, snap, rules.Node{Name: "node1", Arch: "amd64", CPUs: 2}, update))
	result.AddTo(facts)
	return policy.Decide(*facts)
}

// checkDecision looks at what the first rule about machines says of one in ten.
func checkDecision(b *testing.B, plan policy.Plan) {
	b.Helper()
	stops := 0
	for i := range plan.Items {
		if plan.Items[i].Verdict == tenure.Stop {
			stops++
		}
	}
	if len(plan.Items) != decideUnits || stops != decideUnits/10 {
		b.Fatalf("%d items, %d of them stop; want %d and %d", len(plan.Items), stops, decideUnits, decideUnits/10)
	}
}

// manyRules are n rules as a fleet has them: some for each of many snaps, and some that are asked
// about every unit of any snap.
func manyRules(n int) string {
	var text strings.Builder
	text.WriteString("- {name: old, when: 'unit.name == \"vm\" && unit.age > days(30)', do: {verdict: stop, grace: 5m}}\n")
	text.WriteString("- {name: large, when: 'unit.memory > 64000000000', do: {kill: never}}\n")
	text.WriteString("- {name: backups, when: 'unit.processes.exists(p, p.command.contains(\"qemu-img\"))', do: {verdict: defer, deferral: 1h}}\n")
	text.WriteString("- {name: fridays, when: 'now.getDayOfWeek() == 5 && update.step == \"major\"', do: {refuse: 'not on a Friday'}}\n")
	for k := range n - 4 {
		fmt.Fprintf(&text, "- {name: r%d, when: 'snap.name == \"snap%d\" && unit.kind == \"service\" && unit.age > duration(\"1h\")', do: {grace: %ds}}\n", k, k, k+1)
	}
	return text.String()
}

// manyProcesses are a manager whose machines endure, with ten processes each.
func manyProcesses(units, processes int) policy.Facts {
	now := time.Date(2026, 3, 4, 5, 6, 7, 0, time.UTC)
	from, to := tenure.SourceRevision(1), tenure.SourceRevision(2)
	app := policy.App{Daemon: true, Workloads: []policy.Workload{{
		Name: "vm", Match: "^qemu-system-x86_64 ", Verdicts: map[tenure.Reason]tenure.Verdict{tenure.ReasonRefresh: tenure.Endure},
	}}}
	facts := policy.Facts{
		Now:    now,
		Change: policy.Change{Reason: tenure.ReasonRefresh, Snap: "virt", From: from, To: to},
		Declarations: []policy.Declaration{
			{Snap: "virt", Revision: from, Apps: map[tenure.App]policy.App{"virtd": app}},
			{Snap: "virt", Revision: to, Apps: map[tenure.App]policy.App{"virtd": app}},
		},
	}
	pid := 1000
	for k := range units {
		u := policy.Unit{
			ID:       tenure.UnitID{Snap: "virt", Kind: tenure.Workload, App: "virtd", Name: "vm", Label: fmt.Sprintf("m%d", k)},
			Revision: from, Active: true, Since: now.Add(-time.Hour),
		}
		if k%10 == 0 {
			u.Since = now.AddDate(0, 0, -40)
		}
		for range processes / units {
			pid++
			u.Processes = append(u.Processes, policy.Process{
				Process: tenure.Process{PID: pid, Start: uint64(pid)}, PPID: pid - 1, Memory: 1 << 30, Started: u.Since,
				CommandLine: fmt.Sprintf("qemu-system-x86_64 -name guest=m%d -machine q35 -m 1024 -smp 2", k),
			})
		}
		u.Main = u.Processes[0].Process
		facts.Units = append(facts.Units, u)
	}
	return facts
}
