// Package postgres_test holds the example package postgres to case 4: a
// database that starts, stops cleanly and can be broken on purpose.
package postgres_test

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"tenure/examples/clients/snaps"
	"tenure/examples/internal/ready"
	"tenure/examples/internal/stage"
)

const patience = time.Minute

type scene struct {
	common string
	notify *ready.Socket
}

func newScene(t *testing.T) scene {
	t.Helper()
	if os.Getuid() != 0 {
		t.Fatal("mounting needs root")
	}
	notify, err := ready.Listen(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := notify.Close(); err != nil {
			t.Error(err)
		}
	})
	return scene{common: t.TempDir(), notify: notify}
}

func (s scene) command(t *testing.T, tree, path string, args ...string) *exec.Cmd {
	t.Helper()
	config := stage.Config{
		Name: "postgres", Revision: "x1", Tree: tree, Common: s.common, Root: t.TempDir(), Notify: s.notify.Path,
	}
	cmd, err := stage.Command(context.WithoutCancel(t.Context()), config, path, args...)
	if err != nil {
		t.Fatal(err)
	}
	return cmd
}

// serve runs a server while it is used, stops it as its package says, and
// returns what it wrote.
func (s scene) serve(ctx context.Context, t *testing.T, use func()) (log string) {
	t.Helper()
	var output bytes.Buffer
	cmd := s.command(t, "", "bin/server")
	cmd.Stdout, cmd.Stderr = &output, &output
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if err := s.notify.Wait(ctx); err != nil {
		t.Errorf("%v\n%s", err, output.String())
	} else {
		use()
	}
	if err := cmd.Process.Signal(syscall.SIGINT); err != nil {
		t.Error(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Errorf("server after SIGINT: %v\n%s", err, output.String())
	}
	return output.String()
}

func (s scene) sql(t *testing.T, statement string) string {
	t.Helper()
	out, err := s.command(t, "", "bin/psql", "-XAtq", "-v", "ON_ERROR_STOP=1", "-c", statement).Output()
	if err != nil {
		t.Errorf("%s: %v", statement, err)
	}
	return strings.TrimSpace(string(out))
}

func TestDataOutlivesTheServer(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	s := newScene(t)
	s.serve(ctx, t, func() {
		s.sql(t, "create table commits (n int primary key)")
		s.sql(t, "insert into commits select generate_series(1, 1000)")
	})
	log := s.serve(ctx, t, func() {
		if got := s.sql(t, "select count(*) from commits"); got != "1000" {
			t.Errorf("%s commits after a restart, want 1000", got)
		}
		if got := s.sql(t, "show data_checksums"); got != "on" {
			t.Errorf("data checksums are %q, want on", got)
		}
	})
	if !strings.Contains(log, "database system was shut down at") || strings.Contains(log, "not properly shut down") {
		t.Errorf("the second start found no clean shutdown:\n%s", log)
	}
	info, err := os.Stat(filepath.Join(s.common, "data"))
	if err != nil {
		t.Fatal(err)
	}
	if stat, ok := info.Sys().(*syscall.Stat_t); !ok || stat.Uid != 584788 || info.Mode().Perm() != 0o700 {
		t.Errorf("data directory is %v of %+v, want 0700 of snap_daemon", info.Mode(), stat)
	}
}

func TestAHalfMadeClusterIsMadeAgain(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	s := newScene(t)
	if err := os.MkdirAll(filepath.Join(s.common, "data.new", "base"), 0o700); err != nil {
		t.Fatal(err)
	}
	s.serve(ctx, t, func() {
		if got := s.sql(t, "select 1"); got != "1" {
			t.Errorf("select 1 is %q", got)
		}
	})
}

func TestBrokenVariantsDoNotStartAndSpoilNothing(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	s := newScene(t)
	s.serve(ctx, t, func() { s.sql(t, "create table kept (n int)") })
	for variant, want := range map[string]string{
		"broken-config":  `could not access file "no_such_library"`,
		"broken-library": "libicuuc.so.72: cannot open shared object file",
	} {
		file, err := snaps.Build(ctx, "postgres", variant)
		if err != nil {
			t.Fatal(err)
		}
		tree := filepath.Join(t.TempDir(), "tree")
		if out, err := exec.CommandContext(ctx, "unsquashfs", "-q", "-n", "-d", tree, file).CombinedOutput(); err != nil {
			t.Fatalf("unsquashfs: %v: %s", err, out)
		}
		cmd := s.command(t, tree, "bin/server")
		cmd.Stderr = nil
		out, err := cmd.Output()
		exit, exited := errors.AsType[*exec.ExitError](err)
		if !exited || !strings.Contains(string(exit.Stderr), want) {
			t.Errorf("%s: %v, output %s%s, want an exit with %q", variant, err, out, stderr(exit), want)
		}
	}
	log := s.serve(ctx, t, func() {
		if got := s.sql(t, "select count(*) from kept"); got != "0" {
			t.Errorf("select from kept: %q", got)
		}
	})
	if strings.Contains(log, "not properly shut down") {
		t.Errorf("a broken variant left the cluster dirty:\n%s", log)
	}
}

func stderr(exit *exec.ExitError) string {
	if exit == nil {
		return ""
	}
	return string(exit.Stderr)
}
