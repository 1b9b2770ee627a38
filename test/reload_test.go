package test

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"syscall"
	"testing"

	"tenure/client"
	"tenure/test/rig"
)

// A service that reloads just now is told of the next revision when it has: it could not hear
// of it before.
func TestReloadingIsNotDisturbed(t *testing.T) {
	t.Parallel()
	i := rig.New(t, rig.Config{})
	version := func(number string) string {
		return probeSnap(t, i, probeYAML(number, `
server:
	daemon: notify
	command: PROBE trap renew obey notify:READY:1 run
	lifecycle: {refresh: reload}
`))
	}
	i.Tenure("install", "--dangerous", version("1"))
	main := i.Main("probe.server")
	if answer := order(t, i, "notify:RELOADING:1"); answer != "ok" {
		t.Fatal(answer)
	}
	i.Await("probe.server", "reloads", func(u client.Unit) bool { return u.State == "reloading" })

	id, err := i.Client().Do(t.Context(), client.Action{Action: "refresh", Files: []string{version("2")}, Dangerous: true})
	if err != nil {
		t.Fatal(err)
	}
	tells := func(task client.Task) bool { return task.Kind == "move-snap-services" && task.Status == "Doing" }
	var c client.Change
	for !slices.ContainsFunc(c.Tasks, tells) {
		if c, err = i.Client().Follow(t.Context(), id, c.Revision); err != nil || c.Ready {
			t.Fatalf("the refresh has ended while the service reloads: %s, %s, %v", c.Status, c.Err, err)
		}
	}
	// It may have become the next program before it has answered.
	if answer := order(t, i, "notify:READY:1"); answer != "ok" && answer != "" {
		t.Fatal(answer)
	}
	for !c.Ready {
		if c, err = i.Client().Follow(t.Context(), id, c.Revision); err != nil {
			t.Fatal(err)
		}
	}
	unit := i.Units()["probe.server"]
	if c.Status != "Done" || unit.Revision != "x2" || i.Main("probe.server") != main {
		t.Errorf("the refresh is %s, %s; %s is of %s as %v, before %v", c.Status, c.Err, unit.ID, unit.Revision, i.Main("probe.server"), main)
	}
}

// order has the service do a step, and returns what it answers.
func order(t *testing.T, i *rig.Instance, step string) string {
	t.Helper()
	var d net.Dialer
	conn, err := d.DialContext(t.Context(), "unix", i.Path("var/snap/probe/common/server.ask"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close() //nolint:errcheck // Everything has been read.
	if _, err := fmt.Fprintln(conn, step); err != nil {
		t.Fatal(err)
	}
	answer, err := bufio.NewReader(conn).ReadString('\n')
	if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, syscall.ECONNRESET) {
		t.Fatalf("%s: %q, %v", step, answer, err)
	}
	return strings.TrimSpace(answer)
}
