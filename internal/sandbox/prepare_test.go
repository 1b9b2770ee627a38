package sandbox

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
)

// What happens on the host between the preparation and the start is seen by the
// program, which may have been missing before.
func TestPrepared(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	p := base(t, nil).with(Mount{Kind: Bind, Source: dir, Target: "/var/data"})
	prepared, err := Prepare(t.Context(), p, "/bin/sh", "/var/data/program", "/no/such", "/var/data")
	if err != nil {
		t.Fatal(err)
	}
	script := "#!/bin/sh\npwd > /var/data/result\n"
	if err := os.WriteFile(filepath.Join(dir, "program"), []byte(script), 0o755); err != nil { //nolint:gosec // A program.
		t.Fatal(err)
	}
	pid, pidfd, err := prepared.Start(t.Context(), Exec{Argv: []string{"/var/data/program"}, Dir: "/var/data"})
	if err != nil {
		t.Fatal(err)
	}
	status := reap(pid, pidfd)
	if result, err := os.ReadFile(filepath.Join(dir, "result")); status.ExitStatus() != 0 || string(result) != "/var/data\n" {
		t.Errorf("exit status %d, result %q, %v", status.ExitStatus(), result, err)
	}
	if _, _, err := prepared.Start(t.Context(), Exec{Argv: []string{"/bin/true"}}); !errors.Is(err, os.ErrClosed) {
		t.Errorf("second start: %v", err)
	}
}

func TestPrepareFails(t *testing.T) {
	t.Parallel()
	p := base(t, nil).with(Mount{Kind: Bind, Source: "/no/such", Target: "/var/data"})
	if _, err := Prepare(t.Context(), p); !errors.Is(err, os.ErrNotExist) {
		t.Error(err)
	}
}

func TestPreparedIsClosed(t *testing.T) {
	t.Parallel()
	prepared, err := Prepare(t.Context(), base(t, nil))
	if err != nil {
		t.Fatal(err)
	}
	prepared.Close()
	prepared.Close()
	if _, _, err := prepared.Start(t.Context(), Exec{Argv: []string{"/bin/true"}}); !errors.Is(err, os.ErrClosed) {
		t.Errorf("start: %v", err)
	}
}
