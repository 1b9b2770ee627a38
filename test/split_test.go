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
	"tenure/internal/policy"
	"tenure/test/rig"
)

// machineScript is the program of the runtime: one QEMU, named by its instance.
const machineScript = `#!/bin/sh
set -e
dir=$SNAP_COMMON/$SNAP_LIFECYCLE_INSTANCE
mkdir -p "$dir"
[ -e "$dir/disk" ] || { cp "$SNAP/guest/guest.img" "$dir/disk.new"; mv "$dir/disk.new" "$dir/disk"; }
export LD_LIBRARY_PATH=$SNAP/usr/lib/x86_64-linux-gnu QEMU_MODULE_DIR=$SNAP/usr/lib/x86_64-linux-gnu/qemu
exec "$SNAP/usr/bin/qemu-system-x86_64" -name "$SNAP_LIFECYCLE_INSTANCE" -machine pc -accel tcg \
	-nodefaults -no-user-config -display none -L "$SNAP/usr/share/qemu" -L "$SNAP/usr/share/seabios" \
	-drive "if=ide,format=raw,file=$dir/disk" -chardev "file,id=serial,append=on,path=$dir/serial" -serial chardev:serial "$@"
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

// runtimeSnap packs the runtime qemu: the files of the example virt, and a template.
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
    daemon: simple
    lifecycle: {instances: true}
`, version))
	writeFile(t, filepath.Join(dir, "bin/machine"), machineScript)
	file := dir + ".snap"
	i.Tenure("pack", "--compression", "lz4", dir, file)
	return file
}

func managingYAML(version string) string {
	return fmt.Sprintf("name: virt\nversion: '%s'\nbase: debian12\napps:\n  manager: {command: bin/obey manager, daemon: simple}\n", version)
}

// Manager and runtime are two packages: the manager starts machines of the runtime, as
// the administrator has allowed. Both are refreshed under the machines, each of which
// stays on the revision that it was started from; all can be stopped, and end with
// whom they are for.
func TestAManagerAndItsRuntimeAreTwoPackages(t *testing.T) {
	t.Parallel()
	i := rig.New(t, rig.Config{})
	h := hall{Instance: i, t: t}
	s := newServant(t, i, "virt", "manager")
	first := runtimeSnap(t, i, "1")
	i.Tenure("install", "--dangerous", snap(t, "debian12", "1"), first, obedientSnap(t, i, managingYAML("1")))

	s.refused("snapctl start qemu.vm@web", "ask the administrator for: tenure allow virt to start qemu.vm")
	i.Tenure("allow", "virt", "to", "start", "qemu.vm")
	i.Kill()
	i.Start()
	same(t, "what is allowed", []client.Allowance{{Manager: "virt", App: "qemu.vm"}}, read[[]client.Allowance](h, "allow", "--list"))
	s.do("snapctl start --enable qemu.vm@web -- -m 16")
	i.Tenure("start", "qemu.vm@mine", "--", "-m", "16")
	web := i.Main("qemu.vm@web")

	i.Tenure("refresh", "--dangerous", runtimeSnap(t, i, "2"))
	// Two at a time, in spite of each other.
	s.do("snapctl start qemu.vm@db -- -m 16 & snapctl start qemu.vm@mail -- -m 16; r=$?; wait $! && (exit $r)")
	next := obedientSnap(t, i, managingYAML("2"))
	same(t, "verdicts of a refresh of the manager", map[string]tenure.Verdict{
		"virt.manager": tenure.Restart, "qemu.vm@web": tenure.Endure, "qemu.vm@db": tenure.Endure, "qemu.vm@mail": tenure.Endure,
	}, verdicts(onePlan(h, "plan", "refresh", "--dangerous", next)))
	i.Tenure("refresh", "--dangerous", next)
	i.Tenure("refresh", "--dangerous", runtimeSnap(t, i, "3"))

	same(t, "web after all refreshes", web, i.Main("qemu.vm@web"))
	want := map[string]string{"virt.manager": "x2", "qemu.vm@web": "x1", "qemu.vm@mine": "x1", "qemu.vm@db": "x2", "qemu.vm@mail": "x2"}
	got := map[string]string{}
	for name, unit := range i.Units() {
		got[name] = unit.Revision
	}
	same(t, "revisions", want, got)
	for name, rev := range map[string]string{"web": "x1", "db": "x2"} {
		serial := filepath.Join(i.Common("qemu"), name, "serial")
		if _, err := guest.Ticks(t.Context(), serial, 0, 2); err != nil {
			t.Errorf("machine %s: %v", name, err)
		}
		if exe, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", i.Main("qemu.vm@"+name).PID)); err != nil || !strings.Contains(exe, "/"+rev+"/") {
			t.Errorf("machine %s runs %s, %v, want it from %s", name, exe, err, rev)
		}
	}

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
	same(t, "machines", []string{"qemu.vm@mine", "qemu.vm@web"}, hosted(i))

	if result := i.Try("remove", "qemu"); result.Status == 0 || !strings.Contains(result.Stderr, "runs for virt") {
		t.Errorf("removal of the runtime under a machine of another: %+v", result)
	}
	for _, both := range read[[]struct{ Plan policy.Plan }](h, "plan", "remove", "qemu", "virt") {
		if both.Plan.Refusal != nil {
			t.Errorf("removal of both in one command: %+v", both.Plan.Refusal)
		}
	}
	i.Tenure("remove", "virt")
	same(t, "machines without their manager", []string{"qemu.vm@mine"}, hosted(i))
	same(t, "what is allowed", []client.Allowance{}, read[[]client.Allowance](h, "allow", "--list"))
	i.Tenure("remove", "qemu")
	same(t, "machines without their runtime", []string{}, hosted(i))
	for _, path := range rig.Mounts(i.Root) {
		if strings.Contains(path, "/snap/qemu") {
			t.Errorf("%s is still mounted", path)
		}
	}
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
