package test

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"tenure/examples/clients/snaps"
	"tenure/test/rig"
	"tenure/test/witness"
)

// equal fails the test where something is not as it should be.
func equal[T any](t *testing.T, what string, got, want T) {
	t.Helper()
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("%s (-want +got):\n%s", what, diff)
	}
}

// statusOf has the lines of /proc/PID/status that are named.
func statusOf(t *testing.T, pid int, names ...string) map[string]string {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	found := map[string]string{}
	for line := range strings.Lines(string(text)) {
		if name, value, _ := strings.Cut(line, ":"); slices.Contains(names, name) {
			found[name] = strings.Join(strings.Fields(value), " ")
		}
	}
	return found
}

func pick(from map[string]string, names ...string) map[string]string {
	picked := map[string]string{}
	for _, name := range names {
		picked[name] = from[name]
	}
	return picked
}

// installBase installs the example base.
func installBase(t *testing.T, i *rig.Instance) {
	t.Helper()
	i.Tenure("install", "--dangerous", snap(t, "debian12", "1"))
}

// fromBase is what is in a file of the example base.
func fromBase(t *testing.T, name string) string {
	t.Helper()
	tree, err := snaps.Tree(t.Context(), "debian12")
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(filepath.Join(tree, name))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// TestServiceIsBornClean starts the daemon as badly as a shell can, and looks at
// a process that changes nothing of what it was given.
func TestServiceIsBornClean(t *testing.T) {
	t.Parallel()
	i := rig.New(t, rig.Config{Wrap: []string{"/bin/bash", "-c", `
		exec 9</etc/passwd 200>/dev/null
		umask 077
		ulimit -S -n 777
		cd /usr
		exec env --ignore-signal=HUP --ignore-signal=INT --ignore-signal=PIPE --ignore-signal=USR1 \
			--block-signal=USR2 --block-signal=TERM LEAK=1 "$@"`, "bash"}})
	installBase(t, i)
	i.Tenure("install", "--dangerous", packWitness(t, i, `name: clean
version: 1
base: debian12
confinement: strict
apps:
  sleeper:
    command: bin/sleep infinity
    daemon: simple
  one: {command: bin/witness serve one, daemon: notify}
`, map[string]string{"bin/sleep": fromBase(t, "usr/bin/sleep")}))
	main := i.Main("clean.sleeper").PID
	const none = "0000000000000000"
	equal(t, "status", statusOf(t, main, "Name", "SigBlk", "SigIgn", "SigCgt", "Umask", "Uid", "Gid", "Groups", "NoNewPrivs", "CapInh", "CapAmb"),
		map[string]string{
			"Name": "sleep", "SigBlk": none, "SigIgn": none, "SigCgt": none, "Umask": "0022",
			"Uid": "0 0 0 0", "Gid": "0 0 0 0", "Groups": "", "NoNewPrivs": "1", "CapInh": none, "CapAmb": none,
		})
	open := slices.Sorted(maps.Keys(served(t, i, "clean", "one").report().Files))
	equal(t, "descriptors", open, []int{0, 1, 2})
	// It is born of the daemon, and has its limits, or of systemd.
	parent, files := strconv.Itoa(i.PID()), "777"
	if i.Systemd() {
		parent, files = "1", "1024"
	}
	limits, err := os.ReadFile(fmt.Sprintf("/proc/%d/limits", main))
	if err != nil || !strings.Contains(string(limits), fmt.Sprintf("Max open files            %s ", files)) {
		t.Errorf("limits: %v\n%s", err, limits)
	}
	environ, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", main))
	if err != nil || strings.Contains(string(environ), "LEAK=") {
		t.Errorf("environment: %v, %q", err, environ)
	}
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", main))
	if err != nil {
		t.Fatal(err)
	}
	fields := strings.Fields(string(stat))
	equal(t, "parent, process group, session and terminal", fields[3:7],
		[]string{parent, strconv.Itoa(main), strconv.Itoa(main), "0"})
	for path, want := range map[string]os.FileMode{"snap/clean": 0o755, "var/snap/clean/common": 0o755, "var/snap/clean/x1": 0o755, "snap/bin": 0o755} {
		if info, err := os.Stat(i.Path(path)); err != nil {
			if path != "snap/bin" {
				t.Error(err)
			}
		} else {
			equal(t, path, info.Mode().Perm(), want)
		}
	}
}

const bareYAML = `name: bare
version: 1
base: bare
confinement: strict
apps:
  bare:
    command: bin/witness app
  one:
    command: bin/witness serve one
    daemon: notify
  two:
    command: bin/witness serve two
    daemon: notify
    plugs: [network-control]
`

// TestServiceOnBare looks at all that a service on "base: bare" sees and may do.
func TestServiceOnBare(t *testing.T) {
	t.Parallel()
	i := rig.New(t, rig.Config{})
	i.Tenure("install", "--dangerous", packWitness(t, i, bareYAML, nil))
	one, two := served(t, i, "bare", "one"), served(t, i, "bare", "two")
	r := one.report()
	host := namespaces(t)
	if r.Namespaces["mnt"] == host["mnt"] || r.Namespaces["mnt"] == two.report().Namespaces["mnt"] {
		t.Error("the mount namespace is not the unit's own")
	}
	for _, name := range []string{"net", "pid", "user", "uts", "ipc", "cgroup"} {
		equal(t, "namespace "+name, r.Namespaces[name], host[name])
	}
	// chown, dac_override, fowner, fsetid, kill, setgid, setuid, setpcap,
	// net_bind_service, sys_chroot, audit_write, setfcap.
	const usual = "00000000a00405fb"
	equal(t, "rights", pick(r.Status, "CapPrm", "CapEff", "CapBnd", "NoNewPrivs"),
		map[string]string{"CapPrm": usual, "CapEff": usual, "CapBnd": usual, "NoNewPrivs": "1"})
	// And net_admin and net_raw, for the one that plugs network-control.
	equal(t, "rights of a plug", two.report().Status["CapEff"], "00000000a00435fb")
	equal(t, "directory", r.Dir, "/var/snap/bare/x1")
	for dir, want := range map[string]string{
		"/": "dev etc proc root run snap sys tmp var", "/snap": "bare", "/snap/bare": "current x1", "/snap/bare/current/bin": "witness",
		"/var": "snap tmp", "/var/snap": "bare", "/var/snap/bare": "common current x1",
		"/tmp": "", "/var/tmp": "", "/root": "snap", "/root/snap": "bare", "/root/snap/bare": "common current x1",
		"/run/user": "0", "/run/user/0/snap.bare": "",
		"/etc": "group hostname hosts localtime machine-id passwd resolv.conf timezone",
	} {
		got := strings.Fields(one.do("list", dir, ""))
		if dir == "/etc" {
			// What the host has not is not there either.
			got = slices.DeleteFunc(got, func(name string) bool { return strings.Contains(want, name) })
			want = ""
		}
		equal(t, dir, strings.Join(got, " "), want)
	}
	for _, path := range []string{"/dev/null", "/dev/urandom", "/dev/pts/ptmx", "/proc/self/stat", "/sys/kernel", "/run/tenure-unit"} {
		one.do("mode", path, "")
	}
	for path, want := range map[string]string{
		"/file": "read-only file system", "/snap/file": "read-only file system", "/snap/bare/x1/file": "read-only file system",
		"/proc/sys/kernel/core_pattern": "read-only file system", "/sys/kernel/uevent_helper": "read-only file system",
		"/etc/passwd": "read-only file system", "/var/file": "read-only file system",
		"/run/tenure-unit/file": "read-only file system",
		"/tmp/file":             "", "/var/tmp/file": "", "/var/snap/bare/x1/file": "", "/var/snap/bare/common/file": "",
		"/root/snap/bare/x1/file": "", "/run/user/0/snap.bare/file": "", "/run/file": "",
	} {
		if got := one.ask("write", path, "x").Err; want == "" && got != "" || !strings.HasSuffix(got, want) {
			t.Errorf("write %s: %q, want %q", path, got, want)
		}
	}
	if a := one.ask("mount", "/tmp/mount", ""); !strings.Contains(a.Err, "operation not permitted") {
		t.Errorf("mount: %q", a.Err)
	}
	equal(t, "/tmp of another unit", two.do("list", "/tmp", ""), "file mount")
	equal(t, "/run of another unit is its own", strings.Contains(two.do("list", "/run", ""), "file"), false)
	equal(t, "group", i.Runs("bare", r.Group), true)
}

// namespaces are those of this process.
func namespaces(t *testing.T) map[string]string {
	t.Helper()
	r, err := witness.Take()
	if err != nil {
		t.Fatal(err)
	}
	return r.Namespaces
}

// TestPrivateTmp finds /tmp of a snap closed to everybody else, and gone with the snap.
func TestPrivateTmp(t *testing.T) {
	t.Parallel()
	i := rig.New(t, rig.Config{})
	file := packWitness(t, i, bareYAML, nil)
	i.Tenure("install", "--dangerous", file)
	i.Tenure("install", "--dangerous", "--name", "bare_b", file)
	served(t, i, "bare", "one").do("write", "/tmp/secret", "x")
	equal(t, "/tmp of an instance", served(t, i, "bare_b", "one").do("list", "/tmp", ""), "")
	r := run(t, i, "bare")
	equal(t, "terminal and session of the app", r.Status["NoNewPrivs"], "1")
	i.Tenure("refresh", "--dangerous", packWitness(t, i, bareYAML, nil))
	equal(t, "/tmp after a refresh", served(t, i, "bare", "two").do("list", "/tmp", ""), "secret")
	equal(t, "mode of /tmp", served(t, i, "bare", "two").do("mode", "/tmp", ""), "dtrwxrwxrwx")
	dir := i.Path("run/tenure/tmp/bare")
	info, err := os.Stat(dir)
	if err != nil {
		t.Fatal(err)
	}
	equal(t, "mode of the directory above", info.Mode().Perm(), 0o700)
	i.Tenure("remove", "bare")
	if _, err := os.Stat(dir); !os.IsNotExist(err) {
		t.Errorf("after remove: %v", err)
	}
}

// TestLinkInTmp puts a link to elsewhere where the daemon makes directories for a snap,
// as its services may: a refresh follows it nowhere.
func TestLinkInTmp(t *testing.T) {
	t.Parallel()
	i := rig.New(t, rig.Config{})
	i.Tenure("install", "--dangerous", packWitness(t, i, bareYAML, nil))
	users, victim := i.Path("run/tenure/tmp/bare/run-user"), t.TempDir()
	if err := os.Rename(filepath.Join(users, "0"), filepath.Join(users, "moved")); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(victim, filepath.Join(users, "0")); err != nil {
		t.Fatal(err)
	}
	before, err := os.Stat(victim)
	if err != nil {
		t.Fatal(err)
	}
	got := i.Try("refresh", "--dangerous", packWitness(t, i, bareYAML, nil))
	if got.Status == 0 || !strings.Contains(got.Stderr, "make temporary directories of bare") {
		t.Errorf("exit status %d, %s", got.Status, got.Stderr)
	}
	after, err := os.Stat(victim)
	if err != nil {
		t.Fatal(err)
	}
	equal(t, "mode of what the link is to", after.Mode(), before.Mode())
	if left, err := os.ReadDir(victim); err != nil || len(left) > 0 {
		t.Errorf("made there: %v, %v", left, err)
	}
	equal(t, "revision that runs", served(t, i, "bare", "one").report().Args[0], "/snap/bare/x1/bin/witness")
}

// TestBases runs a snap on a base, on none, and without what it needs.
func TestBases(t *testing.T) {
	t.Parallel()
	i := rig.New(t, rig.Config{})
	yaml := func(base, more string) string {
		return "name: based\nversion: 1\n" + base + "confinement: strict\n" + more + `apps:
  based: {command: bin/witness app}
  shell: {command: bin/shell}
  one: {command: bin/witness serve one, daemon: notify}
`
	}
	script := map[string]string{"bin/shell": "#!/bin/sh\n. /etc/os-release\necho $VERSION_ID $0 $(id -un)\n"}
	for base, want := range map[string]string{
		"base: debian12\n": `its base "debian12" is not installed`,
		"base: core24\n":   `its base "core24" is not installed`,
		"":                 `its base "core" is not installed`,
	} {
		got := i.Try("install", "--dangerous", packWitness(t, i, yaml(base, ""), script))
		if got.Status != 1 || !strings.Contains(got.Stderr, want) || !strings.Contains(got.Stderr, "install") {
			t.Errorf("%q: exit status %d, %s", base, got.Status, got.Stderr)
		}
	}
	installBase(t, i)
	i.Tenure("install", "--dangerous", packWitness(t, i, yaml("base: debian12\n", ""), script))
	one := served(t, i, "based", "one")
	r := one.report()
	mounted := r.Mounts["/"]
	equal(t, "root", []string{mounted.Type, mounted.Root}, []string{"squashfs", "/"})
	equal(t, "options of the root", strings.Contains(mounted.Options, "ro,nosuid"), true)
	equal(t, "os-release", strings.Contains(one.do("read", "/etc/os-release", ""), `VERSION_ID="12"`), true)
	equal(t, "what the host has and the base has not", one.ask("mode", "/usr/local/go", "").Err != "", true)
	equal(t, "script", i.Exec(i.Path("snap/bin/based.shell")).Stdout, "12 /snap/based/x1/bin/shell root\n")
	got := i.Try("remove", "debian12")
	if got.Status == 0 || !strings.Contains(got.Stderr, "based") {
		t.Errorf("remove the base: exit status %d, %s", got.Status, got.Stderr)
	}
	// A later base is for what starts later.
	i.Tenure("refresh", "--dangerous", snap(t, "debian12", "2"))
	equal(t, "base of what runs", one.report().Mounts["/"], mounted)
	if app := run(t, i, "based"); app.Mounts["/"].Source == mounted.Source {
		t.Error("an app that is started afterwards has the old base")
	}
}

// TestBaseNone runs a snap that has no base and wants none.
func TestBaseNone(t *testing.T) {
	t.Parallel()
	i := rig.New(t, rig.Config{})
	i.Tenure("install", "--dangerous", packWitness(t, i, strings.Replace(bareYAML, "base: bare", "base: none", 1), nil))
	r := served(t, i, "bare", "one").report()
	equal(t, "root and rights", []string{r.Mounts["/"].Type, r.Status["NoNewPrivs"]}, []string{"tmpfs", "1"})
	equal(t, "app", run(t, i, "bare").Args[0], "/snap/bare/x1/bin/witness")
}

// TestHomes shows people's homes to those alone that plug them.
func TestHomes(t *testing.T) {
	t.Parallel()
	i := rig.New(t, rig.Config{})
	writeFile(t, i.Path("home/alice/letter"), "dear")
	writeFile(t, i.Path("root/secret"), "secret")
	i.Tenure("install", "--dangerous", packWitness(t, i, `name: homes
version: 1
base: bare
confinement: strict
apps:
  with: {command: bin/witness serve with, daemon: notify, plugs: [home]}
  without: {command: bin/witness serve without, daemon: notify}
`, nil))
	with, without := served(t, i, "homes", "with"), served(t, i, "homes", "without")
	equal(t, "with", with.do("read", "/home/alice/letter", "")+with.do("list", "/root", ""), "dearsecret snap")
	equal(t, "without", without.ask("read", "/home/alice/letter", "").Err, "open /home/alice/letter: no such file or directory")
	equal(t, "without, in root's", without.do("list", "/root", ""), "snap")
	with.do("write", "/root/snap/homes/common/file", "shared")
	equal(t, "its own", without.do("read", "/root/snap/homes/common/file", ""), "shared")
}

// TestClassic runs a snap in the namespace of the host.
func TestClassic(t *testing.T) {
	t.Parallel()
	i := rig.New(t, rig.Config{})
	file := packWitness(t, i, `name: classy
version: 1
base: core24
confinement: classic
apps:
  classy: {command: bin/witness app}
  one: {command: bin/witness serve one, daemon: notify}
`, nil)
	if got := i.Try("install", "--dangerous", file); got.Status != 1 || !strings.Contains(got.Stderr, "--classic") {
		t.Errorf("exit status %d, %s", got.Status, got.Stderr)
	}
	i.Tenure("install", "--dangerous", "--classic", file)
	own := statusOf(t, os.Getpid(), "CapEff", "CapBnd")
	for name, r := range map[string]*witness.Report{"service": served(t, i, "classy", "one").report(), "app": run(t, i, "classy")} {
		equal(t, name+": namespaces", r.Namespaces, namespaces(t))
		equal(t, name+": rights", pick(r.Status, "CapEff", "CapBnd"), own)
		equal(t, name+": no_new_privs", r.Status["NoNewPrivs"], "0")
		for variable, want := range map[string]string{
			"SNAP": i.Path("snap/classy/x1"), "SNAP_DATA": i.Path("var/snap/classy/x1"), "SNAP_COMMON": i.Path("var/snap/classy/common"),
			"SNAP_USER_DATA": i.Path("root/snap/classy/x1"), "SNAP_USER_COMMON": i.Path("root/snap/classy/common"), "HOME": "/root", "SNAP_REAL_HOME": "/root",
		} {
			got, _ := r.Getenv(variable)
			equal(t, name+": "+variable, got, want)
		}
	}
}

// TestUnitsDoNotShareNamespaces refreshes one of two services and finds the other
// undisturbed: it has all it had, and sees what came later.
func TestUnitsDoNotShareNamespaces(t *testing.T) {
	t.Parallel()
	i := rig.New(t, rig.Config{})
	const yaml = `name: apart
version: 1
base: bare
confinement: strict
plugs: {mount-control: null}
apps:
  old: {command: bin/witness serve old, daemon: notify, refresh-mode: endure}
  new: {command: bin/witness serve new, daemon: notify}
`
	i.Tenure("install", "--dangerous", packWitness(t, i, yaml, map[string]string{"which": "1"}))
	old := served(t, i, "apart", "old")
	before := old.report()
	old.do("mount", "/tmp/mine", "")
	old.do("write", "/tmp/mine/file", "mine")
	equal(t, "a mount of another unit", served(t, i, "apart", "new").do("list", "/tmp/mine", ""), "")

	for n := 2; n <= 4; n++ {
		i.Tenure("refresh", "--dangerous", packWitness(t, i, yaml, map[string]string{"which": strconv.Itoa(n)}))
	}
	after, fresh := old.report(), served(t, i, "apart", "new").report()
	equal(t, "process and namespace", []any{after.PID, after.Namespaces}, []any{before.PID, before.Namespaces})
	for point, mount := range before.Mounts {
		equal(t, "mount at "+point, after.Mounts[point], mount)
	}
	equal(t, "its own mount", old.do("read", "/tmp/mine/file", ""), "mine")
	equal(t, "its revision", old.do("read", "/snap/apart/x1/which", ""), "1")
	equal(t, "a later revision", old.do("read", "/snap/apart/x4/which", ""), "4")
	equal(t, "current", old.do("link", "/snap/apart/current", "")+old.do("read", "/snap/apart/current/which", ""), "x44")
	equal(t, "new", fresh.Args[0], "/snap/apart/x4/bin/witness")
	if _, seen := fresh.Mounts["/tmp/mine"]; seen {
		t.Error("a mount that one unit made in its /tmp is in another's")
	}
	// Nothing that happens inside is seen outside.
	host, err := witness.Take()
	if err != nil {
		t.Fatal(err)
	}
	for point := range host.Mounts {
		if strings.HasPrefix(point, i.Root+"/run/") || strings.Contains(point, "mine") {
			t.Errorf("the host has a mount at %s", point)
		}
	}
}

// TestMountsBelowCommon makes a mount in one revision, and takes it away in the next.
func TestMountsBelowCommon(t *testing.T) {
	t.Parallel()
	i := rig.New(t, rig.Config{})
	const yaml = `name: mounter
version: 1
base: bare
confinement: strict
apps:
  one: {command: bin/witness serve one, daemon: notify, plugs: [mount-control]}
`
	for _, name := range []string{"mounter", "mounter_b"} {
		i.Tenure("install", "--dangerous", "--name", name, packWitness(t, i, yaml, nil))
		one := served(t, i, name, "one")
		const point = "/var/snap/mounter/common/pool"
		one.do("mount", point, "")
		one.do("write", point+"/file", "of x1")
		if text, err := os.ReadFile(filepath.Join(i.Common(name), "pool/file")); err != nil || string(text) != "of x1" {
			t.Errorf("%s: outside: %q, %v", name, text, err)
		}
		i.Tenure("refresh", "--dangerous", "--name", name, packWitness(t, i, yaml, nil))
		equal(t, "revision", one.report().Args[0], "/snap/mounter/x2/bin/witness")
		equal(t, "in the next revision", one.do("read", point+"/file", ""), "of x1")
		one.do("unmount", point, "")
		equal(t, "after unmounting", one.do("list", point, ""), "")
		if left, err := os.ReadDir(filepath.Join(i.Common(name), "pool")); err != nil || len(left) > 0 {
			t.Errorf("%s: outside, after unmounting: %v, %v", name, left, err)
		}
		one.do("mount", point, "")
		i.Tenure("remove", name)
		equal(t, "mounts left", rig.Mounts(i.Path("var/snap", name)), nil)
	}
}
