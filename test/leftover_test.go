package test

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"

	"tenure"
	"tenure/client"
	"tenure/internal/proc"
	"tenure/test/rig"
)

const daemon = "careless.daemon"

// helper is a process that a service of the careless package has left behind.
type helper struct {
	client.Process

	revision string
	handle   *proc.Handle
	// unit is what it is in when its service has been stopped.
	unit string
}

// helperOf finds the one helper among the processes of the service, and takes
// hold of it.
func helperOf(t *testing.T, i *rig.Instance) helper {
	t.Helper()
	service := i.Units()[daemon]
	at := slices.IndexFunc(service.Processes, func(p client.Process) bool { return !p.Main })
	if at < 0 || len(service.Processes) != 2 {
		t.Fatalf("processes of %s are %v, want its main process and a helper", daemon, service.Processes)
	}
	p := service.Processes[at]
	return helper{
		Process: p, revision: service.Revision, handle: hold(t, tenure.Process{PID: p.PID, Start: p.Start}),
		unit: fmt.Sprintf("%s/leftover.%d", daemon, p.PID),
	}
}

// endedWell waits for the end of the helper, and fails the test if it did not end
// because it was told to.
func (h helper) endedWell(t *testing.T) {
	t.Helper()
	if exit := ending(t, h.handle); !exit.Success() {
		t.Errorf("%s: %v, want that it ended when it was told to", h.unit, exit)
	}
}

// check compares what Tenure shows with the helpers that were left behind by
// earlier revisions: each is its own stale unit, pins its revision, and has the
// files of that.
func check(t *testing.T, i *rig.Instance, helpers []helper) {
	t.Helper()
	units := i.Units()
	ps := i.Tenure("ps", "careless")
	kept := i.Tenure("list", "--all", "careless")
	for _, h := range helpers {
		want := client.Unit{
			ID: h.unit, Kind: "workload", Snap: "careless", Revision: h.revision, State: "running", Stale: true,
			Since: units[h.unit].Since, StaleSince: units[h.unit].StaleSince, Processes: []client.Process{h.Process},
		}
		want.Processes[0].Main = true
		// Its parent has ended.
		got := units[h.unit]
		if len(got.Processes) == 1 {
			want.Processes[0].PPID = got.Processes[0].PPID
		}
		if diff := cmp.Diff(want, got); diff != "" || got.Since.IsZero() || got.StaleSince.IsZero() {
			t.Errorf("unit %s since %v (-want +got):\n%s", h.unit, got.Since, diff)
		}
		shown := regexp.MustCompile(regexp.QuoteMeta(h.unit) + `\s+workload\s+` + h.revision + ` \(stale\)\s+running\s+(\d+[dhm])*\d+s`)
		if !shown.MatchString(ps) {
			t.Errorf("ps does not show %s as stale, with its age:\n%s", h.unit, ps)
		}
		if !regexp.MustCompile(`(?m)^careless\s+\S+\s+` + h.revision + `\s.*disabled$`).MatchString(kept) {
			t.Errorf("revision %s is not kept:\n%s", h.revision, kept)
		}
		if why := i.Tenure("why", "careless@"+h.revision); !strings.Contains(why, "unit "+h.unit) {
			t.Errorf("why careless@%s does not name %s:\n%s", h.revision, h.unit, why)
		}
		version, err := os.ReadFile(fmt.Sprintf("/proc/%d/root/snap/careless/%s/version", h.PID, h.revision))
		if want := "version of " + h.revision; err != nil || string(version) != want {
			t.Errorf("%s sees %q, %v, want %q", h.unit, version, err, want)
		}
	}
	if got, want := len(units), len(helpers)+1; got != want {
		t.Errorf("there are %d units, want %d", got, want)
	}
}

// gone checks that nothing of the careless package is left.
func gone(t *testing.T, i *rig.Instance) {
	t.Helper()
	for _, left := range rig.Leftovers(i.Root) {
		if strings.Contains(left, "careless") {
			t.Errorf("left behind: %s", left)
		}
	}
	for _, pattern := range []string{"snap/careless*", "snap/bin/careless*", "var/snap/careless*", "var/lib/tenure/snaps/careless*"} {
		if found, err := filepath.Glob(i.Path(pattern)); err != nil || len(found) > 0 {
			t.Errorf("left behind: %v, %v", found, err)
		}
	}
	if units := i.Units(); len(units) > 0 {
		t.Errorf("left behind: units %v", units)
	}
	if t.Failed() {
		t.Logf("revisions, and what keeps the last:\n%s%s", i.Try("list", "--all").Stdout, i.Try("why", "careless@x5").Stdout)
	}
}

// planned checks that a plan has a verdict on a unit.
func planned(t *testing.T, plan, unit, verdict, rest string) {
	t.Helper()
	line := regexp.MustCompile(`(?m)^` + regexp.QuoteMeta(unit) + `\s+x\d+\s+` + regexp.QuoteMeta(verdict) + `\s.*` + regexp.QuoteMeta(rest))
	if !line.MatchString(plan) {
		t.Errorf("the plan does not say %s of %s (%s):\n%s", verdict, unit, rest, plan)
	}
}

// TestLeftoversAreTracked is case 11: a service forks a helper twice and forgets
// it, in every revision. Each lives on, is seen, and keeps its revision; what ends
// takes its revision with it, and remove ends them all.
func TestLeftoversAreTracked(t *testing.T) {
	t.Parallel()
	i := rig.New(t, rig.Config{})
	pack := careless{Command: "leave helper"}.packer(t, i)
	i.Tenure("install", "--dangerous", pack("x1"))
	var helpers []helper
	for n := range 10 {
		h := helperOf(t, i)
		file := pack(fmt.Sprintf("x%d", n+2))
		planned(t, i.Tenure("plan", "refresh", file), h.unit, "endure (stale)", "careless@"+h.revision)
		i.Tenure("refresh", "--dangerous", file)
		helpers = append(helpers, h)
		if n == 0 {
			check(t, i, helpers)
		}
	}
	check(t, i, helpers)

	fifth := helpers[4]
	if err := fifth.handle.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	await(t, i.Path("var/snap/careless"), func() bool {
		_, err := os.Stat(i.Path("var/snap/careless", fifth.revision))
		return os.IsNotExist(err)
	})
	helpers = slices.Delete(helpers, 4, 5)
	check(t, i, helpers)

	helpers = append(helpers, helperOf(t, i))
	plan := i.Tenure("plan", "remove", "careless")
	for _, h := range helpers {
		planned(t, plan, h.unit, "stop", "leftovers on remove")
	}
	i.Tenure("remove", "careless")
	gone(t, i)
	for _, h := range helpers {
		h.endedWell(t)
	}
}

// TestDisableEndsLeftovers: what is disabled does not run, and nothing of it
// either.
func TestDisableEndsLeftovers(t *testing.T) {
	t.Parallel()
	i := rig.New(t, rig.Config{})
	pack := careless{Command: "leave helper"}.packer(t, i)
	i.Tenure("install", "--dangerous", pack("x1"))
	old := helperOf(t, i)
	i.Tenure("refresh", "--dangerous", pack("x2"))
	helpers := []helper{old, helperOf(t, i)}
	i.Tenure("disable", "careless")
	for _, h := range helpers {
		h.endedWell(t)
	}
	if units := i.Units(); len(units) > 0 {
		t.Errorf("units after disable: %v", units)
	}
	i.Tenure("enable", "careless")
	helperOf(t, i)
}

// TestRemovingARevisionTouchesNoUnit: one that is used cannot be removed, and one
// that is not used is no unit's business.
func TestRemovingARevisionTouchesNoUnit(t *testing.T) {
	t.Parallel()
	i := rig.New(t, rig.Config{})
	pack := careless{Command: "leave helper"}.packer(t, i)
	i.Tenure("install", "--dangerous", pack("x1"))
	old := helperOf(t, i)
	i.Tenure("refresh", "--dangerous", pack("x2"))
	result := i.Try("remove", "--revision", "x1", "careless")
	if result.Status != 1 || !strings.Contains(result.Stderr, "in use: unit "+old.unit) {
		t.Errorf("remove a revision that is used: %+v", result)
	}
	i.Tenure("stop", old.unit)
	old.endedWell(t)
	before := i.Units()
	if len(before) != 1 || before[daemon].Revision != "x2" {
		t.Fatalf("units are %v", before)
	}
	if plan := i.Tenure("plan", "remove", "--revision", "x1", "careless"); !strings.Contains(plan, "remove careless: no unit is touched\n") {
		t.Errorf("the plan is %q", plan)
	}
	i.Tenure("remove", "--revision", "x1", "careless")
	if diff := cmp.Diff(before, i.Units()); diff != "" {
		t.Errorf("units (-before +after):\n%s", diff)
	}
	if _, err := os.Stat(i.Path("snap/careless/x1")); !os.IsNotExist(err) {
		t.Errorf("the revision is still there: %v", err)
	}
}

// TestGroupsOfServicesAreLeftAlone: a service puts what it leaves behind into a
// control group of its own making, as container managers do. Nobody moves it; all
// else is as for any leftover.
func TestGroupsOfServicesAreLeftAlone(t *testing.T) {
	t.Parallel()
	i := rig.New(t, rig.Config{})
	pack := careless{Command: "group payload/inner helper", Confinement: "classic"}.packer(t, i)
	i.Tenure("install", "--dangerous", "--classic", pack("x1"))
	group := func(h helper) string {
		t.Helper()
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", h.PID))
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	h := helperOf(t, i)
	before := group(h)
	if !strings.Contains(before, "/payload/inner\n") {
		t.Fatalf("the helper is in %s", before)
	}
	file := pack("x2")
	plan := i.Tenure("plan", "refresh", "--classic", file)
	planned(t, plan, h.unit, "endure (stale)", "careless@x1")
	if !strings.Contains(plan, "note: "+h.unit+": processes in control groups that the service made stay in them") {
		t.Errorf("the plan says nothing of the group:\n%s", plan)
	}
	i.Tenure("refresh", "--dangerous", "--classic", file)
	for _, version := range []string{"x3", "x4", "x5"} {
		i.Tenure("refresh", "--dangerous", "--classic", pack(version))
	}
	if diff := cmp.Diff(before, group(h)); diff != "" {
		t.Errorf("the helper was moved (-before +after):\n%s", diff)
	}
	if why := i.Tenure("why", "careless@x1"); !strings.Contains(why, "unit "+h.unit) {
		t.Errorf("why careless@x1 does not name %s:\n%s", h.unit, why)
	}
	if version, err := os.ReadFile(i.Path("snap/careless/x1/version")); err != nil || string(version) != "version of x1" {
		t.Errorf("version of x1: %q, %v", version, err)
	}
	i.Tenure("remove", "careless")
	gone(t, i)
	h.endedWell(t)
}
