package test

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"

	"tenure/examples/clients/snaps"
	"tenure/test/rig"
	"tenure/test/witness"
)

// buildWitness builds the program of package witness, once.
func buildWitness() func() (string, error) {
	return sync.OnceValues(func() (string, error) {
		root, err := snaps.Checkout()
		if err != nil {
			return "", err
		}
		file := filepath.Join(root, ".cache", "test-bin", "witness")
		cmd := exec.Command("go", "build", "-trimpath", "-ldflags=-s -w", "-o", file, "./test/witness/cmd/witness")
		cmd.Dir, cmd.Env = root, append(os.Environ(), "CGO_ENABLED=0")
		cmd.Stderr = os.Stderr
		return file, cmd.Run()
	})
}

// packWitness makes a snap of a snap.yaml, the witness, and files by their path.
func packWitness(t *testing.T, i *rig.Instance, yaml string, files map[string]string) string {
	t.Helper()
	program, err := witnessProgram()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	writeFile(t, filepath.Join(dir, "meta/snap.yaml"), yaml)
	if err := os.MkdirAll(filepath.Join(dir, "bin"), 0o755); err != nil {
		t.Fatal(err)
	}
	putProgram(t, program, filepath.Join(dir, "bin/witness"))
	for name, text := range files {
		writeFile(t, filepath.Join(dir, name), text)
	}
	file := dir + ".snap"
	i.Tenure("pack", "--compression", "lz4", dir, file)
	return file
}

// witnessProgram is where the witness has been built.
var witnessProgram = buildWitness() //nolint:gochecknoglobals // It is never changed.

func writeFile(t *testing.T, path, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o755); err != nil { //nolint:gosec // Some are programs.
		t.Fatal(err)
	}
}

// witnessing is a witness that serves in a snap.
type witnessing struct {
	t      *testing.T
	socket string
}

func served(t *testing.T, i *rig.Instance, snap, name string) witnessing {
	return witnessing{t, filepath.Join(i.Common(snap), name+".sock")}
}

// ask returns what the witness answers, also when that is an error.
func (s witnessing) ask(do, path, text string) witness.Answer {
	s.t.Helper()
	a, err := witness.Ask(s.t.Context(), s.socket, witness.Question{Do: do, Path: path, Text: text})
	if err != nil {
		s.t.Fatal(err)
	}
	return a
}

// do is ask, for what must go well.
func (s witnessing) do(do, path, text string) string {
	s.t.Helper()
	a := s.ask(do, path, text)
	if a.Err != "" {
		s.t.Fatalf("%s %s: %s", do, path, a.Err)
	}
	return a.Text
}

func (s witnessing) report() *witness.Report {
	s.t.Helper()
	a := s.ask("report", "", "")
	if a.Report == nil {
		s.t.Fatal(a.Err)
	}
	return a.Report
}

// run is the report of an app that is run by its command.
func run(t *testing.T, i *rig.Instance, command string, args ...string) *witness.Report {
	t.Helper()
	return decode(t, i.Exec(i.Path("snap/bin", command), args...))
}

func decode(t *testing.T, result rig.Result) *witness.Report {
	t.Helper()
	var r witness.Report
	if err := json.Unmarshal([]byte(result.Stdout), &r); err != nil || result.Status != 0 {
		t.Fatalf("exit status %d, %v: %s%s", result.Status, err, result.Stdout, result.Stderr)
	}
	return &r
}
