package test

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"tenure"
	"tenure/client"
	"tenure/examples/clients/guest"
	"tenure/examples/clients/qmp"
	"tenure/examples/clients/virtd"
	"tenure/internal/policy"
	"tenure/internal/proc"
	"tenure/test/rig"
)

const manager = "virt.virtd"

// hall is an instance with the example package virt in it, and what its guests
// left behind.
type hall struct {
	*rig.Instance
	virtd.Client
	t *testing.T
}

// newHall installs virt and its base, both as x1.
func newHall(t *testing.T) hall {
	t.Helper()
	i := rig.New(t, rig.Config{})
	h := hall{Instance: i, Client: virtd.Client{Common: i.Common("virt")}, t: t}
	h.Tenure("install", "--dangerous", snap(t, "debian12", "1"), snap(t, "virt", "1"))
	h.emulate()
	return h
}

// emulate keeps the machines from KVM, which takes seconds for the firmware where
// it is nested.
func (h hall) emulate() {
	h.t.Helper()
	if err := os.WriteFile(filepath.Join(h.Client.Common, virtd.Accel), []byte("tcg\n"), 0o600); err != nil {
		h.t.Fatal(err)
	}
}

// refresh is a refresh of virt to the next revision, whatever that is.
func (h hall) refresh(version string) { h.Tenure("refresh", "--dangerous", snap(h.t, "virt", version)) }

// machine is a machine as it was when it was started.
type machine struct {
	virtd.Machine
	process tenure.Process
}

// unit is the unit that the machine is, or becomes when its manager is stopped.
func (m machine) unit() string {
	return tenure.ServiceUnit("virt", "virtd").Workload("vm", m.PID).String()
}

// start boots a machine and waits until its guest counts.
func (h hall) start(name string) machine {
	h.t.Helper()
	started, err := h.Client.Start(h.t.Context(), name)
	if err != nil {
		h.t.Fatal(err)
	}
	h.ticks(name, 2)
	info, err := proc.Read(started.PID)
	if err != nil {
		h.t.Fatal(err)
	}
	return machine{started, info.Process}
}

// ticks waits until the guest has counted n further than it has now, and checks
// all that it has written on its line and its disk.
func (h hall) ticks(name string, n int) {
	h.t.Helper()
	serial := h.File(name, virtd.SerialLog)
	line, err := guest.ReadLine(serial)
	if err != nil {
		h.t.Fatal(err)
	}
	if line, err = guest.Ticks(h.t.Context(), serial, line.Counter, n); err != nil {
		h.t.Fatal(err)
	}
	disk, err := guest.ReadDisk(h.File(name, virtd.DiskImage))
	if err != nil || disk.Counter < line.Counter || disk.Clean {
		h.t.Errorf("disk of %s: %+v, %v, want at least what the line has: %+v", name, disk, err, line)
	}
}

// lives checks that a machine is the same process, answers as the same machine,
// and counts on.
func (h hall) lives(m machine) {
	h.t.Helper()
	if info, err := proc.Read(m.PID); err != nil || info.Process != m.process {
		h.t.Fatalf("machine %s is %+v, %v, want the process %+v", m.Name, info.Process, err, m.process)
	}
	h.ask(m, func(c *qmp.Client) error {
		uuid, err := c.UUID(h.t.Context())
		if err == nil && uuid != m.UUID {
			err = fmt.Errorf("uuid %q, want %q", uuid, m.UUID)
		}
		return err
	})
	h.ticks(m.Name, 1)
}

// ask asks QEMU.
func (h hall) ask(m machine, what func(*qmp.Client) error) {
	h.t.Helper()
	c, err := qmp.Dial(h.t.Context(), h.File(m.Name, virtd.QMPSocket))
	if err != nil {
		h.t.Fatal(err)
	}
	defer c.Close() //nolint:errcheck // The machine goes on either way.
	if err := what(c); err != nil {
		h.t.Errorf("machine %s: %v", m.Name, err)
	}
}

// halted checks that the guest has switched its machine off itself, after the
// given number of boots.
func halted(t *testing.T, serial, disk string, boots int) {
	t.Helper()
	line, err := guest.ReadLine(serial)
	if err != nil || line.Boots != boots || line.Halts != boots {
		t.Errorf("serial line %s: %+v, %v, want %d boots and as many halts", serial, line, err, boots)
	}
	state, err := guest.ReadDisk(disk)
	if want := (guest.State{Counter: line.Counter, Clean: true}); err != nil || state != want {
		t.Errorf("disk %s: %+v, %v, want %+v", disk, state, err, want)
	}
}

func (h hall) halted(m machine, boots int) {
	h.t.Helper()
	halted(h.t, h.File(m.Name, virtd.SerialLog), h.File(m.Name, virtd.DiskImage), boots)
}

// read runs the command line with --json and reads its answer.
func read[T any](h hall, args ...string) T {
	h.t.Helper()
	var result T
	out := h.Tenure(append(args, "--json")...)
	if err := json.Unmarshal([]byte(out), &result); err != nil {
		h.t.Fatalf("tenure %s --json: %v\n%s", strings.Join(args, " "), err, out)
	}
	return result
}

// plan is what "tenure plan" says, for one snap.
func (h hall) plan(args ...string) policy.Plan {
	h.t.Helper()
	return onePlan(h, append([]string{"plan"}, args...)...)
}

func onePlan(h hall, args ...string) policy.Plan {
	h.t.Helper()
	plans := read[[]struct{ Plan policy.Plan }](h, args...)
	if len(plans) != 1 {
		h.t.Fatalf("tenure %s: %d plans, want 1", strings.Join(args, " "), len(plans))
	}
	return plans[0].Plan
}

// verdicts are what a plan says of each unit.
func verdicts(plan policy.Plan) map[string]tenure.Verdict {
	verdicts := map[string]tenure.Verdict{}
	for _, item := range plan.Items {
		verdicts[item.Unit.String()] = item.Verdict
	}
	return verdicts
}

// ps is what "tenure ps" shows.
func (h hall) ps() map[string]client.Unit {
	h.t.Helper()
	units := map[string]client.Unit{}
	for _, unit := range read[[]client.Unit](h, "ps") {
		units[unit.ID] = unit
	}
	return units
}

// pinning are the units that keep a revision, by name.
func (h hall) pinning(ref string) []string {
	h.t.Helper()
	units := []string{}
	for _, pin := range read[[]client.Pin](h, "why", ref) {
		if pin.Kind == "unit" {
			units = append(units, pin.By)
		}
	}
	return units
}

// kept are the revisions of a snap that are kept, by name.
func (h hall) kept(name string) []string {
	h.t.Helper()
	var revs []string
	for _, s := range read[[]client.Snap](h, "list", "--all", name) {
		revs = append(revs, s.Revision)
	}
	slices.SortFunc(revs, func(a, b string) int {
		if len(a) != len(b) {
			return len(a) - len(b)
		}
		return strings.Compare(a, b)
	})
	return revs
}

// same fails the test where got is not want.
func same(t *testing.T, what string, want, got any) {
	t.Helper()
	if diff := cmp.Diff(want, got, cmpopts.EquateComparable(tenure.Revision{})); diff != "" {
		t.Errorf("%s (-want +got):\n%s", what, diff)
	}
}
