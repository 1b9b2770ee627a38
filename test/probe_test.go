package test

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"tenure/client"
	"tenure/examples/clients/snaps"
	"tenure/test/rig"
)

// probeSnap packs a snap of one program, test/probe, whose apps are those of yaml.
func probeSnap(t *testing.T, i *rig.Instance, yaml string) string {
	t.Helper()
	return probeSnapAs(t, i, "probe", yaml)
}

// probeSnapAs is probeSnap with another name for the program.
func probeSnapAs(t *testing.T, i *rig.Instance, name, yaml string) string {
	t.Helper()
	program := buildProbe(t)
	dir := t.TempDir()
	for _, sub := range []string{"meta", "bin"} {
		if err := os.MkdirAll(filepath.Join(dir, sub), 0o755); err != nil { //nolint:gosec // As in any snap.
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "meta", "snap.yaml"), []byte(yaml), 0o644); err != nil { //nolint:gosec // As in any snap.
		t.Fatal(err)
	}
	putProgram(t, program, filepath.Join(dir, "bin", name))
	file := filepath.Join(t.TempDir(), "probe.snap")
	i.Tenure("pack", "--compression", "lz4", dir, file)
	return file
}

// buildProbe builds the program of test snaps, once in the life of the test binary, and
// gives its path.
func buildProbe(t *testing.T) string {
	t.Helper()
	program, err := probeProgram()
	if err != nil {
		t.Fatalf("build the probe: %v", err)
	}
	return program
}

// probeProgram is where the probe has been built. Whoever asks first does not end it with their test.
//
//nolint:gochecknoglobals // It is never changed.
var probeProgram = sync.OnceValues(func() (string, error) {
	root, err := snaps.Checkout()
	if err != nil {
		return "", err
	}
	program := filepath.Join(root, ".cache", "test-bin-probe", "probe")
	if err := os.MkdirAll(filepath.Dir(program), 0o755); err != nil {
		return "", err
	}
	//nolint:gosec // Only paths of the checkout.
	build := exec.CommandContext(context.Background(), "flock", program+".lock", "go", "build", "-trimpath", "-ldflags", "-s -w", "-o", program, "./test/probe")
	build.Dir = root
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		return "", fmt.Errorf("%w\n%s", err, out)
	}
	return program, nil
})

// putProgram puts a program that was built below the checkout where a snap is made, as
// another name of its file where that can be.
func putProgram(t *testing.T, program, path string) {
	t.Helper()
	if os.Link(program, path) == nil {
		return
	}
	text, err := os.ReadFile(program)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, text, 0o755); err != nil { //nolint:gosec // As in any snap.
		t.Fatal(err)
	}
}

// probeYAML is a snap.yaml with services, a block of YAML each, in which
// "PROBE" is the start of a command line of that service.
func probeYAML(version string, services ...string) string {
	var yaml strings.Builder
	fmt.Fprintf(&yaml, "name: probe\nversion: '%s'\nbase: bare\nconfinement: strict\napps:\n", version)
	for _, service := range services {
		lines := strings.Split(strings.Trim(service, "\n"), "\n")
		name := strings.TrimSuffix(strings.TrimSpace(lines[0]), ":")
		fmt.Fprintf(&yaml, "  %s:\n", name)
		for _, line := range lines[1:] {
			line = strings.ReplaceAll(strings.ReplaceAll(line, "\t", "  "), "PROBE", "bin/probe "+name)
			fmt.Fprintf(&yaml, "  %s\n", line)
		}
	}
	return yaml.String()
}

// trace is what probes report, in order.
type trace struct {
	t    *testing.T
	conn *net.UnixConn

	mu    sync.Mutex
	all   []string
	taken map[string]int
	more  chan struct{}
	done  chan struct{}
}

// listen hears the probes of the snap called probe from now on.
func listen(t *testing.T, i *rig.Instance) *trace {
	t.Helper()
	return listenTo(t, i, "probe")
}

// listenTo hears the probes of a snap from now on.
func listenTo(t *testing.T, i *rig.Instance, snap string) *trace {
	t.Helper()
	r, err := hear(i.Common(snap))
	if err != nil {
		t.Fatal(err)
	}
	r.t = t
	t.Cleanup(func() {
		r.close()
		if t.Failed() {
			t.Logf("the probes reported:\n\t%s", strings.Join(r.reports(), "\n\t"))
		}
	})
	return r
}

// hear listens to the probes of the snap with this $SNAP_COMMON, until close.
func hear(common string) (*trace, error) {
	if err := os.MkdirAll(common, 0o755); err != nil { //nolint:gosec // As Tenure makes it.
		return nil, err
	}
	path := filepath.Join(common, "trace")
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		return nil, err
	}
	r := &trace{conn: conn, taken: map[string]int{}, more: make(chan struct{}, 1), done: make(chan struct{})}
	go r.read()
	return r, nil
}

func (r *trace) close() {
	_ = r.conn.Close()
	<-r.done
}

func (r *trace) read() {
	defer close(r.done)
	buf := make([]byte, 8<<10)
	for {
		n, err := r.conn.Read(buf)
		if err != nil {
			return
		}
		r.mu.Lock()
		r.all = append(r.all, string(buf[:n]))
		r.mu.Unlock()
		select {
		case r.more <- struct{}{}:
		default:
		}
	}
}

// reports are all reports so far.
func (r *trace) reports() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.all)
}

// next is the next report of one probe, without its name.
func (r *trace) next(name string) string {
	r.t.Helper()
	report, err := r.take(name)
	if err != nil {
		r.t.Fatal(err)
	}
	return report
}

// take is the next report of one probe, as soon as it comes.
func (r *trace) take(name string) (string, error) {
	patience := time.NewTimer(rig.Patience)
	defer patience.Stop()
	for {
		seen := 0
		for _, line := range r.reports() {
			rest, ok := strings.CutPrefix(line, name+" ")
			if !ok {
				continue
			}
			if seen == r.taken[name] {
				r.taken[name]++
				return rest, nil
			}
			seen++
		}
		select {
		case <-r.more:
		case <-patience.C:
			return "", fmt.Errorf("%s reports nothing more", name)
		}
	}
}

// expect waits for the next reports of one probe and compares them.
func (r *trace) expect(name string, want ...string) {
	r.t.Helper()
	for _, report := range want {
		if got := r.next(name); got != report {
			r.t.Fatalf("%s reports %q, want %q", name, got, report)
		}
	}
}

// silent fails the test if one probe has reported anything that was not expected.
func (r *trace) silent(names ...string) {
	r.t.Helper()
	for _, report := range r.untaken(names...) {
		r.t.Errorf("also reported: %q", report)
	}
}

// untaken is what probes have reported and nobody has taken.
func (r *trace) untaken(names ...string) []string {
	var left []string
	for _, name := range names {
		count := 0
		for _, line := range r.reports() {
			if strings.HasPrefix(line, name+" ") {
				if count++; count > r.taken[name] {
					left = append(left, line)
				}
			}
		}
	}
	return left
}

// service is what is said of a service of the snap called probe.
func service(t *testing.T, i *rig.Instance, name string) client.Service {
	t.Helper()
	list, err := i.Client().Services(t.Context(), []string{"probe." + name})
	if err != nil || len(list) != 1 {
		t.Fatalf("services: %v, %v", list, err)
	}
	return list[0]
}

// write makes a file.
func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil { //nolint:gosec // Nothing in it is secret.
		t.Fatal(err)
	}
}
