package test

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"

	"tenure/client"
	"tenure/examples/clients/unixdial"
	"tenure/test/rig"
)

// keeper is a service with a declared socket that has a descriptor kept, and says
// each time it is started what it was passed.
const keeper = `
svc:
	command: PROBE say:started passed store:kept notify:READY:1 serve run
	daemon: notify
	plugs: [network-bind]
	sockets:
		main:
			listen-stream: $SNAP_COMMON/main.sock
`

// TestCrashKeepsDescriptorsSocketsAndLogs kills the daemon at every boundary in the
// gap of a refresh. Clients that come while there is neither service nor daemon wait
// at the declared socket and are answered by the new revision; it is passed what the
// first one had kept; and no line of the log is lost.
func TestCrashKeepsDescriptorsSocketsAndLogs(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), 5*rig.Patience)
	defer cancel()
	s := &scene{Instance: rig.New(t, rig.Config{FailPoints: true}), t: t, snap: "probe", app: "svc", current: 1}
	heard := listen(t, s.Instance)
	file := probeSnap(t, s.Instance, probeYAML("1", keeper))
	s.Tenure("install", "--dangerous", file)
	s.lastChange++
	first := s.visit(ctx)
	if got := heard.next("svc"); got != "passed main" {
		t.Fatalf("the first one was %s", got)
	}
	kept := "kept=kept of " + first.pid

	s.Arm(0)
	s.refreshTo(ctx, file)
	s.visit(ctx)
	points := s.Disarm()
	heard.holds("svc", kept)
	starts := 2
	for n, point := range points {
		if !inGap(point) && point.Phase != "gap-end" {
			continue
		}
		s.Arm(n + 1)
		_, _ = s.Client().Do(ctx, client.Action{Action: "refresh", Files: []string{file}, Dangerous: true}) // It may die before it answers.
		select {
		case <-s.Ended():
		case <-ctx.Done():
			t.Fatalf("the daemon lives on at %v", point)
		}
		answer := make(chan visit, 1)
		go func() { answer <- s.visit(ctx) }()
		s.Start()
		if status, failure := s.settled(ctx); status != "Done" {
			t.Fatalf("after %v the change is %q: %s", point, status, failure)
		}
		s.current++
		got := <-answer
		// The old one lives at the first boundaries, and answers.
		if got.revision != x(s.current) && got.revision != x(s.current-1) {
			t.Errorf("after %v a client was answered by %q", point, got)
		}
		if got := s.visit(ctx); got.revision != x(s.current) {
			t.Errorf("after %v the service is %q", point, got)
		}
		heard.holds("svc", kept)
		starts++
	}
	lines := strings.Count(s.Tenure("logs", "-n", "all", "probe"), "started")
	if lines != starts {
		t.Errorf("the log tells of %d starts of %d", lines, starts)
	}
	t.Logf("%d deaths in the gap", starts-2)
}

// refreshTo refreshes and waits for the end.
func (s *scene) refreshTo(ctx context.Context, file string) {
	s.t.Helper()
	if _, err := s.Client().Do(ctx, client.Action{Action: "refresh", Files: []string{file}, Dangerous: true}); err != nil {
		s.t.Fatal(err)
	}
	if status, failure := s.settled(ctx); status != "Done" {
		s.t.Fatalf("the refresh is %q: %s", status, failure)
	}
	s.current++
}

// visit is what the keeper answers.
type visit struct{ revision, pid, err string }

// visit connects to the keeper's socket, which must never refuse.
func (s *scene) visit(ctx context.Context) (v visit) {
	conn, err := unixdial.Dial(ctx, s.Common(s.snap)+"/main.sock")
	if err != nil {
		return visit{err: err.Error()}
	}
	defer conn.Close() //nolint:errcheck // Read to its end.
	if deadline, ok := ctx.Deadline(); ok {
		err = conn.SetDeadline(deadline)
	}
	line, readErr := io.ReadAll(conn)
	if err != nil || readErr != nil {
		return visit{err: fmt.Sprint(err, readErr)}
	}
	if _, err := fmt.Sscanf(string(line), "main %s %s", &v.revision, &v.pid); err != nil {
		v.err = fmt.Sprintf("%q: %v", line, err)
	}
	return v
}

// holds takes the next report of what a probe was passed, which must have want in it.
func (r *trace) holds(name, want string) {
	r.t.Helper()
	got := r.next(name)
	if list := strings.Split(strings.TrimPrefix(got, "passed "), ","); !slices.Contains(list, want) {
		r.t.Errorf("%s: %s, want %s among it", name, got, want)
	}
}
