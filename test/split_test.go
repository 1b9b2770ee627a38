package test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"tenure"
	"tenure/client"
	"tenure/examples/clients/guest"
	"tenure/examples/clients/snaps"
	"tenure/examples/clients/virtd"
	"tenure/internal/policy"
	"tenure/test/rig"
)

// machineScript is the program of the runtime: one QEMU, named by its instance.
const machineScript = `#!/bin/sh
set -e
dir=$SNAP_COMMON/machines/$SNAP_LIFECYCLE_INSTANCE
mkdir -p "$dir"
[ -e "$dir/disk.img" ] || { cp "$SNAP/guest/guest.img" "$dir/disk.new"; mv "$dir/disk.new" "$dir/disk.img"; }
export LD_LIBRARY_PATH=$SNAP/usr/lib/x86_64-linux-gnu QEMU_MODULE_DIR=$SNAP/usr/lib/x86_64-linux-gnu/qemu
exec "$SNAP/usr/bin/qemu-system-x86_64" -name "$SNAP_LIFECYCLE_INSTANCE" -machine pc -accel tcg \
	-nodefaults -no-user-config -display none -L "$SNAP/usr/share/qemu" -L "$SNAP/usr/share/seabios" \
	-drive "if=ide,format=raw,file=$dir/disk.img" -chardev "file,id=serial,append=on,path=$dir/serial.log" -serial chardev:serial \
	-qmp "unix:$dir/qmp.sock,server=on,wait=off" -qmp "unix:$dir/stop.qmp,server=on,wait=off" -daemonize "$@"
`

// exampleTree is a copy of the files of an example package, to add to.
func exampleTree(t *testing.T, name string) string {
	t.Helper()
	tree, err := snaps.Tree(t.Context(), name)
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(t.TempDir(), name)
	if out, err := exec.CommandContext(t.Context(), "cp", "-a", tree, dir).CombinedOutput(); err != nil {
		t.Fatalf("copy the example: %v\n%s", err, out)
	}
	return dir
}

// runtimeSnap packs the runtime qemu: the files of the example virt, and a template
// whose guests switch their machines off when they are to end.
func runtimeSnap(t *testing.T, i *rig.Instance, version string) string {
	t.Helper()
	dir := exampleTree(t, "virt")
	writeFile(t, filepath.Join(dir, "meta/snap.yaml"), fmt.Sprintf(`
name: qemu
version: '%s'
base: debian12
apps:
  vm:
    command: bin/machine
    daemon: forking
    stop-command: bin/vm-shutdown
    stop-timeout: 1m
    lifecycle: {instances: true}
`, version))
	writeFile(t, filepath.Join(dir, "bin/machine"), machineScript)
	return packed(t, i, dir)
}

// managerSnap packs the manager virt: virtd, without a QEMU of its own.
func managerSnap(t *testing.T, i *rig.Instance, version string) string {
	t.Helper()
	tree, err := snaps.Tree(t.Context(), "virt")
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(t.TempDir(), "virt")
	writeFile(t, filepath.Join(dir, "meta/snap.yaml"), fmt.Sprintf(`
name: virt
version: '%s'
base: debian12
apps:
  manager:
    command: bin/virtd
    daemon: notify
    stop-mode: sigterm
    environment: {VIRTD_TEMPLATE: qemu.vm}
`, version))
	program, err := os.ReadFile(filepath.Join(tree, "bin/virtd"))
	if err != nil {
		t.Fatal(err)
	}
	writeFile(t, filepath.Join(dir, "bin/virtd"), string(program))
	return packed(t, i, dir)
}

func packed(t *testing.T, i *rig.Instance, dir string) string {
	t.Helper()
	file := dir + ".snap"
	i.Tenure("pack", "--compression", "lz4", dir, file)
	return file
}

// hosting is a manager and its runtime as two packages. The files of the machines, and
// what asks them, are the runtime's; for a machine one asks the manager.
type hosting struct {
	hall
	virtd virtd.Client
}

// start has the manager start a machine, waits until its guest counts, and checks that
// it runs from a revision of the runtime.
func (h hosting) start(name, rev string) machine {
	h.t.Helper()
	started, err := h.virtd.Start(h.t.Context(), name)
	if err != nil {
		h.t.Fatal(err)
	}
	m := machine{started, h.Main("qemu.vm@" + name)}
	m.PID = m.process.PID
	h.runs(m, rev)
	return m
}

// runs checks that a machine is the same as ever, and counts on, on a revision of the
// runtime.
func (h hosting) runs(m machine, rev string) {
	h.t.Helper()
	if _, err := guest.Wait(h.t.Context(), h.File(m.Name, virtd.SerialLog), func(l guest.Line) bool { return l.Ticks > 0 }); err != nil {
		h.t.Fatal(err)
	}
	h.lives(m)
	if exe, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", m.PID)); err != nil || !strings.Contains(exe, "/qemu/"+rev+"/") {
		h.t.Errorf("machine %s runs %s, %v, want it from %s", m.Name, exe, err, rev)
	}
	if unit := h.Units()["qemu.vm@"+m.Name]; unit.Revision != rev {
		h.t.Errorf("machine %s is %+v, want it on %s", m.Name, unit, rev)
	}
}

// refused checks that the manager cannot start a machine, and says why.
func (h hosting) refused(name, why string) {
	h.t.Helper()
	if m, err := h.virtd.Start(h.t.Context(), name); err == nil || !strings.Contains(err.Error(), why) {
		h.t.Errorf("start of machine %s: %+v, %v, want an error with %q", name, m, err, why)
	}
}

// knows checks which machines the manager knows, and whether they run.
func (h hosting) knows(want map[string]bool) {
	h.t.Helper()
	list, err := h.virtd.List(h.t.Context())
	if err != nil {
		h.t.Fatal(err)
	}
	got := map[string]bool{}
	for _, m := range list {
		got[m.Name] = m.Running
	}
	same(h.t, "machines that the manager knows, and whether they run", want, got)
}

// Manager and runtime are two packages: the manager, which is asked for machines at its
// socket, has them started from the runtime, as the administrator has allowed. Both are
// refreshed under the machines, each of which stays on the revision that it was started
// from; all can be stopped, and end with whom they are for.
func TestAManagerAndItsRuntimeAreTwoPackages(t *testing.T) {
	t.Parallel()
	i := rig.New(t, rig.Config{})
	h := hosting{hall{Instance: i, Client: virtd.Client{Common: i.Common("qemu")}, t: t}, virtd.Client{Common: i.Common("virt")}}
	i.Tenure("install", "--dangerous", snap(t, "debian12", "1"), runtimeSnap(t, i, "1"), managerSnap(t, i, "1"))
	h.refused("web", "ask the administrator for: tenure allow virt to start qemu.vm")
	i.Tenure("allow", "virt", "to", "start", "qemu.vm")
	web := h.start("web", "x1")
	i.Tenure("start", "qemu.vm@mine", "--", "-m", "16")
	h.refused("mine", "was not started by virt")

	i.Tenure("refresh", "--dangerous", runtimeSnap(t, i, "2"))
	db := h.start("db", "x2")
	next := managerSnap(t, i, "2")
	same(t, "verdicts of a refresh of the manager", map[string]tenure.Verdict{
		"virt.manager": tenure.Restart, "qemu.vm@web": tenure.Endure, "qemu.vm@db": tenure.Endure,
	}, verdicts(h.plan("refresh", "--dangerous", next)))
	i.Tenure("refresh", "--dangerous", next)
	same(t, "revision of the manager", "x2", i.Units()["virt.manager"].Revision)
	i.Tenure("refresh", "--dangerous", runtimeSnap(t, i, "3"))
	mail := h.start("mail", "x3")
	h.runs(web, "x1")
	h.runs(db, "x2")
	h.knows(map[string]bool{"web": true, "db": true, "mail": true, "mine": false})

	if err := h.virtd.Shutdown(t.Context(), "mail"); err != nil {
		t.Error(err)
	}
	h.halted(mail, 1)
	i.Tenure("stop", "qemu.vm@db")
	h.halted(db, 1)
	h.knows(map[string]bool{"web": true, "db": false, "mail": false, "mine": false})
	db = h.start("db", "x3") // What runs now is what it is started from.
	i.Tenure("stop", "qemu")
	h.halted(db, 2)
	h.halted(web, 1)
	web = h.start("web", "x3")
	i.Tenure("start", "qemu.vm@mine")
	same(t, "machines", []string{"qemu.vm@mine", "qemu.vm@web"}, hosted(i))

	if result := i.Try("remove", "qemu"); result.Status == 0 || !strings.Contains(result.Stderr, "runs for virt") {
		t.Errorf("removal of the runtime under a machine of another: %+v", result)
	}
	i.Tenure("remove", "virt")
	same(t, "machines without their manager", []string{"qemu.vm@mine"}, hosted(i))
	h.halted(web, 2)
	mine := i.Main("qemu.vm@mine")
	i.Tenure("remove", "qemu")
	if err := rig.Gone(t.Context(), mine); err != nil {
		t.Error(err)
	}
	same(t, "machines without their runtime", []string{}, hosted(i))
	unmounted(t, i, "qemu")
}

func managingYAML(version string) string {
	return fmt.Sprintf("name: virt\nversion: '%s'\nbase: debian12\napps:\n  manager: {command: bin/obey manager, daemon: simple}\n", version)
}

// A manager starts, ends and asks for what it is allowed to, and for nothing else, by
// snapctl; what it is allowed outlives the daemon, and ends with it.
func TestAManagerDoesWhatItIsAllowed(t *testing.T) {
	t.Parallel()
	i := rig.New(t, rig.Config{})
	h := hall{Instance: i, t: t}
	s := newServant(t, i, "virt", "manager")
	runtime := "name: qemu\nversion: '1'\nbase: debian12\napps:\n  vm: {command: bin/idle, daemon: simple, lifecycle: {instances: true}}\n"
	i.Tenure("install", "--dangerous", snap(t, "debian12", "1"), obedientSnap(t, i, runtime), obedientSnap(t, i, managingYAML("1")))

	s.refused("snapctl start qemu.vm@web", "ask the administrator for: tenure allow virt to start qemu.vm")
	i.Tenure("allow", "virt", "to", "start", "qemu.vm")
	i.Kill()
	i.Start()
	same(t, "what is allowed", []client.Allowance{{Manager: "virt", App: "qemu.vm"}}, read[[]client.Allowance](h, "allow", "--list"))
	s.do("snapctl start --enable qemu.vm@web -- -m 16")
	i.Tenure("start", "qemu.vm@mine", "--", "-m", "16")
	// Two at a time, in spite of each other.
	s.do("snapctl start qemu.vm@db -- -m 16 & snapctl start qemu.vm@mail -- -m 16; r=$?; wait $! && (exit $r)")

	// The manager ends what it has started, and nothing else.
	s.refused("snapctl stop qemu.vm@mine", "was not started by virt")
	s.refused("snapctl start qemu.vm@mine", "was not started by virt")
	s.refused("snapctl stop qemu", "unknown service")
	s.do("snapctl stop qemu.vm@mail")
	i.Tenure("stop", "qemu.vm@db")
	i.Tenure("disallow", "virt", "to", "start", "qemu.vm")
	s.refused("snapctl start qemu.vm@db", "may not start")
	if list := s.do("snapctl services qemu.vm@web"); !strings.Contains(list, "qemu.vm@web  enabled  active") {
		t.Errorf("snapctl services: %s", list)
	}
	same(t, "instances", []string{"qemu.vm@mine", "qemu.vm@web"}, hosted(i))
	for _, both := range read[[]struct{ Plan policy.Plan }](h, "plan", "remove", "qemu", "virt") {
		if both.Plan.Refusal != nil {
			t.Errorf("removal of both in one command: %+v", both.Plan.Refusal)
		}
	}
	i.Tenure("remove", "virt")
	same(t, "instances without their manager", []string{"qemu.vm@mine"}, hosted(i))
	same(t, "what is allowed", []client.Allowance{}, read[[]client.Allowance](h, "allow", "--list"))
}

// hosted are the instances of the runtime that run.
func hosted(i *rig.Instance) []string {
	names := []string{}
	for name := range i.Units() {
		if strings.HasPrefix(name, "qemu.vm@") {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

func TestWhatCannotBeAllowed(t *testing.T) {
	t.Parallel()
	i := rig.New(t, rig.Config{})
	i.Tenure("install", "--dangerous", snap(t, "debian12", "1"), obedientSnap(t, i, templateYAML("1")), obedientSnap(t, i, managingYAML("1")))
	for _, test := range []struct {
		why  string
		args []string
	}{
		{"it is called as: tenure allow MANAGER to start SNAP.APP", []string{"allow", "virt"}},
		{"it is called as: tenure allow MANAGER to start SNAP.APP", []string{"allow", "virt", "to", "stop", "named.vm"}},
		{"not installed", []string{"allow", "other", "to", "start", "named.vm"}},
		{"not installed", []string{"allow", "virt", "to", "start", "other.vm"}},
		{"is no template", []string{"allow", "virt", "to", "start", "named.manager"}},
		{"no service", []string{"allow", "virt", "to", "start", "named.other"}},
		{"is no template", []string{"allow", "virt", "to", "start", "named.vm@web"}},
		{"invalid name", []string{"allow", "virt", "to", "start", "../x"}},
		{"its own instances anyway", []string{"allow", "named", "to", "start", "named.vm"}},
		{"may not start named.vm anyway", []string{"disallow", "virt", "to", "start", "named.vm"}},
		{"--list takes no arguments", []string{"allow", "--list", "virt"}},
	} {
		if result := i.Try(test.args...); result.Status == 0 || !strings.Contains(result.Stderr, test.why) {
			t.Errorf("tenure %v: %+v, want an error with %q", test.args, result, test.why)
		}
	}
}
