package sandbox

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestBaseIsRootAndReadOnly(t *testing.T) {
	t.Parallel()
	p := base(t, nil)
	u := spawn(t, p, nil)
	equal(t, "file of the base", u.do(t, "cat /etc/base-file"), "of the base")
	equal(t, "working directory", u.do(t, "pwd"), "/")
	for _, command := range []string{
		"echo x > /etc/base-file", "echo x > /etc/new", "mkdir /new", "rm /etc/base-file", "touch /usr/new", "chmod 0 /etc",
	} {
		equal(t, command, u.do(t, "("+command+") 2>/dev/null && echo done"), "")
	}
	equal(t, "nothing but the base", u.do(t, "ls -a / | tr '\\n' ' '"), ". .. bin dev etc lib lib64 proc sbin usr ")
	text, err := os.ReadFile(filepath.Join(p.Base, "etc/base-file"))
	if err != nil || string(text) != "of the base\n" {
		t.Errorf("the base is now %q, %v", text, err)
	}
	equal(t, "flags", u.do(t, "while read a b c d at flags rest; do [ $at != / ] || echo $flags; done < /proc/self/mountinfo"), "ro,nosuid,relatime")
}

func TestEmptyRoot(t *testing.T) {
	t.Parallel()
	needRoot(t)
	p := Profile{Root: RootEmpty, AllCapabilities: true, Mounts: []Mount{
		{Kind: Slave, Source: "/usr", Target: "/usr", ReadOnly: true},
		{Kind: Symlink, Source: "usr/bin", Target: "/bin"},
		{Kind: Symlink, Source: "usr/lib", Target: "/lib"},
		{Kind: Symlink, Source: "usr/lib64", Target: "/lib64"},
		{Kind: Tmpfs, Target: "/tmp", Mode: 0o1777},
		{Kind: Dev, Target: "/dev"},
	}}
	u := spawn(t, p, nil)
	equal(t, "entries", u.do(t, "ls / | tr '\\n' ' '"), "bin dev lib lib64 tmp usr ")
	equal(t, "read-only", u.do(t, "mkdir /x 2>/dev/null && echo done"), "")
	equal(t, "temporary directory", u.do(t, "echo x > /tmp/x && stat -c %a /tmp"), "1777")
}

func TestHostRoot(t *testing.T) {
	t.Parallel()
	needRoot(t)
	dir := t.TempDir()
	u := spawn(t, Profile{AllCapabilities: true}, func(e *Exec) { e.Dir = dir })
	equal(t, "working directory", u.do(t, "pwd"), dir)
	here, err := os.Readlink("/proc/self/ns/mnt")
	if err != nil {
		t.Fatal(err)
	}
	equal(t, "namespace", u.do(t, "readlink /proc/self/ns/mnt"), here)
	if now, err := os.Getwd(); err != nil || now == dir {
		t.Errorf("the caller is in %s, %v", now, err)
	}
}

func TestNamespaceIsFresh(t *testing.T) {
	t.Parallel()
	p := base(t, map[string]string{"mnt/": ""})
	first, second := spawn(t, p, nil), spawn(t, p, nil)
	a, b := first.do(t, "readlink /proc/self/ns/mnt"), second.do(t, "readlink /proc/self/ns/mnt")
	here, err := os.Readlink("/proc/self/ns/mnt")
	if err != nil || a == b || a == here || b == here {
		t.Errorf("namespaces: %s, %s, the host's %s, %v", a, b, here, err)
	}
	equal(t, "mount", first.do(t, "mount -t tmpfs mine /mnt && touch /mnt/x && ls /mnt"), "x")
	equal(t, "seen by the other", second.do(t, "ls /mnt"), "")
	// Neither the host's tree nor the old root is left in it.
	equal(t, "the old root", first.do(t, "grep -c ' /work' /proc/self/mountinfo"), "0")
}

// TestMimic makes mount points where a base has none: in its root, in a
// directory that has everything, and in place of a link that leads nowhere.
func TestMimic(t *testing.T) {
	t.Parallel()
	p := base(t, map[string]string{
		"etc/sub/file": "in a directory\n", "etc/good": "->base-file", "etc/resolv.conf": "->../run/nowhere", "etc/way": "->/gone/deep",
		"etc/sub/deep/": "",
	})
	host := t.TempDir()
	tree(t, host, map[string]string{"file": "of the host\n", "dir/entry": "in it\n"})
	if err := os.Chmod(filepath.Join(p.Base, "etc"), 0o751); err != nil { //nolint:gosec // To see it again.
		t.Fatal(err)
	}
	p = p.with(
		Mount{Kind: Bind, Source: host + "/file", Target: "/etc/resolv.conf", ReadOnly: true},
		Mount{Kind: Bind, Source: host + "/file", Target: "/etc/way/below"},
		Mount{Kind: Bind, Source: host + "/dir", Target: "/snap/name/12"},
		Mount{Kind: Bind, Source: host + "/dir", Target: "/etc/sub/deep/new/er"},
		Mount{Kind: Symlink, Source: "/etc/sub", Target: "/opt/link"},
		Mount{Kind: Symlink, Source: "base-file", Target: "/etc/good"},
		Mount{Kind: Symlink, Source: "sub", Target: "/etc/other"},
	)
	u := spawn(t, p, nil)
	for command, want := range map[string]string{
		"cat /etc/resolv.conf /etc/way/below":                           "of the host\nof the host",
		"cat /snap/name/12/entry":                                       "in it",
		"cat /etc/sub/deep/new/er/entry":                                "in it",
		"cat /etc/base-file /etc/good /etc/sub/file":                    "of the base\nof the base\nin a directory",
		"cat /opt/link/file /etc/other/file":                            "in a directory\nin a directory",
		"stat -c %a /etc":                                               "751",
		"readlink /etc/good":                                            "base-file",
		"touch /etc/x /snap/x /x /opt/x 2>/dev/null":                    "",
		"ls /etc /opt /snap / | grep -cx x":                             "0",
		"(echo x > /etc/resolv.conf) 2>/dev/null; cat /etc/resolv.conf": "of the host",
	} {
		equal(t, command, u.do(t, command), want)
	}
	for _, name := range []string{"snap", "opt", "etc/other", "etc/sub/deep/new", "gone"} {
		if _, err := os.Lstat(filepath.Join(p.Base, name)); !os.IsNotExist(err) {
			t.Errorf("the base itself now has %s: %v", name, err)
		}
	}
}

func TestErrorsNameWhatFailed(t *testing.T) {
	t.Parallel()
	p := base(t, map[string]string{"bin-true/": "", "etc/script": "#!/no/such/shell\n"})
	if err := os.Chmod(filepath.Join(p.Base, "etc/script"), 0o755); err != nil { //nolint:gosec // A program.
		t.Fatal(err)
	}
	gone := p
	gone.Base = "/no/such/base"
	plain := t.TempDir()
	for _, test := range []struct {
		name    string
		profile Profile
		exec    Exec
		want    []string
	}{
		{"program", p, Exec{Argv: []string{"/no/program"}}, []string{"/no/program", "no such file"}},
		{"interpreter", p, Exec{Argv: []string{"/etc/script"}}, []string{"/etc/script", "interpreter"}},
		{"not executable", p, Exec{Argv: []string{"/etc/base-file"}}, []string{"/etc/base-file", "permission denied"}},
		{"directory", p, Exec{Dir: "/no/dir"}, []string{"/bin/true", "directory /no/dir"}},
		{"base", gone, Exec{}, []string{"base /no/such/base", "no such file"}},
		{"source", p.with(Mount{Kind: Bind, Source: "/no/source", Target: "/etc"}), Exec{}, []string{"bind /no/source at /etc", "no such file"}},
		{"kind", p.with(Mount{Kind: Bind, Source: plain, Target: "/etc/base-file"}), Exec{}, []string{plain, "/etc/base-file", "not a directory"}},
		{"unshared", p.with(Mount{Kind: Shared, Source: "/proc", Target: "/etc"}), Exec{}, []string{"shared /proc at /etc", "not on a shared mount"}},
		{"below shared", p.with(Mount{Kind: Shared, Source: "/a", Target: "/a"}, Mount{Kind: Tmpfs, Target: "/a/b"}), Exec{}, []string{"tmpfs at /a/b", "shared /a"}},
		{"relative", p, Exec{Argv: []string{"true"}}, []string{"absolute"}},
		{"no command", p, Exec{Argv: []string{}}, []string{"absolute"}},
		{"capability", Profile{KeepCapabilities: []string{"CAP_ALL"}}, Exec{}, []string{"CAP_ALL"}},
		{"host mounts", Profile{Mounts: []Mount{{Kind: Tmpfs, Target: "/tmp"}}}, Exec{}, []string{"host's own root"}},
		{"root target", p.with(Mount{Kind: Tmpfs, Target: "/"}), Exec{}, []string{"below the root"}},
		{"dots", p.with(Mount{Kind: Tmpfs, Target: "/a/../b"}), Exec{}, []string{"/a/../b", "absolute"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			err := startError(t, test.profile, test.exec)
			for _, part := range test.want {
				if !strings.Contains(err.Error(), part) {
					t.Errorf("error %q does not mention %q", err, part)
				}
			}
		})
	}
}
