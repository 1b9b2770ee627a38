package sandbox

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func TestKernelMounts(t *testing.T) {
	t.Parallel()
	p := base(t, map[string]string{"sys/": ""}).with(Mount{Kind: Sys, Target: "/sys"})
	u := spawn(t, p, nil)
	for command, want := range map[string]string{
		"echo x > /dev/null && head -c2 /dev/zero | od -An -tx1":                           " 00 00",
		"test -c /dev/pts/ptmx && test -d /proc/1 && echo yes":                             "yes",
		"(echo core > /proc/sys/kernel/core_pattern) 2>&1 | grep -o 'Read-only.*'":         "Read-only file system",
		"(echo 1 > /proc/irq/default_smp_affinity) 2>&1 | grep -o 'Read-only.*'":           "Read-only file system",
		"(echo x > /sys/kernel/uevent_helper) 2>&1 | grep -Eo 'Read-only.*|nonexistent.*'": "Read-only file system",
		"cat /proc/sys/kernel/ostype":                                                      "Linux",
		"echo 500 > /proc/self/oom_score_adj && cat /proc/self/oom_score_adj":              "500",
		"ls /sys/fs/cgroup | grep -c .":                                                    lines(t, "/sys/fs/cgroup"),
	} {
		equal(t, command, u.do(t, command), want)
	}
	made := u.do(t, "for d in /sys/fs/cgroup /sys/fs/cgroup/*/; do mkdir $d/tenure-sandbox-test 2>/dev/null && echo $d; done")
	equal(t, "control groups made", made, "")
}

func lines(t *testing.T, dir string) string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	return strconv.Itoa(len(entries))
}

func TestBind(t *testing.T) {
	t.Parallel()
	host := sharedDir(t)
	tree(t, host, map[string]string{"data/file": "1\n", "data/over/": ""})
	mount(t, "tmpfs", filepath.Join(host, "data/over"), "tmpfs", 0)
	tree(t, host, map[string]string{"data/over/hidden": "2\n"})
	p := base(t, map[string]string{"rw/": "", "ro/": "", "slave/": ""}).with(
		Mount{Kind: Bind, Source: host + "/data", Target: "/rw"},
		Mount{Kind: Bind, Source: host + "/data", Target: "/ro", ReadOnly: true},
		Mount{Kind: Slave, Source: host + "/data", Target: "/slave", ReadOnly: true},
		Mount{Kind: Bind, Source: host + "/none", Target: "/none", Optional: true},
		Mount{Kind: Bind, Source: host + "/data/file/none", Target: "/none", Optional: true},
	)
	u := spawn(t, p, nil)
	for command, want := range map[string]string{
		"echo 3 > /rw/new; cat /ro/new":                     "3",
		"(echo 4 > /ro/new) 2>&1 | grep -o Read-only":       "Read-only",
		"(echo 4 > /slave/over/x) 2>&1 | grep -o Read-only": "Read-only",
		"ls /rw/over /ro/over":                              "/ro/over:\n\n/rw/over:",
		"cat /slave/over/hidden":                            "2",
		"ls -d /none 2>/dev/null":                           "",
	} {
		equal(t, command, u.do(t, command), want)
	}
	// Private in both directions.
	equal(t, "mount in the unit", u.do(t, "mount -t tmpfs x /rw/over && touch /rw/over/mine && ls /rw/over"), "mine")
	if _, err := os.Stat(host + "/data/over/mine"); !os.IsNotExist(err) {
		t.Errorf("the host sees the unit's mount: %v", err)
	}
}

// TestSlave has the unit see what the host mounts and unmounts later, which is
// how a running unit finds the next revision, and not the other way round.
func TestSlave(t *testing.T) {
	t.Parallel()
	host := sharedDir(t)
	tree(t, host, map[string]string{"12/": "", "13/": ""})
	p := base(t, nil).with(
		Mount{Kind: Tmpfs, Target: "/snap"},
		Mount{Kind: Slave, Source: host, Target: "/snap/name"},
	)
	u := spawn(t, p, nil)
	mount(t, "tmpfs", host+"/12", "tmpfs", 0)
	tree(t, host, map[string]string{"12/new": "there\n"})
	equal(t, "later mount", u.do(t, "cat /snap/name/12/new"), "there")
	if err := unix.Unmount(host+"/12", 0); err != nil {
		t.Fatal(err)
	}
	equal(t, "later unmount", u.do(t, "ls /snap/name/12"), "")
	u.do(t, "mount -t tmpfs x /snap/name/13 && touch /snap/name/13/mine")
	if _, err := os.Stat(host + "/13/mine"); !os.IsNotExist(err) {
		t.Errorf("the host sees the unit's mount: %v", err)
	}
}

// TestShared is the life of a mount below $SNAP_COMMON: made by one unit, seen
// by the host, a running and a later unit, and unmounted by the later one.
func TestShared(t *testing.T) {
	t.Parallel()
	host := sharedDir(t)
	tree(t, host, map[string]string{"m/": "", "h/": ""})
	p := base(t, map[string]string{"common/": ""}).with(Mount{Kind: Shared, Source: host, Target: "/common"})
	first, beside := spawn(t, p, nil), spawn(t, p, nil)
	first.do(t, "mount -t tmpfs made /common/m && echo one > /common/m/file")
	if text, err := os.ReadFile(host + "/m/file"); err != nil || string(text) != "one\n" {
		t.Errorf("on the host: %q, %v", text, err)
	}
	equal(t, "beside", beside.do(t, "cat /common/m/file"), "one")
	first.end()
	later := spawn(t, p, nil)
	equal(t, "later", later.do(t, "cat /common/m/file"), "one")
	mount(t, "tmpfs", host+"/h", "tmpfs", 0)
	tree(t, host, map[string]string{"h/file": "two\n"})
	equal(t, "of the host", later.do(t, "cat /common/h/file"), "two")
	equal(t, "unmount", later.do(t, "umount /common/m && ls /common/m"), "")
	if _, err := os.Stat(host + "/m/file"); !os.IsNotExist(err) {
		t.Errorf("the host still sees the mount: %v", err)
	}
	equal(t, "unmounted beside", beside.do(t, "ls /common/m"), "")
}

// TestLinksDoNotLeadOut gives base and snap links that would have mounts made,
// or taken, outside of the unit.
func TestLinksDoNotLeadOut(t *testing.T) {
	t.Parallel()
	host := t.TempDir()
	tree(t, host, map[string]string{
		"data/secret": "->/etc/host-secret", "data/up": "->../../../../../../../../../../../..", "data/root": "->/proc/1/root",
		"bound/file": "bound\n", "victim/": "",
	})
	p := base(t, map[string]string{
		"data/": "", "a/": "", "b/": "", "c/": "", "etc/host-secret": "the base's\n",
		"abs": "->" + host + "/victim", "up": "->../../../../../../../../.." + host + "/victim", "magic": "->/proc/1/root" + host + "/victim",
	}).with(Mount{Kind: Bind, Source: host + "/data", Target: "/data"})

	t.Run("targets", func(t *testing.T) {
		t.Parallel()
		for _, link := range []string{"/abs", "/up"} {
			u := spawn(t, p.with(Mount{Kind: Bind, Source: host + "/bound", Target: link + "/x"}), nil)
			equal(t, link, u.do(t, "cat "+link+"/x/file"), "bound")
		}
		entries, err := os.ReadDir(host + "/victim")
		if err != nil || len(entries) > 0 {
			t.Errorf("the host's directory has %v, %v", entries, err)
		}
	})
	t.Run("magic target", func(t *testing.T) {
		t.Parallel()
		err := startError(t, p.with(Mount{Kind: Bind, Source: host + "/bound", Target: "/magic/x"}), Exec{})
		if !strings.Contains(err.Error(), "/magic/x") {
			t.Error(err)
		}
	})
	t.Run("sources", func(t *testing.T) {
		t.Parallel()
		u := spawn(t, p.with(
			Mount{Kind: Bind, Inside: true, Source: "/data/secret", Target: "/etc/base-file"},
			Mount{Kind: Bind, Inside: true, Source: "/data/up", Target: "/a"},
			Mount{Kind: Bind, Inside: true, Source: "/data/none/dir", Target: "/b"},
			Mount{Kind: Bind, Inside: true, Source: "/data/file", File: true, Target: "/c/file"},
			Mount{Kind: Bind, Inside: true, Source: "/data/optional", Target: "/d", Optional: true},
		), nil)
		equal(t, "absolute link", u.do(t, "cat /etc/base-file"), "the base's")
		equal(t, "link upwards", u.do(t, "cat /a/etc/host-secret; ls -d /a"+host+" 2>/dev/null"), "the base's")
		equal(t, "made", u.do(t, "echo 1 > /b/x; echo 2 > /c/file; cat /data/none/dir/x /data/file; ls /data/optional 2>/dev/null"), "1\n2")
	})
	t.Run("magic source", func(t *testing.T) {
		t.Parallel()
		startError(t, p.with(Mount{Kind: Bind, Inside: true, Source: "/data/root/etc", Target: "/a"}), Exec{})
	})
}

// TestLinkBelowShared has a snap's link lead a layout into its own shared
// directory, where the host would see the mount for ever.
func TestLinkBelowShared(t *testing.T) {
	t.Parallel()
	host := sharedDir(t)
	tree(t, host, map[string]string{"in/": ""})
	p := base(t, map[string]string{"common/": "", "link": "->/common/in"}).with(
		Mount{Kind: Shared, Source: host, Target: "/common"},
		Mount{Kind: Tmpfs, Target: "/link"},
	)
	err := startError(t, p, Exec{})
	if !strings.Contains(err.Error(), "below a shared mount") {
		t.Error(err)
	}
}

// sharedDir is a directory of the host that is a shared mount.
func sharedDir(t *testing.T) string {
	t.Helper()
	needRoot(t)
	dir := t.TempDir()
	mount(t, dir, dir, "", unix.MS_BIND)
	if err := unix.Mount("", dir, "", unix.MS_SHARED, ""); err != nil {
		t.Fatal(err)
	}
	return dir
}

func mount(t *testing.T, source, target, kind string, flags uintptr) {
	t.Helper()
	if err := unix.Mount(source, target, kind, flags, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Unmount(target, unix.MNT_DETACH) })
}
