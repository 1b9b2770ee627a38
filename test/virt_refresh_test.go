package test

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"tenure"
	"tenure/examples/clients/qmp"
	"tenure/internal/policy"
)

func TestMachinesLiveThroughRefreshesOfTheirManager(t *testing.T) {
	t.Parallel()
	h := newHall(t)
	var machines []machine
	for _, name := range []string{"web", "db", "mail"} {
		machines = append(machines, h.start(name))
	}
	complete := manifest(t, h.Path("snap/virt/x1"))
	old := h.Main(manager)
	for _, m := range machines {
		if path := mapped(t, m.PID, qmp.HTTPModule); path != "" {
			t.Errorf("machine %s has %s before it needs it", m.Name, path)
		}
	}

	file := snap(t, "virt", "2")
	plan := h.plan("refresh", file)
	same(t, "the plan of refresh --dry-run", plan, onePlan(h, "refresh", "--dry-run", file))
	want := map[string]tenure.Verdict{manager: tenure.Restart}
	for _, m := range machines {
		want[m.unit()] = tenure.Endure
	}
	same(t, "verdicts", want, verdicts(plan))

	h.refresh("2")
	carriedOut(h, plan)
	if now := h.Main(manager); now == old {
		t.Errorf("the manager is still process %d", now.PID)
	}
	reattached(h, machines)
	for _, m := range machines {
		h.lives(m)
		loadsModule(h, m, "x1")
	}

	for n := range 6 {
		h.refresh(fmt.Sprint(1 + n%2))
	}
	same(t, "revisions", []string{"x1", "x7", "x8"}, h.kept("virt"))
	for _, m := range machines {
		h.lives(m)
		root := fmt.Sprintf("/proc/%d/root/snap/virt", m.PID)
		same(t, "files of x1 as "+m.Name+" sees them", complete, manifest(t, filepath.Join(root, "x1")))
		if current, err := os.Readlink(filepath.Join(root, "current")); err != nil || current != "x8" {
			t.Errorf("current as %s sees it is %q, %v, want x8", m.Name, current, err)
		}
	}
	same(t, "files of x1", complete, manifest(t, h.Path("snap/virt/x1")))
	same(t, "pins of x1", unitsOf(machines), h.pinning("virt@x1"))
	if why := h.Tenure("why", "virt@x1"); !namesAll(why, unitsOf(machines)) {
		t.Errorf("tenure why virt@x1 does not name every machine:\n%s", why)
	}

	for _, m := range machines[:2] {
		h.Tenure("stop", m.unit())
		h.halted(m, 1)
	}
	last := machines[2]
	same(t, "pins of x1", []string{last.unit()}, h.pinning("virt@x1"))
	same(t, "files of x1 for the last one", complete, manifest(t, fmt.Sprintf("/proc/%d/root/snap/virt/x1", last.PID)))
	h.lives(last)
	collected(t, h.Instance, "virt", "x1", last.process, func() error { return h.Shutdown(t.Context(), last.Name) })
	h.halted(last, 1)
	same(t, "revisions", []string{"x7", "x8"}, h.kept("virt"))
	if result := h.Try("why", "virt@x1"); result.Status == 0 {
		t.Errorf("tenure why of a revision that is gone: %q", result.Stdout)
	}
}

// carriedOut checks unit by unit that what a plan says has happened.
func carriedOut(h hall, plan policy.Plan) {
	h.t.Helper()
	units := h.ps()
	for _, item := range plan.Items {
		unit, alive := units[item.Unit.String()]
		var now []tenure.Process
		for _, p := range unit.Processes {
			now = append(now, tenure.Process{PID: p.PID, Start: p.Start})
		}
		switch item.Verdict { //nolint:exhaustive // The others are not to be expected here.
		case tenure.Endure:
			same(h.t, item.Unit.String()+" lives on with its processes", item.Processes, now)
			same(h.t, item.Unit.String()+" keeps its revision", item.Revision.String(), unit.Revision)
			same(h.t, item.Unit.String()+" is stale", item.Stale, unit.Stale)
			for _, pin := range item.Pins {
				if !slices.Contains(h.pinning(pin.String()), item.Unit.String()) {
					h.t.Errorf("%s does not keep %s, which the plan says", item.Unit, pin)
				}
			}
		case tenure.Restart:
			if !alive || unit.Revision != plan.Change.To.String() || unit.Stale {
				h.t.Errorf("%s is %+v, want it to run from %s", item.Unit, unit, plan.Change.To)
			}
			if slices.ContainsFunc(now, func(p tenure.Process) bool { return slices.Contains(item.Processes, p) }) {
				h.t.Errorf("%s is %v, and the plan says that %v are to end", item.Unit, now, item.Processes)
			}
		case tenure.Stop:
			if alive {
				h.t.Errorf("%s lives, and the plan says that it is to end", item.Unit)
			}
		default:
			h.t.Errorf("%s: unexpected verdict %q", item.Unit, item.Verdict)
		}
	}
	for id := range units {
		if _, planned := verdicts(plan)[id]; !planned {
			h.t.Errorf("the plan does not speak of %s", id)
		}
	}
}

// reattached checks that the manager has found the machines running.
func reattached(h hall, machines []machine) {
	h.t.Helper()
	list, err := h.List(h.t.Context())
	if err != nil {
		h.t.Fatal(err)
	}
	if len(list) != len(machines) {
		h.t.Fatalf("the manager knows %d machines, want %d: %+v", len(list), len(machines), list)
	}
	for _, got := range list {
		at := slices.IndexFunc(machines, func(m machine) bool { return m.Name == got.Name })
		want := machines[at].Machine
		want.Reattached = true
		same(h.t, "machine "+got.Name+" as its new manager knows it", want, got)
	}
}

// loadsModule makes a machine load a module that it has not needed yet.
func loadsModule(h hall, m machine, rev string) {
	h.t.Helper()
	h.ask(m, func(c *qmp.Client) error { return c.ReadOverHTTP(h.t.Context(), 1<<20) })
	want := filepath.Join("/snap/virt", rev, "usr/lib/x86_64-linux-gnu/qemu", qmp.HTTPModule)
	if got := mapped(h.t, m.PID, qmp.HTTPModule); got != want {
		h.t.Errorf("machine %s loaded %q, want %q", m.Name, got, want)
	}
}

// mapped is the path of the file of that name that the process has mapped.
func mapped(t *testing.T, pid int, name string) string {
	t.Helper()
	maps, err := os.ReadFile(fmt.Sprintf("/proc/%d/maps", pid))
	if err != nil {
		t.Fatal(err)
	}
	for line := range bytes.SplitSeq(maps, []byte{'\n'}) {
		if at := bytes.IndexByte(line, '/'); at >= 0 && filepath.Base(string(line[at:])) == name {
			return string(line[at:])
		}
	}
	return ""
}

func unitsOf(machines []machine) []string {
	units := make([]string, 0, len(machines))
	for _, m := range machines {
		units = append(units, m.unit())
	}
	slices.Sort(units)
	return units
}

func namesAll(text string, names []string) bool {
	return !slices.ContainsFunc(names, func(name string) bool { return !strings.Contains(text, name) })
}
