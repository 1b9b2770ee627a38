package test

import (
	"fmt"
	"math/rand/v2"
	"regexp"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"tenure"
	"tenure/client"
	"tenure/internal/policy"
	"tenure/test/rig"
)

func TestTenRevisionsAreKeptForAMachineEach(t *testing.T) {
	t.Parallel()
	const revisions = 10
	h := newHall(t)
	machines := make(map[string]machine, revisions)
	var names []string
	for n := 1; n <= revisions; n++ {
		rev := fmt.Sprintf("x%d", n)
		machines[rev] = h.start("m" + rev)
		names = append(names, rev)
		h.refresh(fmt.Sprint(1 + n%2))
	}
	same(t, "revisions", append(names, "x11"), h.kept("virt"))
	units := h.ps()
	stale := 0
	for _, unit := range units {
		if unit.Stale {
			stale++
		}
	}
	same(t, "stale units", revisions, stale)
	same(t, "stale units with their ages in the table", revisions, len(staleRow.FindAllString(h.Tenure("ps"), -1)))
	for _, rev := range names {
		m := machines[rev]
		same(t, "traces of "+rev, whole(), traces(h.Instance, "virt", rev))
		same(t, "revision of "+m.unit(), rev, units[m.unit()].Revision)
		same(t, "pins of "+rev, []string{m.unit()}, h.pinning("virt@"+rev))
		loadsModule(h, m, rev)
		h.lives(m)
	}

	seed := rand.Uint64() //nolint:gosec // An order, not a secret.
	t.Logf("the order is that of seed %d", seed)
	for _, at := range rand.New(rand.NewPCG(seed, 0)).Perm(revisions) { //nolint:gosec // An order, not a secret.
		rev := names[at]
		m := machines[rev]
		if rev == "x10" {
			// The last one before the current one is kept to be reverted to.
			if err := h.Shutdown(t.Context(), m.Name); err != nil {
				t.Fatal(err)
			}
			same(t, "pins of x10", []client.Pin{{Kind: "retained", Text: "retained"}}, h.pinsWithout("virt@x10", "unit"))
		} else {
			collected(t, h.Instance, "virt", rev, m.process, func() error { return h.Shutdown(t.Context(), m.Name) })
		}
		h.halted(m, 1)
	}
	same(t, "revisions", []string{"x10", "x11"}, h.kept("virt"))
	same(t, "traces of x10", whole(), traces(h.Instance, "virt", "x10"))
}

// staleRow is the row of a stale workload in "tenure ps".
var staleRow = regexp.MustCompile(`(?m)^ +virt\.virtd/vm\.\d+ +workload +x\d+ \(stale\) +running +(\d+m)?\d+s `)

func (h hall) pinsWithout(ref, kind string) []client.Pin {
	h.t.Helper()
	var pins []client.Pin
	for _, pin := range read[[]client.Pin](h, "why", ref) {
		if pin.Kind != kind {
			pins = append(pins, pin)
		}
	}
	return pins
}

func TestTheBaseIsRefreshedUnderMachines(t *testing.T) {
	t.Parallel()
	h := newHall(t)
	old := h.start("old")
	manages := h.Main(manager)
	bases := []string{snap(t, "debian12", "2"), snap(t, "debian12", "1")}

	plan := h.plan("refresh", bases[0])
	stayOn(t, plan, map[tenure.Process]string{manages: "debian12@x1", old.process: "debian12@x1"})
	h.Tenure("refresh", "--dangerous", bases[0])
	carriedOut(h, plan)
	h.lives(old)
	same(t, "the manager", manages, h.Main(manager))
	onBase(h, manages, "x1")
	onBase(h, old.process, "x1")
	loadsModule(h, old, "x1")

	h.Tenure("restart", "virt")
	renewed := h.start("new")
	onBase(h, h.Main(manager), "x2")
	onBase(h, renewed.process, "x2")
	onBase(h, old.process, "x1")
	plan = h.plan("refresh", bases[1])
	stayOn(t, plan, map[tenure.Process]string{
		h.Main(manager): "debian12@x2", renewed.process: "debian12@x2", old.process: "debian12@x1",
	})
	h.Tenure("refresh", "--dangerous", bases[1]) // Now x1 is not retained any more.
	carriedOut(h, plan)
	h.Tenure("restart", "virt")
	onBase(h, h.Main(manager), "x3")
	if ps := h.Tenure("ps"); strings.Count(ps, "(stale, on debian12@x1)") != 1 || strings.Count(ps, "(stale, on debian12@x2)") != 1 {
		t.Errorf("tenure ps does not show who is on which old base:\n%s", ps)
	}
	same(t, "bases of units", map[string]string{manager: "debian12@x3", old.unit(): "debian12@x1", renewed.unit(): "debian12@x2"}, basesOf(h))
	same(t, "pins of the old base", []string{old.unit()}, h.pinning("debian12@x1"))
	if why := h.Tenure("why", "debian12@x1"); !strings.Contains(why, old.unit()) {
		t.Errorf("tenure why debian12@x1 does not name %s:\n%s", old.unit(), why)
	}
	h.lives(old)
	h.lives(renewed)
	collected(t, h.Instance, "debian12", "x1", old.process, func() error { return h.Shutdown(t.Context(), "old") })
	h.halted(old, 1)
	h.lives(renewed)
	same(t, "bases", []string{"x2", "x3"}, h.kept("debian12"))
}

// stayOn checks that a plan for the base says of these processes, and no others,
// that they live on, each on the revision of the base that it has.
func stayOn(t *testing.T, plan policy.Plan, want map[tenure.Process]string) {
	t.Helper()
	bases := map[tenure.Process]string{}
	for _, item := range plan.Items {
		same(t, "verdict on "+item.Unit.String(), tenure.Endure, item.Verdict)
		same(t, item.Unit.String()+" keeps two revisions", 2, len(item.Pins))
		said := ""
		for _, pin := range item.Pins {
			for _, p := range item.Processes {
				if pin.Snap == "debian12" {
					bases[p] = pin.String()
					said = fmt.Sprintf("it stays on %s until it ", pin)
				}
			}
		}
		if len(item.Notes) != 1 || !strings.HasPrefix(item.Notes[0], said) || !strings.Contains(item.Notes[0], " and has run since 20") {
			t.Errorf("notes on %s: %q, want one that begins with %q", item.Unit, item.Notes, said)
		}
	}
	same(t, "who stays on which base", want, bases)
}

func basesOf(h hall) map[string]string {
	bases := map[string]string{}
	for id, unit := range h.ps() {
		bases[id] = unit.Base
	}
	return bases
}

// onBase checks by the number of the device that a process has a revision of the
// base as its root.
func onBase(h hall, p tenure.Process, rev string) {
	h.t.Helper()
	var root, base unix.Stat_t
	if err := unix.Stat(fmt.Sprintf("/proc/%d/root", p.PID), &root); err != nil {
		h.t.Fatal(err)
	}
	if err := unix.Stat(h.Path("snap/debian12", rev), &base); err != nil {
		h.t.Fatal(err)
	}
	if root.Dev != base.Dev || root.Ino != base.Ino {
		h.t.Errorf("process %d has not debian12@%s as its root", p.PID, rev)
	}
}

func TestMachinesEndWhileTheDaemonIsAway(t *testing.T) {
	t.Parallel()
	h := newHall(t)
	machines := make(map[string]machine)
	for n := 1; n <= 3; n++ {
		rev := fmt.Sprintf("x%d", n)
		machines[rev] = h.start("m" + rev)
		h.refresh(fmt.Sprint(1 + n%2))
	}
	h.refresh("1")
	same(t, "revisions", []string{"x1", "x2", "x3", "x4", "x5"}, h.kept("virt"))
	young := h.start("young")
	manages := h.Main(manager)

	h.Kill()
	if err := h.Shutdown(t.Context(), "mx1"); err != nil {
		t.Fatal(err)
	}
	if err := unix.Kill(machines["x3"].PID, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	for _, rev := range []string{"x1", "x3"} {
		if err := rig.Gone(t.Context(), machines[rev].process); err != nil {
			t.Fatal(err)
		}
		same(t, "traces of "+rev+" while nobody collects", whole(), traces(h.Instance, "virt", rev))
	}
	h.Instance.Start()
	collectedAfterStart(t, h.Instance, "virt", "x1", "x3")
	same(t, "revisions", []string{"x2", "x4", "x5"}, h.kept("virt"))
	same(t, "the manager", manages, h.Main(manager))
	h.lives(machines["x2"])
	h.lives(young)

	same(t, "verdicts of the adopting daemon", map[string]tenure.Verdict{
		manager: tenure.Restart, machines["x2"].unit(): tenure.Endure, young.unit(): tenure.Endure,
	}, verdicts(h.plan("refresh", snap(t, "virt", "2"))))
	last := machines["x2"]
	collected(t, h.Instance, "virt", "x2", last.process, func() error { return h.Shutdown(t.Context(), last.Name) })
	h.halted(last, 1)
	h.lives(young)
}
