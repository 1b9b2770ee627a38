package test

import (
	"maps"
	"os"
	"slices"
	"strings"
	"testing"

	"tenure/test/rig"
	"tenure/test/witness"
)

// environ is an environment by name; what stands twice is an error.
func environ(t *testing.T, r *witness.Report) map[string]string {
	t.Helper()
	env := map[string]string{}
	for _, entry := range r.Env {
		name, value, _ := strings.Cut(entry, "=")
		if _, twice := env[name]; twice {
			t.Errorf("%s stands twice", name)
		}
		env[name] = value
	}
	return env
}

const envyYAML = `name: envy
version: '1.5'
base: debian12
confinement: strict
environment:
  FIRST: $SNAP/first
  SECOND: ${FIRST}/second
  LATER: <$LAST>
  LAST: last
  PATH: $SNAP/bin:$PATH
  TOLD: $FOO
apps:
  envy:
    command: bin/witness app $SNAP_DATA $FIRST-more $UNKNOWN
    command-chain: [bin/one, bin/two]
    environment: {FIRST: app, THIRD: $FIRST-$SECOND}
  one:
    command: bin/witness serve one
    command-chain: [bin/one, bin/two]
    environment: {SECOND: $SECOND/own}
    daemon: notify
`

// TestEnvironment compares whole environments with what snaps are told by
// https://snapcraft.io/docs/environment-variables, for the snap and for an instance.
func TestEnvironment(t *testing.T) {
	t.Parallel()
	i := rig.New(t, rig.Config{})
	installBase(t, i)
	link := func(n string) string { return "#!/bin/sh\nexport CHAIN=\"$CHAIN$0 \"\nexec \"$@\"\n# " + n }
	file := packWitness(t, i, envyYAML, map[string]string{"bin/one": link("1"), "bin/two": link("2")})
	for _, instance := range []struct{ name, key string }{{"envy", ""}, {"envy_b", "b"}} {
		i.Tenure("install", "--dangerous", "--name", instance.name, file)
		const path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:/usr/games:/usr/local/games:/run/tenure/bin"
		want := map[string]string{
			"SNAP": "/snap/envy/x1", "SNAP_DATA": "/var/snap/envy/x1", "SNAP_COMMON": "/var/snap/envy/common",
			"SNAP_USER_DATA": "/root/snap/" + instance.name + "/x1", "SNAP_USER_COMMON": "/root/snap/" + instance.name + "/common",
			"HOME": "/root/snap/" + instance.name + "/x1", "SNAP_REAL_HOME": "/root",
			"XDG_RUNTIME_DIR": "/run/user/0/snap." + instance.name, "SNAP_UID": "0", "SNAP_EUID": "0",
			"SNAP_NAME": "envy", "SNAP_INSTANCE_NAME": instance.name, "SNAP_INSTANCE_KEY": instance.key,
			"SNAP_VERSION": "1.5", "SNAP_REVISION": "x1", "SNAP_ARCH": "amd64", "SNAP_REEXEC": "",
			"SNAP_LIBRARY_PATH": "/var/lib/snapd/lib/gl:/var/lib/snapd/lib/gl32:/var/lib/snapd/void",
			"PATH":              "/snap/envy/x1/bin:" + path, "CHAIN": "/snap/envy/x1/bin/one /snap/envy/x1/bin/two ",
			"LATER": "<>", "LAST": "last",
		}
		service := maps.Clone(want)
		maps.Copy(service, map[string]string{
			"FIRST": "/snap/envy/x1/first", "SECOND": "/snap/envy/x1/first/second/own", "TOLD": "",
			"SNAP_LIFECYCLE_REASON_FILE": "/run/tenure-unit/reason", "NOTIFY_SOCKET": "/run/tenure-unit/notify",
			"PWD": "/var/snap/envy/x1", // The shell's.
		})
		one := served(t, i, instance.name, "one")
		r := one.report()
		equal(t, instance.name+": service", environ(t, r), service)
		equal(t, instance.name+": arguments of the service", r.Args, []string{"/snap/envy/x1/bin/witness", "serve", "one"})
		for _, name := range []string{"SNAP", "SNAP_DATA", "SNAP_COMMON", "HOME", "SNAP_USER_COMMON", "XDG_RUNTIME_DIR"} {
			one.do("list", service[name], "")
		}
		equal(t, "both names", one.do("list", "/snap/"+instance.name+"/x1/bin", ""), "one two witness")

		app := maps.Clone(want)
		maps.Copy(app, map[string]string{
			"FIRST": "app", "SECOND": "/snap/envy/x1/first/second", "THIRD": "app-/snap/envy/x1/first/second", "TOLD": "bar", "FOO": "bar",
		})
		r = decode(t, i.Exec("/usr/bin/env", "FOO=bar", "PATH=/of/the/host:/bin", "HOME=/home/x", "TMPDIR=/x", "LD_LIBRARY_PATH=/x", "LD_PRELOAD=",
			"SNAP_NAME=other", "SNAP_UID=1", "XDG_RUNTIME_DIR=/run/user/7", i.Path("snap/bin", instance.name), "--", "x  y", ""))
		got := environ(t, r)
		for name, value := range app {
			equal(t, instance.name+": app: "+name, got[name], value)
		}
		for name := range got {
			if name == "TMPDIR" || strings.HasPrefix(name, "LD_") {
				t.Errorf("%s: app: has %s of the host", instance.name, name)
			}
		}
		equal(t, instance.name+": arguments of the app", r.Args[1:], []string{"app", "/var/snap/envy/x1", "app-more", "--", "x  y", ""})
	}
	equal(t, "commands", names(t, i.Path("snap/bin")), []string{"envy", "envy_b"})
	served(t, i, "envy_b", "one").do("write", "/var/snap/envy/common/of-b", "x")
	if _, err := os.Stat(i.Path("var/snap/envy/common/of-b")); !os.IsNotExist(err) {
		t.Errorf("an instance wrote into the data of another: %v", err)
	}
	i.Tenure("remove", "envy_b")
	equal(t, "commands", names(t, i.Path("snap/bin")), []string{"envy"})
}

func names(t *testing.T, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var list []string
	for _, entry := range entries {
		list = append(list, entry.Name())
	}
	slices.Sort(list)
	return list
}

// TestAppRunsAsItsCaller looks at what an app has of whoever runs it.
func TestAppRunsAsItsCaller(t *testing.T) {
	t.Parallel()
	i := rig.New(t, rig.Config{})
	i.Tenure("install", "--dangerous", packWitness(t, i, bareYAML, nil))
	for dir, want := range map[string]string{"/tmp": "/tmp", "/usr/bin": "/"} {
		result := i.Exec("/bin/sh", "-c", `cd "$0" && umask 027 && exec 7</dev/null "$1"`, dir, i.Path("snap/bin/bare"))
		r := decode(t, result)
		equal(t, "working directory from "+dir, r.Dir, want)
		equal(t, "umask", r.Status["Umask"], "0027")
		equal(t, "descriptor", r.Files[7], "/dev/null")
		equal(t, "rights", pick(r.Status, "CapEff", "NoNewPrivs", "Uid"), map[string]string{"CapEff": "00000000a00405fb", "NoNewPrivs": "1", "Uid": "0 0 0 0"})
		if !i.Runs("bare", r.Group) {
			t.Errorf("group %s", r.Group)
		}
	}
	// Its status is the caller's to see.
	equal(t, "exit status", i.Exec(i.Path("snap/bin/bare"), "exit", "7").Status, 7)
}

const layoutYAML = `name: laid
version: 1
base: %BASE%
confinement: strict
layout:
  /opt/tool: {bind: $SNAP/tool}
  /usr/local: {bind: $SNAP_DATA/local}
  /etc/os-release: {bind-file: $SNAP/etc/os-release}
  /etc/laid.conf: {bind-file: $SNAP_COMMON/laid.conf}
  /usr/lib/laid: {symlink: $SNAP/tool}
  /var/lib/laid: {type: tmpfs, mode: '1777'}
  $SNAP/inner: {bind: $SNAP_COMMON/inner}
apps:
  one: {command: bin/witness serve one, daemon: notify}
`

// TestLayouts makes layouts of every kind on targets that exist and on those that
// do not, on a base and on none, and refreshes them.
func TestLayouts(t *testing.T) {
	t.Parallel()
	i := rig.New(t, rig.Config{})
	installBase(t, i)
	for _, base := range []string{"debian12", "bare"} {
		files := map[string]string{"tool/file": "tool 1", "etc/os-release": "release 1", "inner/hidden": "x"}
		yaml := strings.Replace(layoutYAML, "%BASE%", base, 1)
		i.Tenure("install", "--dangerous", packWitness(t, i, yaml, files))
		one := served(t, i, "laid", "one")
		lay := func(version string) {
			t.Helper()
			equal(t, base+": bind", one.do("read", "/opt/tool/file", ""), "tool "+version)
			equal(t, base+": bind-file", one.do("read", "/etc/os-release", ""), "release "+version)
			equal(t, base+": symlink", one.do("link", "/usr/lib/laid", ""), "/snap/laid/x"+version+"/tool")
			equal(t, base+": symlink, followed", one.do("read", "/usr/lib/laid/file", ""), "tool "+version)
			equal(t, base+": tmpfs", one.do("list", "/var/lib/laid", "")+one.do("mode", "/var/lib/laid", ""), "dtrwxrwxrwx")
			one.do("write", "/var/lib/laid/file", "x")
			equal(t, base+": read-only", one.ask("write", "/opt/tool/file", "x").Err, "open /opt/tool/file: read-only file system")
		}
		lay("1")
		equal(t, base+": a source that is missing", one.do("read", "/etc/laid.conf", ""), "")
		one.do("write", "/etc/laid.conf", "written")
		one.do("write", "/usr/local/file", "local")
		one.do("write", "/snap/laid/x1/inner/file", "inner")
		if base == "debian12" {
			equal(t, "beside a mimic", strings.Contains(one.do("read", "/etc/passwd", ""), "root:"), true)
			one.do("list", "/usr/bin", "")
		}
		files["tool/file"], files["etc/os-release"] = "tool 2", "release 2"
		i.Tenure("refresh", "--dangerous", packWitness(t, i, yaml, files))
		lay("2")
		for path, want := range map[string]string{"/etc/laid.conf": "written", "/usr/local/file": "local", "/snap/laid/x2/inner/file": "inner"} {
			equal(t, base+": "+path, one.do("read", path, ""), want)
		}
		i.Tenure("remove", "laid")
	}
}
