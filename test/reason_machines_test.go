package test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"tenure/client"
	"tenure/examples/clients/guest"
	"tenure/examples/clients/qmp"
	"tenure/examples/clients/virtd"
	"tenure/internal/proc"
	"tenure/test/rig"
)

// byReasonYAML is the example virt with a manager whose stop command alone knows what
// becomes of machines, and decides it by the reason in its environment.
const byReasonYAML = `
name: virt
version: '1'
base: debian12
apps:
  virtd:
    command: bin/virtd
    daemon: notify
    stop-mode: sigterm
    stop-command: bin/stop
    lifecycle:
      workloads:
        vm: {match: '^\S*/qemu-system-\S+ '}
`

// byReason packs it. Its stop command waits at the fifo "gate", if there is one.
func byReason(t *testing.T, i *rig.Instance) string {
	t.Helper()
	dir := exampleTree(t, "virt")
	writeFile(t, filepath.Join(dir, "meta/snap.yaml"), byReasonYAML)
	writeFile(t, filepath.Join(dir, "bin/stop"), `#!/bin/sh
[ ! -p "$SNAP_COMMON/gate" ] || read -r _ <"$SNAP_COMMON/gate"
exec "$SNAP/bin/virtd-stop"
`)
	file := dir + ".snap"
	i.Tenure("pack", "--compression", "lz4", dir, file)
	return file
}

// startAll starts as many machines as a manager has, and waits until all guests count.
func (h hall) startAll() []machine {
	h.t.Helper()
	h.emulate()
	var started []machine
	for n := range machines {
		m, err := h.Client.Start(h.t.Context(), fmt.Sprint("m", n))
		if err != nil {
			h.t.Fatal(err)
		}
		info, err := proc.Read(m.PID)
		if err != nil {
			h.t.Fatal(err)
		}
		started = append(started, machine{m, info.Process})
	}
	h.allCount(started)
	return started
}

// allCount waits until each guest has counted on, and gives what their lines say then.
func (h hall) allCount(all []machine) []guest.Line {
	h.t.Helper()
	lines := make([]guest.Line, len(all))
	for n, m := range all {
		var err error
		if lines[n], err = guest.ReadLine(h.File(m.Name, virtd.SerialLog)); err != nil && !errors.Is(err, os.ErrNotExist) {
			h.t.Fatal(err)
		}
	}
	for n, m := range all {
		var err error
		if lines[n], err = guest.Ticks(h.t.Context(), h.File(m.Name, virtd.SerialLog), lines[n].Counter, 1); err != nil {
			h.t.Fatal(err)
		}
	}
	return lines
}

// allLive checks that the machines are the same processes, answer as the same machines,
// and have been booted once.
func (h hall) allLive(all []machine) {
	h.t.Helper()
	for _, m := range all {
		if info, err := proc.Read(m.PID); err != nil || info.Process != m.process {
			h.t.Errorf("machine %s is %+v, %v, want the process %+v", m.Name, info.Process, err, m.process)
		}
		h.ask(m, func(c *qmp.Client) error {
			uuid, err := c.UUID(h.t.Context())
			if err == nil && uuid != m.UUID {
				err = fmt.Errorf("uuid %q, want %q", uuid, m.UUID)
			}
			return err
		})
	}
	for n, line := range h.allCount(all) {
		if line.Boots != 1 || line.Halts != 0 {
			h.t.Errorf("serial line of %s: %+v, want one boot and no halt", all[n].Name, line)
		}
	}
}

// A manager leaves its machines alone when it is refreshed, has each guest shut its
// machine down when its snap is removed, and suspends them when the whole machine ends,
// so that they can go on where they were. Who asks for the changes in
// progress meanwhile, as wrappers do, is told the same.
func TestAManagerActsByTheReason(t *testing.T) {
	t.Parallel()
	i := rig.New(t, rig.Config{})
	h := hall{Instance: i, Client: virtd.Client{Common: i.Common("virt")}, t: t}
	file := byReason(t, i)
	i.Tenure("install", "--dangerous", snap(t, "debian12", "1"), file)
	before := h.startAll()
	one := []string{"virt"}
	for _, c := range []struct {
		kind   string
		action client.Action
	}{
		{"refresh-snap", client.Action{Action: "refresh", Files: []string{file}, Dangerous: true}},
		{"revert-snap", client.Action{Action: "revert", Snaps: one}},
		{"service-control", client.Action{Action: "restart", Names: one}},
	} {
		if kind := h.changing(c.action); kind != c.kind {
			t.Errorf("%s is a change of kind %s, want %s", c.action.Action, kind, c.kind)
		}
		h.allLive(before)
	}

	serials, disks := make([]string, machines), make([]string, machines)
	for n, m := range before {
		serials[n], disks[n] = held(t, h.File(m.Name, virtd.SerialLog)), held(t, h.File(m.Name, virtd.DiskImage))
	}
	if kind := h.changing(client.Action{Action: "remove", Snaps: one}); kind != "remove-snap" {
		t.Errorf("a removal is a change of kind %s", kind)
	}
	for n, m := range before {
		if err := rig.Gone(t.Context(), m.process); err != nil {
			t.Error(err)
		}
		halted(t, serials[n], disks[n], 1)
	}

	i.Tenure("install", "--dangerous", file)
	before = h.startAll()
	shutdown(t, i)
	h.allSuspended(before)
	i.Start()
	h.resume(before[0], before[machines-1])
}

// changing carries out an action whose stop command waits, and says what is in progress
// meanwhile.
func (h hall) changing(action client.Action) (kind string) {
	t := h.t
	t.Helper()
	gate := filepath.Join(h.Client.Common, "gate")
	if err := unix.Mkfifo(gate, 0o600); err != nil {
		t.Fatal(err)
	}
	id, err := h.Instance.Client().Do(t.Context(), action)
	if err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(gate, os.O_WRONLY, 0) //nolint:gosec // A file of the test's own root.
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close() //nolint:errcheck // Written to once.
	changes, err := h.Instance.Client().Changes(t.Context(), "in-progress", "virt")
	if err != nil || len(changes) != 1 {
		t.Fatalf("changes in progress: %+v, %v", changes, err)
	}
	if err := os.Remove(gate); err != nil {
		t.Fatal(err)
	}
	if _, err := fmt.Fprintln(f); err != nil {
		t.Fatal(err)
	}
	if status := endOf(t, h.Instance, id); status != "Done" {
		t.Errorf("%s is %s", action.Action, status)
	}
	return changes[0].Kind
}

// allSuspended checks that no machine runs, that none was switched off, and that the
// state of each was kept.
func (h hall) allSuspended(all []machine) {
	h.t.Helper()
	for _, m := range all {
		if err := rig.Gone(h.t.Context(), m.process); err != nil {
			h.t.Error(err)
		}
		line, err := guest.ReadLine(h.File(m.Name, virtd.SerialLog))
		if err != nil || line.Boots != 1 || line.Halts != 0 {
			h.t.Errorf("serial line of %s: %+v, %v, want one boot and no halt", m.Name, line, err)
		}
		if disk, err := guest.ReadDisk(h.File(m.Name, virtd.DiskImage)); err != nil || disk.Clean {
			h.t.Errorf("disk of %s: %+v, %v, want one that was not switched off", m.Name, disk, err)
		}
		if state, err := os.Stat(h.File(m.Name, virtd.Suspended)); err != nil || state.Size() == 0 {
			h.t.Errorf("state of %s: %v, %v", m.Name, state, err)
		}
	}
}

// resume starts machines that were suspended, and checks that their guests go on without
// having been booted.
func (h hall) resume(suspended ...machine) {
	h.t.Helper()
	for n, m := range suspended {
		again, err := h.Client.Start(h.t.Context(), m.Name)
		if err != nil {
			h.t.Fatal(err)
		}
		info, err := proc.Read(again.PID)
		if err != nil {
			h.t.Fatal(err)
		}
		if again.UUID != m.UUID {
			h.t.Errorf("machine %s has the uuid %s, want %s", m.Name, again.UUID, m.UUID)
		}
		suspended[n] = machine{again, info.Process}
	}
	h.allLive(suspended)
}
