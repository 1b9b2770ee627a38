// Package examples_test looks at the example packages as files.
package examples_test

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"tenure/examples/clients/snaps"
	"tenure/internal/snapfile"
	"tenure/internal/squash"
)

// packages are all that the demo and the tests use.
func packages() []string {
	return []string{"debian12", "debian14", "hello", "virt", "postgres", "nginx", "web"}
}

func build(t *testing.T, name, version string) string {
	t.Helper()
	file, err := snaps.Build(t.Context(), name, version)
	if err != nil {
		t.Fatal(err)
	}
	return file
}

func unsquashfs(t *testing.T, args ...string) string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "unsquashfs", args...).Output()
	if err != nil {
		t.Fatalf("unsquashfs %s: %v", strings.Join(args, " "), err)
	}
	return string(out)
}

func TestPackagesAreValidAndSayTheirVersion(t *testing.T) {
	t.Parallel()
	for _, name := range packages() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			file := build(t, name, "2")
			entries, err := squash.Open(squash.Config{}).List(t.Context(), file)
			if err != nil {
				t.Fatal(err)
			}
			if err := squash.Check(entries, squash.CheckOptions{}); err != nil {
				t.Error(err)
			}
			snap, err := snapfile.Parse([]byte(unsquashfs(t, "-cat", file, "meta/snap.yaml")), nil)
			if err != nil {
				t.Fatal(err)
			}
			if snap.Name != name || !strings.HasSuffix(snap.Version, "2") {
				t.Errorf("snap.yaml says %s %s, want %s, version 2", snap.Name, snap.Version, name)
			}
			if version := unsquashfs(t, "-cat", file, "version"); version != "2\n" {
				t.Errorf("version file says %q, want 2", version)
			}
		})
	}
}

func TestPackagesHaveNoPrivilegedFiles(t *testing.T) {
	t.Parallel()
	for _, name := range packages() {
		for line := range strings.Lines(unsquashfs(t, "-lln", build(t, name, "1"))) {
			mode, rest, _ := strings.Cut(line, " ")
			if len(mode) == 10 && (strings.ContainsAny(mode[:9], "sSbcp") || !strings.HasPrefix(rest, "0/0 ")) {
				t.Errorf("%s has %s", name, line)
			}
		}
	}
}

func TestTheSameVersionHasTheSameBytes(t *testing.T) {
	t.Parallel()
	file := build(t, "hello", "reproduced")
	first, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	second, err := os.ReadFile(build(t, "hello", "reproduced"))
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(first, second) {
		t.Errorf("%s was built twice and differs", filepath.Base(file))
	}
}

func TestUnknownPackagesAreErrors(t *testing.T) {
	t.Parallel()
	for _, pair := range [][2]string{{"nothing", "1"}, {"postgres", "broken-heart"}, {"hello", "broken-config"}} {
		if file, err := snaps.Build(t.Context(), pair[0], pair[1]); err == nil {
			t.Errorf("build of %s %s made %s", pair[0], pair[1], file)
		}
	}
}
