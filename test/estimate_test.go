package test

import (
	"encoding/json"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"tenure"
	"tenure/client"
	"tenure/internal/policy"
	"tenure/test/rig"
)

const (
	// suspending is how long one machine takes, and suspendingGrace how long its manager
	// has for all of them.
	suspending      = 600 * time.Millisecond
	suspendingGrace = 4 * time.Second
)

// suspender packs a manager that cannot reattach to its machines: on a refresh its stop command
// suspends them, one after another. It starts as many as the file "count" says.
func suspender(t *testing.T, i *rig.Instance, version string) string {
	t.Helper()
	dir := t.TempDir()
	writeFile(t, filepath.Join(dir, "meta/snap.yaml"), fmt.Sprintf(`
name: manager
version: '%s'
base: debian12
apps:
  virtd:
    command: bin/virtd
    daemon: forking
    stop-mode: sigterm
    stop-command: bin/suspend
    stop-timeout: %s
    lifecycle:
      workloads:
        vm: {match: '/bin/machine ', refresh: stop}
`, version, suspendingGrace))
	writeFile(t, filepath.Join(dir, "bin/virtd"), `#!/bin/sh
mkdir -p "$SNAP_COMMON/machines"
sleep infinity & # The oldest that is left is the main process.
count=$(cat "$SNAP_COMMON/count" 2>/dev/null || echo 2)
n=0
while [ $n -lt $count ]; do
	n=$((n+1))
	snapctl workload start vm@$n -- "$SNAP/bin/machine" $n
	until [ -e "$SNAP_COMMON/machines/$n" ]; do sleep 0.02; done # Now it hears signals.
done
`)
	writeFile(t, filepath.Join(dir, "bin/machine"), fmt.Sprintf(`#!/bin/sh
trap 'kill $sleeper; sleep %.1f; rm "$SNAP_COMMON/machines/$1"; exit 0' TERM
sleep infinity &
sleeper=$!
echo $$ >"$SNAP_COMMON/$1.new"
mv "$SNAP_COMMON/$1.new" "$SNAP_COMMON/machines/$1"
while :; do wait $sleeper; done
`, suspending.Seconds()))
	writeFile(t, filepath.Join(dir, "bin/suspend"), `#!/bin/sh
[ "$SNAP_LIFECYCLE_REASON" = refresh ] || exit 0
cd "$SNAP_COMMON/machines"
for machine in *; do
	[ -e "$machine" ] || continue
	kill -TERM "$(cat "$machine")"
	while [ -e "$machine" ]; do sleep 0.02; done # Then it is suspended.
done
`)
	file := dir + ".snap"
	i.Tenure("pack", "--compression", "lz4", dir, file)
	return file
}

// processesIn are all processes of a snap.
func processesIn(i *rig.Instance, snap string) map[string][]tenure.Process {
	found := map[string][]tenure.Process{}
	for name, unit := range i.Units() {
		if unit.Snap == snap && len(unit.Processes) > 0 {
			for _, p := range unit.Processes {
				found[name] = append(found[name], tenure.Process{PID: p.PID, Start: p.Start})
			}
		}
	}
	return found
}

// planOf is what a refresh to a file would do.
func planOf(t *testing.T, i *rig.Instance, action client.Action) policy.Plan {
	t.Helper()
	plans, err := i.Client().Plan(t.Context(), action)
	if err != nil || len(plans) != 1 {
		t.Fatalf("plan: %v, %v", plans, err)
	}
	var plan policy.Plan
	if err := json.Unmarshal(plans[0].Plan, &plan); err != nil {
		t.Fatal(err)
	}
	return plan
}

// A manager suspends its machines when it is stopped, one after another, each of which takes
// its time. What two take says what eight will, and that this is more than the manager has:
// the refresh is refused before anybody is told anything.
func TestWhatASuspensionTakesIsAddedUp(t *testing.T) {
	t.Parallel()
	i := rig.New(t, rig.Config{})
	i.Tenure("install", "--dangerous", snap(t, "debian12", "1"))
	i.Tenure("install", "--dangerous", suspender(t, i, "1"))
	if n := len(processesIn(i, "manager")); n != 3 {
		t.Fatalf("there are %d units: %v", n, processesIn(i, "manager"))
	}
	write(t, filepath.Join(i.Common("manager"), "count"), "8")
	if plan := planOf(t, i, client.Action{Action: "restart", Names: []string{"manager"}}); len(plan.Items) != 3 || plan.Items[0].Estimate != 0 {
		t.Errorf("nothing has been measured, and the plan has %+v", plan.Items)
	}
	i.Tenure("refresh", "--dangerous", suspender(t, i, "2"))
	for n := range 8 {
		// What has told that it hears signals may still be there.
		i.Await(fmt.Sprintf("manager.virtd/vm@%d", n+1), "is a machine and its sleeper", func(u client.Unit) bool { return len(u.Processes) == 2 })
	}
	before := processesIn(i, "manager")
	if len(before) != 9 {
		t.Fatalf("there are %d units: %v", len(before), before)
	}

	// What was measured is still known to the next daemon.
	i.Kill()
	i.Start()
	third := suspender(t, i, "3")
	refresh := client.Action{Action: "refresh", Files: []string{third}, Dangerous: true}
	plan := planOf(t, i, refresh)
	service := plan.Items[0]
	if service.Verdict != tenure.Refuse || service.Rule.Name != "stop-estimate" || plan.Refusal == nil {
		t.Fatalf("the plan is\n%s", plan)
	}
	// The machines of one refresh after another: as long as eight take at least, but for how late a busy machine
	// stamps the beginning.
	if least := 8 * suspending * 3 / 4; service.Estimate < least || service.Estimate > 10*least {
		t.Errorf("the estimate is %s, want %s or a little more", service.Estimate, 8*suspending)
	}
	sum := service.Estimate.Round(10 * time.Millisecond).String()
	said := "with the 8 workloads that it ends, takes " + sum + " by the last times measured, and is cut off after " + suspendingGrace.String()
	for _, args := range [][]string{{"refresh", "--dry-run", "--dangerous", third}, {"refresh", "--dangerous", third}} {
		result := i.Try(args...)
		text := result.Stdout + result.Stderr
		if refused := result.Status != 0; refused != (len(args) == 3) || !strings.Contains(text, said) || !strings.Contains(text, "raise stop-timeout by a rule, end some first, or use --force") {
			t.Errorf("%v: status %d, it says %s; want %s", args, result.Status, text, said)
		}
	}
	if diff := cmp.Diff(before, processesIn(i, "manager")); diff != "" {
		t.Errorf("processes after the refusal (-before +after):\n%s", diff)
	}

	setRules(t, i, "- name: patient\n  when: unit.kind == \"service\" && snap.name == \"manager\"\n  do: {grace: 1m}\n")
	plan = planOf(t, i, refresh)
	if plan.Refusal != nil || !strings.Contains(plan.String(), "with the 8 workloads that it ends, takes "+sum+" by the last times measured, of 1m") {
		t.Errorf("with a rule the plan is\n%s", plan)
	}
}
