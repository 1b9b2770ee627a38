package rules

import (
	"fmt"
	"testing"
	"time"

	"pgregory.net/rapid"

	"tenure"
	"tenure/internal/policy"
)

// drawCondition is a condition of parts that speak of units and of none, some of which fail.
func drawCondition(t *rapid.T, depth int) string {
	if depth == 0 {
		return rapid.SampledFrom([]string{
			`unit.kind == "service"`, `unit.name == "vm"`, `unit.age > days(3)`, `unit.processes.exists(p, p.command == "a")`,
			`process.command == "a"`, `app.service`, `unit.processes.all(p, p.memory > 1)`, `has(process.command)`,
			`snap.name == "s"`, `snap.name == "t"`, `update.to == "2"`, `now.getHours() == 99`, `true`, `false`,
			`node.cpus == 1 / 0`, `unit.memory == 1 / 0`,
		}).Draw(t, "part")
	}
	left, right := drawCondition(t, depth-1), drawCondition(t, depth-1)
	return fmt.Sprintf(rapid.SampledFrom([]string{"(%s && %s)", "(%s || %s)", "!(%s && %s)", "((%s) ? %s : false)", "((%s) == (%s))"}).Draw(t, "joint"), left, right)
}

// TestWhatIsSettledIsSoForEveryUnit holds what an evaluation without units gives to what each
// unit gives by itself.
func TestWhatIsSettledIsSoForEveryUnit(t *testing.T) {
	t.Parallel()
	settledOnce := false
	rapid.Check(t, func(t *rapid.T) {
		text := drawCondition(t, 3)
		set, err := Parse("policy.yaml", []byte(fmt.Sprintf("- {name: r, when: '%s', do: {grace: 5s}}", text)))
		if err != nil {
			t.Fatal(err)
		}
		now := time.Date(2026, 3, 4, 5, 6, 7, 0, time.UTC)
		f := &Facts{Now: now, Snap: Snap{Name: "s"}, Change: Change{Reason: tenure.ReasonRefresh}}
		if rapid.Bool().Draw(t, "updates") {
			f.Update = &Update{From: tenure.SourceRevision(1), To: tenure.SourceRevision(rapid.IntRange(1, 3).Draw(t, "to"))}
		}
		service := tenure.ServiceUnit("s", "d")
		for n, id := range []tenure.UnitID{service, service.Workload("vm", 7), service.Workload("leftover", 8)} {
			u := Unit{Unit: policy.Unit{ID: id, Since: now.AddDate(0, 0, -2*n)}, IsService: n == 0}
			for k := range n {
				p := policy.Process{CommandLine: string(rune('a' + k)), Memory: int64(2 * k), Started: u.Since}
				p.PID = 10*n + k
				u.Processes = append(u.Processes, p)
			}
			f.Units = append(f.Units, u)
		}
		e := set.evaluation(f)
		common, settled := e.settled(&set.rules[0])
		if !settled {
			return
		}
		settledOnce = true
		for _, unit := range e.units {
			alone := set.evaluation(f)
			if m := alone.match(&set.rules[0], unit, func() finding { return set.rules[0].eval(unit) }); m != common || len(alone.result.Failures) > 0 {
				t.Fatalf("%s: settled as %+v; for %s it is %+v, %v", text, common, unit.ID, m, alone.result.Failures)
			}
		}
	})
	if !settledOnce {
		t.Error("no condition was settled")
	}
}
