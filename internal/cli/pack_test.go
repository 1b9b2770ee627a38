package cli_test

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"tenure/internal/cli"
	"tenure/internal/squash"
)

// tree writes files, by name, into a new directory; what starts with "-> " is a
// link. Names that end in a star are programs.
func tree(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, content := range files {
		name, program := strings.CutSuffix(name, "*")
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil { //nolint:gosec // As in snaps.
			t.Fatal(err)
		}
		var err error
		if target, link := strings.CutPrefix(content, "-> "); link {
			err = os.Symlink(target, path)
		} else {
			mode := os.FileMode(0o644)
			if program {
				mode = 0o755
			}
			err = os.WriteFile(path, []byte(content), mode)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// run runs the command line.
func run(t *testing.T, args ...string) (stdout, stderr string, status int) {
	t.Helper()
	var out, errs bytes.Buffer
	status = cli.Run(t.Context(), cli.Config{Args: args, Stdout: &out, Stderr: &errs, Getenv: func(string) string { return "" }})
	return out.String(), errs.String(), status
}

func webFiles() map[string]string {
	return map[string]string{
		"meta/snap.yaml":        "name: web\nversion: '1.10'\narchitectures: [amd64]\napps:\n  web: {command: bin/web, daemon: simple}\n",
		"meta/hooks/configure*": "#!/bin/sh\n",
		"bin/web*":              "#!/bin/sh\n",
		"share/link":            "-> /etc",
	}
}

func TestPackNamesTheFile(t *testing.T) {
	t.Parallel()
	out := t.TempDir()
	cases := []struct {
		name string
		args []string
		want string
	}{
		{"a file", []string{filepath.Join(out, "a.snap")}, "a.snap"},
		{"a directory", []string{out}, "web_1.10_amd64.snap"},
		{"a directory and a name", []string{out, "--filename", "b.snap"}, "b.snap"},
		{"another compression", []string{filepath.Join(out, "c.snap"), "--compression", "zstd"}, "c.snap"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			stdout, stderr, status := run(t, append([]string{"pack", tree(t, webFiles())}, c.args...)...)
			file := filepath.Join(out, c.want)
			if status != 0 || stdout != "built: "+file+"\n" || stderr != "" {
				t.Errorf("status %d, %q, %q", status, stdout, stderr)
			}
			if _, err := squash.Open(squash.Config{}).Superblock(file); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestPackIsReproducible(t *testing.T) {
	t.Parallel()
	var images [][]byte
	for range 2 {
		file := filepath.Join(t.TempDir(), "web.snap")
		if _, stderr, status := run(t, "pack", tree(t, webFiles()), file); status != 0 {
			t.Fatal(stderr)
		}
		image, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		images = append(images, image)
	}
	if !bytes.Equal(images[0], images[1]) {
		t.Error("the same directory gave different bytes")
	}
}

func TestPackChecksOnly(t *testing.T) {
	t.Parallel()
	files := webFiles()
	files["meta/snap.yaml"] += "what: is this\n"
	out := t.TempDir()
	stdout, stderr, status := run(t, "pack", "--check-skeleton", tree(t, files), out)
	left, err := os.ReadDir(out)
	if status != 0 || stdout != "" || stderr != "warning: what (line 6) is not known and is ignored\n" || err != nil || len(left) != 0 {
		t.Errorf("status %d, %q, %q, %v, %v", status, stdout, stderr, left, err)
	}
}

// TestPackRefuses: what could not be installed is not built, and the author is
// told why, all at once.
func TestPackRefuses(t *testing.T) {
	t.Parallel()
	cases := []struct {
		name string
		// files are written over those of web; "" removes one.
		files map[string]string
		setup func(dir string) error
		args  []string
		says  string
	}{
		{name: "no description", files: map[string]string{"meta/snap.yaml": ""}, says: ": it has no meta/snap.yaml\n"},
		{name: "description elsewhere", files: map[string]string{"meta/snap.yaml": "-> ../bin/web"}, says: ": its meta/snap.yaml is not a regular file\n"},
		{name: "a wrong value", files: map[string]string{"meta/snap.yaml": "name: web\nversion: 1\ntype: cat\n"}, says: `: meta/snap.yaml:3: type: found "cat"; accepted: app, base, core, os, gadget, kernel, snapd` + "\n"},
		{
			name: "wrong values", files: map[string]string{"meta/snap.yaml": "name: web\nversion: 1\ntype: cat\ngrade: a\n"},
			says: ": it has wrong values:\n" +
				"  meta/snap.yaml:3: type: found \"cat\"; accepted: app, base, core, os, gadget, kernel, snapd\n" +
				"  meta/snap.yaml:4: grade: found \"a\"; accepted: stable, devel\n",
		},
		{name: "no program", files: map[string]string{"bin/web*": ""}, says: `: app web: there is no file "bin/web" in the snap` + "\n"},
		{name: "a program that is none", files: map[string]string{"bin/web*": "", "bin/web": "x"}, says: `: app web: the file "bin/web" is not executable` + "\n"},
		{name: "a hook elsewhere", files: map[string]string{"meta/hooks/configure*": "-> /bin/sh"}, says: ": not allowed in a snap: meta/hooks/configure is a symlink (want a regular file)\n"},
		{name: "a set-uid program", setup: func(dir string) error {
			return os.Chmod(filepath.Join(dir, "bin/web"), 0o755|os.ModeSetuid)
		}, says: ": not allowed in a snap: bin/web is set-uid or set-gid (only bases and classic snaps may contain such files)\n"},
		{name: "an unknown compression", args: []string{"--compression", "rar"}, says: `unknown compression "rar" (want gzip, lzo, xz, lz4 or zstd)` + "\n"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			files := webFiles()
			for name, content := range c.files {
				delete(files, name)
				if content != "" {
					files[name] = content
				}
			}
			dir, out := tree(t, files), t.TempDir()
			if c.setup != nil {
				if err := c.setup(dir); err != nil {
					t.Fatal(err)
				}
			}
			stdout, stderr, status := run(t, append([]string{"pack", dir, out}, c.args...)...)
			if status != 1 || stdout != "" || !strings.HasPrefix(stderr, "error: cannot pack \""+dir+"\": ") || !strings.HasSuffix(stderr, c.says) {
				t.Errorf("status %d, %q, %q, want an error that says %q", status, stdout, stderr, c.says)
			}
			if left, err := os.ReadDir(out); err != nil || len(left) != 0 {
				t.Errorf("left: %v, %v", left, err)
			}
		})
	}
}

func TestPackOfNothing(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "nothing")
	if _, stderr, status := run(t, "pack", dir); status != 1 || !strings.Contains(stderr, "no such file or directory") {
		t.Errorf("status %d, %q", status, stderr)
	}
}
