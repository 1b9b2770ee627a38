package native

import (
	"context"
	"os"
	"slices"
	"testing"
	"time"

	"tenure"
	"tenure/internal/proc"
	"tenure/internal/supervise"
	"tenure/internal/supervise/supervisetest"
)

// given is an arbiter that says the same of every unit, when it may answer.
func given(terms supervise.Terms, when <-chan struct{}) supervise.Arbiter {
	return func(ctx context.Context, _ tenure.UnitID) (supervise.Terms, error) {
		select {
		case <-when:
			return terms, nil
		case <-ctx.Done():
			return supervise.Terms{}, context.Cause(ctx)
		}
	}
}

func atOnce() <-chan struct{} {
	when := make(chan struct{})
	close(when)
	return when
}

// commands are the signals to commands of a unit.
func (r *root) commands(id tenure.UnitID) (sent []string) {
	for _, e := range r.record.All() {
		if e.Kind == supervise.EventSignal && e.Unit == id && e.Helper != "" {
			sent = append(sent, e.Signal+" "+e.Helper+" "+string(e.Cause))
		}
	}
	return sent
}

// leaving is a command that ends at once and leaves a child behind that ignores SIGTERM.
func leaving(t *testing.T) *supervise.Command {
	t.Helper()
	child := supervisetest.Program{Name: "remnant", IgnoreTerm: true}
	command := supervisetest.Program{Name: "command", Exits: true, Children: []supervisetest.Program{child}}.Command(supervisetest.Executable(t))
	return &command
}

// splitOf waits until something has come out of a unit.
func splitOf(t *testing.T, s *Supervisor, id tenure.UnitID) tenure.UnitID {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	events := s.Events(ctx)
	find := func() (found tenure.UnitID) {
		for _, u := range s.all() {
			if u.name() != id && u.name().Service() == id {
				found = u.name()
			}
		}
		return found
	}
	if found := find(); !found.IsZero() {
		return found
	}
	for range events {
		if found := find(); !found.IsZero() {
			return found
		}
	}
	t.Fatalf("nothing has come out of %s", id)
	return tenure.UnitID{}
}

// What a reload command leaves behind is killed if the terms of its unit allow it. If
// they forbid it, it is told to end, and a unit of its own when it does not.
func TestCommandsAreDroppedOnTerms(t *testing.T) {
	t.Parallel()
	r := newRoot(t)
	s := r.supervisor(t)
	for name, kill := range map[string]supervise.Kill{"never": supervise.KillNever, "after": supervise.KillAfterTimeout} {
		r.arbiter.Heed(given(supervise.Terms{Kill: kill, Timeout: 30 * time.Millisecond}, atOnce()))
		spec := service(t, name, supervisetest.Program{Notify: true}, func(s *supervise.Spec) { s.Reload = leaving(t) })
		if kill == supervise.KillAfterTimeout {
			spec.Stop.Kill = supervise.KillNever
		}
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		events := s.Events(ctx)
		if err := s.Start(t.Context(), spec); err != nil {
			t.Fatal(err)
		}
		main := statusOf(t, s, spec.Unit).Main
		if err := s.Reload(t.Context(), supervise.ReloadRequest{Spec: spec, Reason: tenure.ReasonRefresh}); err != nil {
			t.Fatal(err)
		}
		want := "SIGTERM reload exit"
		if kill == supervise.KillAfterTimeout {
			want = "SIGKILL reload exit"
		}
		for e := range events {
			if e.Unit == spec.Unit && e.Helper != "" {
				break
			}
		}
		if kill == supervise.KillNever {
			remnant := splitOf(t, s, spec.Unit)
			if infos, err := s.Processes(t.Context(), remnant); err != nil || len(infos) != 1 {
				t.Errorf("processes of %s: %+v, %v", remnant, infos, err)
			}
			stop := supervise.StopRequest{Units: []tenure.UnitID{remnant}, Kill: true, Limit: 30 * time.Millisecond}
			if ended, err := s.Stop(t.Context(), stop); err != nil || !slices.Equal(ended.Killed, stop.Units) {
				t.Errorf("stop of %s by order: %+v, %v", remnant, ended, err)
			}
		}
		if sent := r.commands(spec.Unit); !slices.Equal(sent, []string{want}) {
			t.Errorf("%s: its command was sent %v, want %s", name, sent, want)
		}
		if status := statusOf(t, s, spec.Unit); status.State != supervise.Running || status.Main != main {
			t.Errorf("%s: after the reload: %+v", name, status)
		}
	}
}

// A unit may be forgotten before it is known what becomes of what its command has left.
func TestCommandsOfTheForgotten(t *testing.T) {
	t.Parallel()
	r := newRoot(t)
	s := r.supervisor(t)
	when := make(chan struct{})
	r.arbiter.Heed(given(supervise.Terms{}, when))
	spec := service(t, "forgotten", supervisetest.Program{Exits: true}, func(s *supervise.Spec) { s.PostStop = leaving(t) })
	if err := s.Start(t.Context(), spec); err != nil {
		t.Fatal(err)
	}
	until(t, s, spec.Unit, func(s supervise.Status) bool { return s.State == supervise.Inactive })
	if err := s.Forget(t.Context(), spec.Unit); err != nil {
		t.Fatal(err)
	}
	group := proc.GroupAt(r.hierarchy.Path())
	if infos, err := group.Processes(); err != nil || len(infos) != 1 {
		t.Errorf("processes %+v, %v, want the remnant", infos, err)
	}
	close(when)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if err := group.AwaitEmpty(ctx); err != nil {
		t.Error(err)
	}
	if sent := r.commands(spec.Unit); !slices.Equal(sent, []string{"SIGKILL post exit"}) {
		t.Errorf("its command was sent %v", sent)
	}
}

// Where a supervisor ended before it had an answer, the next one asks.
func TestTermsAreAskedAgain(t *testing.T) {
	t.Parallel()
	for name, kill := range map[string]supervise.Kill{"never": supervise.KillNever, "after": supervise.KillAfterTimeout} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRoot(t)
			r.arbiter.Heed(given(supervise.Terms{}, nil))
			s, end := r.run(t)
			backend := supervisetest.Program{Name: "backend", IgnoreTerm: true}
			spec := service(t, name, supervisetest.Program{Notify: true, Exits: true, Code: 1, Children: []supervisetest.Program{backend}},
				func(s *supervise.Spec) { s.Stop.Timeout = 30 * time.Millisecond })
			if err := s.Start(t.Context(), spec); err != nil {
				t.Fatal(err)
			}
			until(t, s, spec.Unit, func(s supervise.Status) bool { return s.State == supervise.Stopping })
			graceOver(t, s, spec.Unit)
			end()
			r.arbiter.Heed(given(supervise.Terms{Kill: kill}, atOnce()))
			s = r.supervisor(t)
			until(t, s, spec.Unit, func(s supervise.Status) bool { return s.State == supervise.Failed })
			killed := slices.ContainsFunc(r.record.All(), func(e supervise.Event) bool { return e.Signal == "SIGKILL" })
			if killed != (kill == supervise.KillAfterTimeout) {
				t.Errorf("SIGKILL was sent: %v", killed)
			}
			if !killed {
				splitOf(t, s, spec.Unit)
			}
		})
	}
}

// graceOver waits until the grace period of a unit that waits for its terms is over.
func graceOver(t *testing.T, s *Supervisor, id tenure.UnitID) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	u, _ := s.find(id)
	for over := false; !over; {
		heard := make(chan struct{})
		err := u.tell(ctx, func(context.Context) {
			defer close(heard)
			_, set := u.rec.Deadline[alarmStop]
			over = u.rec.Ending != nil && u.rec.Ending.asked && !set
		})
		if err != nil {
			t.Fatalf("the grace period of %s goes on: %v", id, err)
		}
		<-heard
		if ctx.Err() != nil {
			t.Fatalf("the grace period of %s goes on", id)
		}
	}
}

// MAINPID is of a process of the unit, or of none.
func TestMainIsTheUnitsOwn(t *testing.T) {
	t.Parallel()
	s := newRoot(t).supervisor(t)
	spec := service(t, "own", supervisetest.Program{Notify: true})
	if err := s.Start(t.Context(), spec); err != nil {
		t.Fatal(err)
	}
	before := statusOf(t, s, spec.Unit).Main
	u, _ := s.find(spec.Unit)
	heard := make(chan struct{})
	err := u.tell(t.Context(), func(context.Context) {
		defer close(heard)
		u.changeMain(os.Getpid())
		u.changeMain(1 << 23) // Nobody's.
	})
	if err != nil {
		t.Fatal(err)
	}
	<-heard
	if after := statusOf(t, s, spec.Unit).Main; after != before {
		t.Errorf("the main process is %v, before %v", after, before)
	}
}
