package packaging_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"tenure/examples/clients/guest"
	"tenure/examples/clients/snaps"
	"tenure/examples/clients/virtd"
)

// hall is a machine on which virtd has QEMU machines.
type hall struct {
	machine

	virtd.Client
}

// manager is virtd for systemctl.
const manager = "snap.virt.virtd.service"

// hallIn installs the example virt.
func hallIn(m machine) hall {
	m.t.Helper()
	for _, snap := range [][2]string{{"debian12", "1"}, {"virt", "1"}, {"virt", "2"}} {
		if _, err := snaps.Build(m.t.Context(), snap[0], snap[1]); err != nil {
			m.t.Fatal(err)
		}
	}
	m.run("tenure", "install", "--dangerous", "/mnt/debian12_1.snap")
	m.run("tenure", "install", "--dangerous", "/mnt/virt_1.snap")
	// Until the service is stopped by somebody else, or the machine boots.
	m.run("sh", "-c", `mkdir -p /etc/tenure && printf -- '- name: later\n  when: unit.id == "virt.virtd"\n  do: {verdict: defer}\n' >/etc/tenure/policy.yaml`)
	m.run("tenure", "set", "system", "refresh.observe=100ms")
	h := hall{machine: m}
	h.find()
	return h
}

// find takes the paths of the machine, which change when it boots.
func (h *hall) find() { h.Client = virtd.Client{Common: h.Path("var/snap/virt/common")} }

// boot starts a QEMU machine, and returns when its guest has counted.
func (h *hall) boot(name string) virtd.Machine {
	h.t.Helper()
	v, err := h.Start(h.t.Context(), name)
	if err != nil {
		h.t.Fatal(err)
	}
	line, err := guest.ReadLine(h.File(name, virtd.SerialLog))
	if err == nil {
		_, err = guest.Ticks(h.t.Context(), h.File(name, virtd.SerialLog), line.Counter, 1)
	}
	if err != nil {
		h.t.Fatal(err)
	}
	return v
}

// await waits for what systemd tells nobody outside of the machine.
func (h *hall) await(what string, is func() bool) {
	h.t.Helper()
	ctx, cancel := context.WithTimeout(h.t.Context(), time.Minute)
	defer cancel()
	for !is() {
		select {
		case <-time.After(10 * time.Millisecond):
		case <-ctx.Done():
			h.t.Fatalf("never: %s", what)
		}
	}
}

// read is a file of the machine, which must be there.
func (h *hall) read(elem ...string) string {
	h.t.Helper()
	text, err := os.ReadFile(h.Path(elem...))
	if err != nil {
		h.t.Fatal(err)
	}
	return string(text)
}

// groupOf is the control group of a QEMU machine.
func (h *hall) groupOf(v virtd.Machine) string {
	h.t.Helper()
	return strings.TrimSpace(h.read("proc", strconv.Itoa(v.PID), "cgroup"))
}

// expectScope fails the test if a QEMU machine has no scope of its own.
func (h *hall) expectScope(when string, all []virtd.Machine) {
	h.t.Helper()
	for _, v := range all {
		want := fmt.Sprintf("/snap.slice/snap-virt.slice/snap.virt.virtd:vm.%d.1.scope", v.PID)
		if got := h.groupOf(v); !strings.HasSuffix(got, want) {
			h.t.Errorf("%s machine %s is in %s, want %s", when, v.Name, got, want)
		}
	}
}

// expectAlive fails the test if anything but a new virtd has come to QEMU machines.
func (h *hall) expectAlive(when string, all []virtd.Machine) {
	h.t.Helper()
	got, err := h.List(h.t.Context())
	if err != nil {
		h.t.Fatalf("%s: %v", when, err)
	}
	for _, v := range all {
		at := slices.IndexFunc(got, func(g virtd.Machine) bool { return g.Name == v.Name })
		if at < 0 || !got[at].Running || got[at].PID != v.PID || !got[at].Reattached {
			h.t.Errorf("%s virtd knows of %+v, and of %+v before", when, got, v)
		}
	}
	h.expectTicks(when, all)
}

// expectTicks fails the test if a guest does not go on counting.
func (h *hall) expectTicks(when string, all []virtd.Machine) {
	h.t.Helper()
	for _, v := range all {
		path := h.File(v.Name, virtd.SerialLog)
		line, err := guest.ReadLine(path)
		if err == nil {
			line, err = guest.Ticks(h.t.Context(), path, line.Counter, 1)
		}
		if err != nil || line.Boots != 1 {
			h.t.Errorf("%s the guest of %s is at %+v, %v", when, v.Name, line, err)
		}
	}
}

// unit is what systemd says of virtd.
type unit struct{ state, description, main string }

func (h *hall) unit() unit {
	h.t.Helper()
	u := unit{}
	for line := range strings.Lines(h.run("systemctl", "show", "--property", "ActiveState,Description,MainPID", manager)) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), "=")
		*map[string]*string{"ActiveState": &u.state, "Description": &u.description, "MainPID": &u.main}[name] = value
	}
	return u
}

// expectSameUnit fails the test if virtd has been started again.
func (h *hall) expectSameUnit(when string, before unit) {
	h.t.Helper()
	if now := h.unit(); now != before {
		h.t.Errorf("%s virtd is %+v, before it was %+v", when, now, before)
	}
}

// expectRevision fails the test if virtd does not run from a revision, or that is not the current one.
func (h *hall) expectRevision(when, revision string) unit {
	h.t.Helper()
	u := h.unit()
	if u.state != "active" || u.description != "virt.virtd (revision "+revision+")" {
		h.t.Fatalf("%s: %+v\n%s", when, u, h.Run(h.t.Context(), "systemctl", "status", "--no-pager", manager, "tenured-boot.service").Stdout)
	}
	if got, err := os.Readlink(h.Path("snap/virt/current")); err != nil || got != revision {
		h.t.Errorf("%s the current revision is %s, %v", when, got, err)
	}
	if got := h.read("proc", u.main, "cmdline"); !strings.HasPrefix(got, "/snap/virt/"+revision+"/") {
		h.t.Errorf("%s virtd is %q", when, got)
	}
	return u
}

// stage has a snap file wait for the next boot, at which there is no daemon.
func (h *hall) stage(file string) (change string) {
	h.t.Helper()
	change = h.run("tenure", "refresh", "--dangerous", "--no-wait", file)
	h.await("the revision is staged", func() bool { return strings.Contains(h.run("tenure", "changes"), " Wait ") })
	// As "systemctl mask" does, but before systemd reads it the next time.
	h.run("ln", "-s", "/dev/null", "/etc/systemd/system/tenured.service")
	return change
}

// unmask has there be a daemon again.
func (h *hall) unmask() {
	h.t.Helper()
	h.run("systemctl", "unmask", "tenured.service")
	h.run("systemctl", "start", "tenured.socket", "tenured.service")
}

func (h *hall) reboot() {
	h.t.Helper()
	if err := h.Reboot(h.t.Context()); err != nil {
		h.t.Fatal(err)
	}
	h.find()
}

// TestMachinesLiveByTheModel does to virtd what administrators do, with systemctl alone: whatever it
// is, its machines live until the machine ends that all of it runs on.
func TestMachinesLiveByTheModel(t *testing.T) {
	t.Parallel()
	h := hallIn(install(t))
	all := []virtd.Machine{h.boot("one"), h.boot("two")}
	h.await("the machines have scopes", func() bool {
		return !slices.ContainsFunc(all, func(v virtd.Machine) bool { return !strings.HasSuffix(h.groupOf(v), ".scope") })
	})
	h.expectScope("before anything is done", all)
	h.byHand(all)
	all = h.withoutDaemon(all)
	h.stagedUntilBoot(all)
	h.brokenAtBoot()
}

// byHand is what administrators do to a service.
func (h *hall) byHand(all []virtd.Machine) {
	h.run("systemctl", "restart", manager)
	h.expectAlive("after a restart", all)

	main := h.unit().main
	h.run("kill", "-KILL", main)
	h.await("virtd is there again", func() bool { now := h.unit(); return now.main != main && now.state == "active" })
	h.expectAlive("after a crash", all)

	for _, verb := range []string{"stop", "kill"} {
		h.run("systemctl", verb, manager)
		h.await("virtd has ended", func() bool { return h.unit().state == "inactive" })
		h.expectTicks("after a "+verb, all)
		h.expectScope("after a "+verb, all)
		h.run("systemctl", "start", manager)
		h.expectAlive("after a "+verb+" and a start", all)
	}
}

// withoutDaemon is the same where there is no daemon. A machine more is begun meanwhile.
func (h *hall) withoutDaemon(all []virtd.Machine) []virtd.Machine {
	h.run("systemctl", "stop", "tenured.socket", "tenured-snapctl.socket", "tenured.service")
	all = append(all, h.boot("three"))
	h.run("systemctl", "restart", manager)
	h.expectAlive("after a restart without a daemon", all)
	h.expectScope("after a restart without a daemon", all)
	before := h.unit()
	h.run("systemctl", "start", "tenured.socket", "tenured-snapctl.socket", "tenured.service")
	h.expectSameUnit("with the next daemon", before)
	units := h.run("tenure", "ps")
	for _, v := range all {
		if !strings.Contains(units, fmt.Sprintf("virt.virtd/vm.%d ", v.PID)) {
			h.t.Errorf("the next daemon does not know of %+v:\n%s", v, units)
		}
	}
	h.expectAlive("with the next daemon", all)
	return all
}

// stagedUntilBoot is a revision that waits for the end of the machine.
func (h *hall) stagedUntilBoot(all []virtd.Machine) {
	change := h.stage("/mnt/virt_2.snap")
	h.expectRevision("while a revision is staged", "x1")
	h.reboot()
	h.expect("after a boot without it", "ActiveState", "inactive")
	before := h.expectRevision("after the boot", "x2")
	for _, v := range all {
		if disk, err := guest.ReadDisk(h.File(v.Name, virtd.DiskImage)); err != nil || !disk.Clean {
			h.t.Errorf("machine %s has not ended well: %+v, %v", v.Name, disk, err)
		}
	}
	if v := h.boot("one"); v.Revision != "x2" {
		h.t.Errorf("a machine is started as %+v", v)
	}
	h.unmask()
	h.expectSameUnit("with a daemon again", before)
	h.expectChange(change, "Done")
	h.expectKept("x1 x2")
}

// brokenAtBoot is a revision that waits likewise, and cannot run.
func (h *hall) brokenAtBoot() {
	h.run("sh", "-ec", `cd /root; unsquashfs -q -n -d broken /mnt/virt_2.snap
		printf '#!/bin/sh\nexit 3\n' >broken/bin/virtd
		mksquashfs broken broken.snap -quiet -no-progress -noI -noD -noF -noX`)
	change := h.stage("/root/broken.snap")
	h.reboot()
	before := h.expectRevision("after a boot with a broken revision", "x2")
	h.unmask()
	h.expectSameUnit("with a daemon again", before)
	h.expectChange(change, "Error")
	h.expectKept("x1 x2")
}

// expectChange waits for the end of a change, and fails the test if it is another one.
func (h *hall) expectChange(id, want string) {
	h.t.Helper()
	if got := h.Run(h.t.Context(), "tenure", "watch", id); (got.Status == 0) != (want == "Done") {
		h.t.Errorf("change %s, which is to be %s: %+v", id, want, got)
	}
}

// expectKept fails the test if other revisions of virt are mounted.
func (h *hall) expectKept(want string) {
	h.t.Helper()
	dirs, err := filepath.Glob(h.Path("snap/virt/x*"))
	for i, dir := range dirs {
		dirs[i] = filepath.Base(dir)
	}
	if got := strings.Join(dirs, " "); err != nil || got != want {
		h.t.Errorf("revisions %s are kept, want %s, %v", got, want, err)
	}
}
