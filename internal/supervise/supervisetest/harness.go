package supervisetest

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"tenure"
	"tenure/internal/proc"
	"tenure/internal/supervise"
)

// Harness is a supervisor with what the law needs around it. It is made for one
// part of the law and cleaned up by the test that made it.
type Harness struct {
	Supervisor supervise.Supervisor
	// Exe is the path of the program that carries out Programs.
	Exe string
	// Spawn starts a program outside of the supervisor, for supervisors that can
	// track one.
	Spawn func(t *testing.T, p Program) tenure.Process
	// Connect opens a connection to a declared socket, and returns what is
	// answered, as soon as it is. The channel is closed when the connection ends.
	Connect func(t *testing.T, socket supervise.Socket) <-chan string
	// Recorded is what its Recorder was told so far.
	Recorded func() []supervise.Event
	// Heed has the supervisor ask an arbiter from now on. Before, it has none.
	Heed func(supervise.Arbiter)
	// Socket gives a socket that can be declared.
	Socket func(t *testing.T, name string) supervise.Socket
}

// Record keeps what a Recorder is told. The zero value is empty.
type Record struct {
	mu     sync.Mutex
	events []supervise.Event
}

// Add is a supervise.Recorder.
func (r *Record) Add(e supervise.Event) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.events = append(r.events, e)
}

// All is what was recorded so far.
func (r *Record) All() []supervise.Event {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.events)
}

// law is one part of the law while it is tested.
type law struct {
	t *testing.T
	Harness

	ctx    context.Context //nolint:containedctx // The test's own, with a bound.
	events chan supervise.Event
	seen   []supervise.Event
}

// patience bounds every part: what takes this long will never come.
const patience = 30 * time.Second

func begin(t *testing.T, h Harness) *law {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	l := &law{t: t, Harness: h, ctx: ctx, events: make(chan supervise.Event, 1024)}
	sequence := h.Supervisor.Events(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for e := range sequence {
			select {
			case l.events <- e:
			case <-ctx.Done():
			}
		}
	}()
	t.Cleanup(func() {
		cancel()
		<-done
	})
	return l
}

// unit names a service of a snap that is this part's own.
func unit(name string) tenure.UnitID { return tenure.ServiceUnit("law", tenure.App(name)) }

// spec is a service that runs p and is stopped as most are.
func (l *law) spec(name string, p Program, change ...func(*supervise.Spec)) supervise.Spec {
	p.Name = name
	spec := supervise.Spec{
		Unit: unit(name), Revision: tenure.LocalRevision(1), Type: supervise.Simple, Command: p.Command(l.Exe),
		Stop:    supervise.StopProtocol{Target: supervise.TargetGroup, Timeout: patience, Kill: supervise.KillAfterTimeout},
		Restart: supervise.RestartPolicy{Condition: supervise.RestartNever},
	}
	if p.Notify {
		spec.Type = supervise.Notify
	}
	for _, c := range change {
		c(&spec)
	}
	return spec
}

func (l *law) start(specs ...supervise.Spec) {
	l.t.Helper()
	if err := l.Supervisor.Start(l.ctx, specs...); err != nil {
		l.t.Fatalf("start: %v%s", err, logOf(err))
	}
}

func logOf(err error) string {
	if failed, ok := errors.AsType[*supervise.StartError](err); ok {
		return "\n\t" + strings.Join(failed.Log, "\n\t")
	}
	return ""
}

func (l *law) stop(units ...tenure.UnitID) supervise.Ended {
	l.t.Helper()
	ended, err := l.Supervisor.Stop(l.ctx, supervise.StopRequest{Units: units, Reason: tenure.ReasonStop})
	if err != nil {
		l.t.Fatalf("stop: %v", err)
	}
	return ended
}

func (l *law) status(id tenure.UnitID) supervise.Status {
	l.t.Helper()
	status, ok := l.known(id)
	if !ok {
		l.t.Fatalf("unit %s is not known", id)
	}
	return status
}

func (l *law) known(id tenure.UnitID) (supervise.Status, bool) {
	l.t.Helper()
	units, err := l.Supervisor.Units(l.ctx)
	if err != nil {
		l.t.Fatalf("units: %v", err)
	}
	at := slices.IndexFunc(units, func(s supervise.Status) bool { return s.Unit == id })
	if at < 0 {
		return supervise.Status{}, false
	}
	return units[at], true
}

func (l *law) inState(id tenure.UnitID, want supervise.State) supervise.Status {
	l.t.Helper()
	status := l.status(id)
	if status.State != want {
		l.t.Fatalf("%s is %s, want %s", id, status.State, want)
	}
	return status
}

func (l *law) processes(id tenure.UnitID) []proc.Info {
	l.t.Helper()
	infos, err := l.Supervisor.Processes(l.ctx, id)
	if err != nil {
		l.t.Fatalf("processes: %v", err)
	}
	return infos
}

// event waits for the next event that want is true of.
func (l *law) event(what string, want func(supervise.Event) bool) supervise.Event {
	l.t.Helper()
	for {
		select {
		case e := <-l.events:
			l.seen = append(l.seen, e)
			if want(e) {
				return e
			}
		case <-l.ctx.Done():
			l.t.Fatalf("no event: %s; seen: %+v", what, l.seen)
		}
	}
}

// becomes waits until a unit gets into a state after now.
func (l *law) becomes(id tenure.UnitID, state supervise.State) supervise.Event {
	l.t.Helper()
	return l.event(id.String()+" becomes "+string(state), func(e supervise.Event) bool {
		return e.Kind == supervise.EventState && e.Unit == id && e.State == state
	})
}

func (l *law) empty(id tenure.UnitID) {
	l.t.Helper()
	l.event(id.String()+" is empty", func(e supervise.Event) bool {
		return e.Kind == supervise.EventEmpty && e.Unit == id
	})
}
