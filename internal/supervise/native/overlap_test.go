package native

import (
	"encoding/json"
	"errors"
	"net"
	"os"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"tenure"
	"tenure/internal/proc"
	"tenure/internal/supervise"
	"tenure/internal/supervise/fdstore"
	"tenure/internal/supervise/supervisetest"
)

// generations are two of one service, with a socket.
func generations(t *testing.T, r *root) (old, next supervise.Spec) {
	t.Helper()
	program := supervisetest.Program{Notify: true, Serve: true, Reload: "heard", TermCode: 7}
	socket := supervise.Socket{Name: "main", Network: "unix", Address: r.path("main.sock")}
	declare := func(n int) func(*supervise.Spec) {
		return func(s *supervise.Spec) {
			s.Sockets, s.Revision = []supervise.Socket{socket}, tenure.LocalRevision(n)
		}
	}
	return service(t, "server", program, declare(1)), service(t, "server", program, declare(2))
}

// overlapping starts the old generation, and the next one beside it.
func overlapping(t *testing.T, s *Supervisor, old, next supervise.Spec) (before, heir supervise.Status) {
	t.Helper()
	if err := s.Start(t.Context(), old); err != nil {
		t.Fatal(err)
	}
	conn, err := net.Dial("unix", old.Sockets[0].Address)
	if err != nil {
		t.Fatal(err)
	}
	_ = conn.Close()
	before = until(t, s, old.Unit, func(s supervise.Status) bool { return s.State == supervise.Running })
	if err := s.Succeed(t.Context(), next); err != nil {
		t.Fatal(err)
	}
	return before, s.heirOf(old.Unit).status.Load().Status
}

// signalTo sends a signal to a process.
func signalTo(t *testing.T, process tenure.Process, number syscall.Signal) {
	t.Helper()
	handle, err := proc.Open(process)
	if err != nil {
		t.Fatal(err)
	}
	defer handle.Close()
	if err := handle.Signal(number); err != nil {
		t.Fatal(err)
	}
}

// said waits until a unit says what a signal makes it say.
func said(t *testing.T, s *Supervisor, status supervise.Status) {
	t.Helper()
	signalTo(t, status.Main, syscall.SIGHUP)
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for statusOf(t, s, status.Unit).Text != "heard" {
		select {
		case <-tick.C: // Of a text there is no event.
		case <-t.Context().Done():
			t.Fatalf("%s was not heard", status.Unit)
		}
	}
}

// stopAll ends units, and checks how their main processes did.
func stopAll(t *testing.T, s *Supervisor, units ...tenure.UnitID) {
	t.Helper()
	ended, err := s.Stop(t.Context(), supervise.StopRequest{Units: units})
	if err != nil {
		t.Error(err)
	}
	for _, id := range units {
		if exit := ended.Exits[id]; exit.Code != 7 {
			t.Errorf("%s: exit %s, want 7", id, exit)
		}
	}
}

// Each generation is heard by its own socket, before and after a hand-over, and by
// the next supervisor.
func TestGenerationsAreHeard(t *testing.T) {
	t.Parallel()
	r := newRoot(t)
	first, end := r.run(t)
	old, next := generations(t, r)
	before, heir := overlapping(t, first, old, next)
	said(t, first, heir)
	if text := statusOf(t, first, old.Unit).Text; text != "" {
		t.Errorf("the service said %q", text)
	}
	draining, err := first.TakeOver(t.Context(), old.Unit, time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	end()
	s := r.supervisor(t)
	now, rest := statusOf(t, s, old.Unit), statusOf(t, s, draining)
	if now.Main != heir.Main || now.Revision != next.Revision || rest.Main != before.Main || rest.Revision != old.Revision {
		t.Errorf("adopted %+v and %+v, want %+v and %+v", now, rest, heir, before)
	}
	said(t, s, rest)
	stopAll(t, s, draining)
	if _, err := os.Stat(old.Sockets[0].Address); err != nil {
		t.Errorf("the socket went with what drained: %v", err)
	}
	if now := statusOf(t, s, old.Unit); now.Main != heir.Main || now.State != supervise.Running {
		t.Errorf("the service is %+v", now)
	}
	stopAll(t, s, old.Unit)
}

// A successor that is there when the supervisor dies is there for the next one.
func TestAdoptASuccessor(t *testing.T) {
	t.Parallel()
	r := newRoot(t)
	first, end := r.run(t)
	old, next := generations(t, r)
	before, heir := overlapping(t, first, old, next)
	end()
	s := r.supervisor(t)
	if err := s.Succeed(t.Context(), next); err != nil {
		t.Fatal(err)
	}
	draining, err := s.TakeOver(t.Context(), old.Unit, 0)
	if err != nil {
		t.Fatal(err)
	}
	if now, rest := statusOf(t, s, old.Unit), statusOf(t, s, draining); now.Main != heir.Main || rest.Main != before.Main {
		t.Errorf("after the hand-over %+v and %+v, want %+v and %+v", now, rest, heir, before)
	}
	stopAll(t, s, draining, old.Unit)
}

// What had drained when the supervisor died, and was not forgotten yet, is forgotten by the next one.
func TestAdoptWhatHasDrained(t *testing.T) {
	t.Parallel()
	r := newRoot(t)
	first, end := r.run(t)
	old, next := generations(t, r)
	overlapping(t, first, old, next)
	draining, err := first.TakeOver(t.Context(), old.Unit, 0)
	if err != nil {
		t.Fatal(err)
	}
	files := records{r.path("units")}
	rec, err := readRecord(files.path(draining))
	if err != nil {
		t.Fatal(err)
	}
	stopAll(t, first, draining)
	end()
	rec.State, rec.Ending, rec.Main = supervise.Inactive, nil, tenure.Process{}
	if err := files.save(rec); err != nil {
		t.Fatal(err)
	}
	s := r.supervisor(t)
	if _, known := s.find(draining); known {
		t.Errorf("%s is still known", draining)
	}
	if _, err := os.Stat(files.path(draining)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the record of %s is left: %v", draining, err)
	}
	stopAll(t, s, old.Unit)
}

// Whenever a supervisor dies while the records are exchanged, the next one makes
// the same of them.
func TestResumeHandOver(t *testing.T) {
	t.Parallel()
	for name, keep := range map[string]struct{ service, successor bool }{
		"draining is written":     {service: false, successor: true},
		"the service is written":  {service: true, successor: true},
		"the successor had ended": {service: false, successor: false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRoot(t)
			first, end := r.run(t)
			old, next := generations(t, r)
			before, heir := overlapping(t, first, old, next)
			files := records{r.path("units")}
			paths := []string{files.path(old.Unit), files.path(heir.Unit)}
			texts := make([][]byte, len(paths))
			for i, path := range paths {
				text, err := os.ReadFile(path)
				if err != nil {
					t.Fatal(err)
				}
				texts[i] = text
			}
			draining, err := first.TakeOver(t.Context(), old.Unit, 0)
			if err != nil {
				t.Fatal(err)
			}
			end()
			for i, back := range []bool{!keep.service, keep.successor} {
				if back {
					if err := os.WriteFile(paths[i], texts[i], 0o600); err != nil {
						t.Fatal(err)
					}
				}
			}
			if !keep.successor {
				signalTo(t, heir.Main, syscall.SIGKILL)
			}
			s := r.supervisor(t)
			if rest := statusOf(t, s, draining); rest.Main != before.Main || rest.State != supervise.Running {
				t.Errorf("what drains is %+v, want %+v", rest, before)
			}
			if s.heirOf(old.Unit) != nil {
				t.Error("the successor is still one")
			}
			if !keep.successor {
				until(t, s, old.Unit, func(s supervise.Status) bool { return !s.State.Alive() })
				stopAll(t, s, draining)
				return
			}
			if now := statusOf(t, s, old.Unit); now.Main != heir.Main || now.Revision != next.Revision || now.Spec.Unit != old.Unit {
				t.Errorf("the service is %+v, want %+v", now, heir)
			}
			stopAll(t, s, draining, old.Unit)
		})
	}
}

// recorded are the names of what the record of a unit says is kept.
func recorded(t *testing.T, r *root, unit tenure.UnitID) (names []string) {
	t.Helper()
	text, err := os.ReadFile(records{r.path("units")}.path(unit))
	var rec record
	if err == nil {
		err = json.Unmarshal(text, &rec)
	}
	if err != nil {
		t.Fatal(err)
	}
	for _, k := range rec.Kept {
		names = append(names, k.Name)
	}
	slices.Sort(names)
	return names
}

// What is kept for a service goes to its successor by the names that it uses, also where a supervisor died on the way.
func TestResumeHandOverOfWhatIsKept(t *testing.T) {
	t.Parallel()
	listen := func(name string, inode uint64) keptFile {
		return keptFile{Kind: fdstore.Listen, Name: name, File: fileID{Inode: inode, Mode: unix.S_IFSOCK}}
	}
	stored := keptFile{Kind: fdstore.Stored, Name: "main", File: fileID{Inode: 3, Mode: unix.S_IFREG}}
	old := tenure.UnitID{Snap: "server", Kind: tenure.Service, App: "server"}
	of := func(unit tenure.UnitID) *supervise.Spec { return &supervise.Spec{Unit: unit} }
	heir := &record{
		Spec: of(old.Workload(tenure.Successor, 2)), Heir: true, Group: "new", Shared: map[string]string{"renamed": "main"},
		Kept: []keptFile{listen("other", 4)},
	}
	recs, stale := resumeHandOvers([]*record{
		{Spec: of(old), Group: "old", Kept: []keptFile{listen("main", 1), listen("gone", 2), stored}},
		heir,
		{Spec: of(old.Workload(tenure.Draining, 1)), Draining: true, Group: "old"},
	})
	want := []keptFile{listen("other", 4), listen("renamed", 1), stored}
	if diff := cmp.Diff(want, heir.Kept); diff != "" || len(recs) != 2 || len(stale) != 1 {
		t.Errorf("%d records, %v stale; (-want +got):\n%s", len(recs), stale, diff)
	}
}

// A socket at another address is opened for the successor, and one that is
// declared no more is closed when it has taken over.
func TestSocketsOfASuccessor(t *testing.T) {
	t.Parallel()
	r := newRoot(t)
	s := r.supervisor(t)
	old, next := generations(t, r)
	other := supervise.Socket{Name: "other", Network: "unix", Address: r.path("other.sock")}
	renamed := next.Sockets[0]
	renamed.Name = "renamed"
	old.Sockets = append(old.Sockets, supervise.Socket{Name: "gone", Network: "unix", Address: r.path("gone.sock")})
	next.Sockets = []supervise.Socket{other, renamed}
	overlapping(t, s, old, next)
	draining, err := s.TakeOver(t.Context(), old.Unit, 0)
	if err != nil {
		t.Fatal(err)
	}
	for unit, want := range map[tenure.UnitID][]string{old.Unit: {"other", "renamed"}, draining: nil} {
		if diff := cmp.Diff(want, recorded(t, r, unit)); diff != "" {
			t.Errorf("recorded as kept for %s (-want +got):\n%s", unit, diff)
		}
	}
	stopAll(t, s, draining)
	for _, socket := range next.Sockets {
		if answer := <-supervisetest.Connect(t, socket); answer == "" {
			t.Errorf("no answer on %s", socket.Name)
		}
	}
	if _, err := os.Stat(r.path("gone.sock")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("socket that is declared no more: %v", err)
	}
	kept, err := r.holder.Get(t.Context(), old.Unit)
	if err != nil {
		t.Fatal(err)
	}
	names := map[string]int{}
	for _, k := range kept {
		names[string(k.Kind)+" "+k.Name]++
		_ = k.File.Close()
	}
	if len(names) != 3 || names["listen other"] != 1 || names["listen renamed"] != 1 {
		t.Errorf("kept %v, want the two sockets and the notify socket", names)
	}
	stopAll(t, s, old.Unit)
}
