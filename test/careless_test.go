package test

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/fsnotify/fsnotify"

	"tenure/test/rig"
)

// careless describes a snap whose one service, careless.daemon, runs the program
// in the directory careless.
type careless struct {
	// Command is what follows the program's name. App is further keys of the
	// service. Confinement is "strict" unless set.
	Command, App, Confinement string
}

// packer builds the program, and gives what makes versions of the snap with
// "tenure pack".
func (c careless) packer(t *testing.T, i *rig.Instance) (pack func(version string) string) {
	t.Helper()
	if c.Confinement == "" {
		c.Confinement = "strict"
	}
	dir := t.TempDir()
	build := exec.CommandContext(t.Context(), "go", "build", "-trimpath", "-ldflags=-s -w", "-o", filepath.Join(dir, "bin/careless"), "./careless")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build careless: %v\n%s", err, out)
	}
	if err := os.Mkdir(filepath.Join(dir, "meta"), 0o755); err != nil {
		t.Fatal(err)
	}
	return func(version string) string {
		t.Helper()
		for name, content := range map[string]string{"meta/snap.yaml": c.yaml(version), "version": "version of " + version} {
			if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		file := filepath.Join(t.TempDir(), "careless_"+version+".snap")
		i.Tenure("pack", "--compression", "lz4", dir, file)
		return file
	}
}

func (c careless) yaml(version string) string {
	return `name: careless
version: '` + version + `'
summary: A careless package
description: It does what package authors do.
base: bare
confinement: ` + c.Confinement + `
apps:
  daemon:
    command: bin/careless ` + c.Command + `
    daemon: notify
    stop-mode: sigterm
` + c.App
}

// await waits until what happens in a directory makes it so.
func await(t *testing.T, dir string, so func() bool) {
	t.Helper()
	watcher, err := fsnotify.NewWatcher()
	if err != nil {
		t.Fatal(err)
	}
	defer watcher.Close()
	if err := watcher.Add(dir); err != nil {
		t.Fatal(err)
	}
	timeout := time.After(rig.Patience)
	for !so() {
		select {
		case <-watcher.Events:
		case err := <-watcher.Errors:
			t.Fatal(err)
		case <-timeout:
			t.Fatalf("what was to happen in %s did not, in %s", dir, rig.Patience)
		}
	}
}
