package test

import (
	"bufio"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"tenure/client"
	"tenure/examples/clients/unixdial"
	"tenure/test/rig"
)

// A service that waits for somebody or for its time begins on the base that is current then;
// the base of before goes, and nobody finds the socket closed.
func TestWhoWaitsBeginsOnTheCurrentBase(t *testing.T) {
	t.Parallel()
	i := rig.New(t, rig.Config{})
	base := emptyBase(t, i)
	i.Tenure("install", "--dangerous", base)
	i.Tenure("install", "--dangerous", probeSnap(t, i, strings.Replace(probeYAML("1", `
lazy:
	daemon: notify
	command: PROBE trap serve notify:READY:1 run
	sockets: {main: {listen-stream: $SNAP_COMMON/lazy}}
`, `
timed:
	daemon: oneshot
	command: PROBE exit:0
	timer: mon,03:00
`, `
runs:
	daemon: simple
	command: PROBE trap run
`), "base: bare", "base: empty", 1)))
	socket, err := os.Stat(i.Path("var/snap/probe/common/lazy"))
	if err != nil {
		t.Fatal(err)
	}
	i.Tenure("refresh", "--dangerous", base)
	for _, unit := range []string{"probe.lazy", "probe.timed"} {
		i.Await(unit, "wait on the base that is current", func(u client.Unit) bool { return u.Base == "empty@x2" })
	}
	if unit := i.Units()["probe.runs"]; unit.Base != "empty@x1" {
		t.Errorf("what runs is on %s", unit.Base)
	}
	if same, err := os.Stat(i.Path("var/snap/probe/common/lazy")); err != nil || !os.SameFile(socket, same) {
		t.Errorf("the socket is another one: %v", err)
	}
	conn, err := unixdial.Dial(t.Context(), i.Path("var/snap/probe/common/lazy"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if answer, err := bufio.NewReader(conn).ReadString('\n'); err != nil || !strings.HasPrefix(answer, "main x1 ") {
		t.Errorf("the answer is %q: %v", answer, err)
	}
	if unit := i.Units()["probe.lazy"]; unit.Base != "empty@x2" || len(unit.Processes) != 1 {
		t.Errorf("who was waited for is served by %+v", unit)
	}
	i.Tenure("refresh", "--dangerous", base)
	i.Await("probe.timed", "wait on the base that is current", func(u client.Unit) bool { return u.Base == "empty@x3" })
	if unit := i.Units()["probe.lazy"]; unit.Base != "empty@x2" {
		t.Errorf("what runs is on %s", unit.Base)
	}
}

// emptyBase is the file of a base that has nothing in it.
func emptyBase(t *testing.T, i *rig.Instance) string {
	t.Helper()
	dir, file := t.TempDir(), filepath.Join(t.TempDir(), "empty.snap")
	if err := os.Mkdir(filepath.Join(dir, "meta"), 0o755); err != nil { //nolint:gosec // As in any snap.
		t.Fatal(err)
	}
	yaml := []byte("name: empty\nversion: '1'\ntype: base\n")
	if err := os.WriteFile(filepath.Join(dir, "meta/snap.yaml"), yaml, 0o644); err != nil { //nolint:gosec // As in any snap.
		t.Fatal(err)
	}
	i.Tenure("pack", "--compression", "lz4", dir, file)
	return file
}
