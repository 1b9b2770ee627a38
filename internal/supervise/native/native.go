package native

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"log/slog"
	"maps"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"tenure"
	"tenure/internal/change"
	"tenure/internal/clock"
	"tenure/internal/proc"
	"tenure/internal/sandbox"
	"tenure/internal/supervise"
	"tenure/internal/supervise/fdstore"
)

// Holder keeps what must survive the daemon; *fdstore.Client is one.
type Holder interface {
	Put(ctx context.Context, unit tenure.UnitID, kind fdstore.Kind, name string, f *os.File) error
	Get(ctx context.Context, unit tenure.UnitID) ([]fdstore.Kept, error)
	Known(ctx context.Context, kind fdstore.Kind) (map[tenure.UnitID][]fdstore.Kept, error)
	Remove(ctx context.Context, unit tenure.UnitID, kind fdstore.Kind, names ...string) error
	Log(ctx context.Context, unit tenure.UnitID) (*os.File, error)
	DropLogs(ctx context.Context, snap tenure.Instance) error
	DropLog(ctx context.Context, unit tenure.UnitID) error
}

// BusNames tells when a name is owned on the system bus; sysbus.Names is one.
type BusNames interface {
	// Await returns nil when a process owns name of which owner is true.
	Await(ctx context.Context, name string, owner func(pid int) bool) error
}

// Launch starts a program; sandbox.Start is one.
type Launch func(context.Context, sandbox.Profile, sandbox.Exec) (pid int, pidfd *os.File, err error)

// Config is what a Supervisor is made of.
type Config struct {
	// StateDir has the records, RuntimeDir what units see of the supervisor.
	// Both are made when they do not exist, and are below /run.
	StateDir, RuntimeDir string
	Hierarchy            *proc.Hierarchy
	Holder               Holder
	// Logs reads what units wrote. Without it there are no logs to read.
	Logs supervise.LogReader
	// BusNames is needed for units of type dbus. Without it they fail to start.
	BusNames BusNames
	// ExecHelper is the command that runs ExecListen, for units that are passed
	// descriptors: LISTEN_PID must be the pid of the process itself. It is
	// resolved in the unit's own namespace; the default, /proc/self/exe with
	// the argument "exec-listen", is the caller's own program everywhere.
	ExecHelper []string
	// Settle is how old a process that matches a workload's pattern must be to become
	// a unit while its service runs on, and ten times that where its parent is of the
	// service: one that goes to the background is then known by the process that
	// stays. The default is 200 ms.
	Settle time.Duration
	// Record, if set, is told of everything that happens when it does.
	Record supervise.Recorder
	// Terms says on which terms units end that nobody has asked to end. Without it
	// their own protocols hold.
	Terms supervise.Arbiter
	// Now and Wait are the clock on the wall, which goes where people set it: it says when
	// timers go off, and nothing else. The defaults are time.Now and clock.Wait.
	Now  func() time.Time
	Wait func(ctx context.Context, until time.Time) error
	// Launch defaults to sandbox.Start. With another one nothing is prepared.
	Launch Launch
	// Host, if set, starts and keeps all processes. Launch is not used then, and groups are
	// those that it names, two levels below the Hierarchy.
	Host   Host
	Logger *slog.Logger
}

// Supervisor is the native one.
type Supervisor struct {
	cfg Config
	// prepares is set when sandbox launches. forerunner is the Host, if it prepares starts.
	prepares   bool
	forerunner Forerunner
	records    records
	bus        *bus
	boot       string
	watcher    *proc.Watcher
	nursery    nursery
	// short is that the last start found no room for a process.
	short atomic.Bool
	gaps  gaps
	ears  ears
	// common has what units are alike in.
	common common
	// life is the context of Run: that of everything that lasts.
	life context.Context //nolint:containedctx // Set once, before anything else runs.
	// ready is closed when everything is adopted, ended when Run has returned.
	ready, ended chan struct{}
	begun        sync.Once
	wg           sync.WaitGroup

	mu    sync.Mutex
	units map[tenure.UnitID]*unit
}

var (
	_ supervise.Supervisor = (*Supervisor)(nil)
	_ supervise.Tracker    = (*Supervisor)(nil)
	_ supervise.LogReader  = (*Supervisor)(nil)
	_ supervise.LogKeeper  = (*Supervisor)(nil)
	_ supervise.Preparer   = (*Supervisor)(nil)
	_ supervise.Locator    = (*Supervisor)(nil)
	_ supervise.Splitter   = (*Supervisor)(nil)
	_ supervise.Overlapper = (*Supervisor)(nil)
	_ supervise.Brancher   = (*Supervisor)(nil)
)

// ErrEnded is that the supervisor does not run any more; its units may.
var ErrEnded = errors.New("supervisor has ended")

// New makes a supervisor that does nothing before Run.
func New(cfg Config) (*Supervisor, error) {
	if cfg.StateDir == "" || cfg.RuntimeDir == "" || cfg.Hierarchy == nil || cfg.Holder == nil {
		return nil, fmt.Errorf("new supervisor: StateDir, RuntimeDir, Hierarchy and Holder are needed: %w", fs.ErrInvalid)
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	prepares := cfg.Launch == nil && cfg.Host == nil
	if cfg.Launch == nil {
		cfg.Launch = sandbox.Start
	}
	if cfg.Now == nil {
		cfg.Now, cfg.Wait = time.Now, clock.Wait
	}
	if cfg.Settle == 0 {
		cfg.Settle = defaultSettle
	}
	if cfg.Terms == nil {
		cfg.Terms = func(context.Context, tenure.UnitID) (supervise.Terms, error) { return supervise.Terms{}, nil }
	}
	if cfg.ExecHelper == nil {
		cfg.ExecHelper = []string{"/proc/self/exe", "exec-listen"}
	}
	for _, dir := range []string{cfg.StateDir, cfg.RuntimeDir} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return nil, fmt.Errorf("new supervisor: %w", err)
		}
	}
	boot, err := proc.BootID()
	if err != nil {
		return nil, fmt.Errorf("new supervisor: %w", err)
	}
	s := &Supervisor{
		cfg: cfg, prepares: prepares, records: records{cfg.StateDir}, bus: newBus(), boot: boot,
		ready: make(chan struct{}), ended: make(chan struct{}),
		units: make(map[tenure.UnitID]*unit),
	}
	s.nursery.s = s
	s.forerunner, _ = cfg.Host.(Forerunner)
	return s, nil
}

// Run adopts everything that an earlier supervisor left, and supervises until
// ctx ends. Then it returns and touches nothing: the units go on, and are
// found by the next one. It can be called once.
func (s *Supervisor) Run(ctx context.Context) error {
	first := false
	s.begun.Do(func() { first = true })
	if !first {
		return ErrEnded
	}
	defer close(s.ended)
	ctx, cancel := context.WithCancel(ctx)
	s.life = ctx
	var err error
	if s.watcher, err = s.cfg.Hierarchy.Watch(ctx); err != nil {
		cancel()
		return fmt.Errorf("run supervisor: %w", err)
	}
	defer s.wg.Wait()
	defer func() { <-s.watcher.Done() }()
	defer cancel()
	if err := s.adopt(ctx); err != nil {
		return fmt.Errorf("run supervisor: %w", err)
	}
	close(s.ready)
	<-ctx.Done()
	return nil
}

// Ready is closed when everything has been adopted. Requests that are made
// before wait for it.
func (s *Supervisor) Ready() <-chan struct{} { return s.ready }

// await waits for adoption.
func (s *Supervisor) await(ctx context.Context) error {
	select {
	case <-s.ready:
		return nil
	default:
	}
	select {
	case <-s.ready:
		return nil
	case <-s.ended:
		return ErrEnded
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// find is the unit of that name, if it is known.
func (s *Supervisor) find(id tenure.UnitID) (*unit, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	u, ok := s.units[id]
	return u, ok
}

// add makes u known, unless another one has its name.
func (s *Supervisor) add(u *unit) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, taken := s.units[u.name()]; taken {
		return false
	}
	s.units[u.name()] = u
	return true
}

func (s *Supervisor) drop(u *unit) {
	s.mu.Lock()
	defer s.mu.Unlock()
	maps.DeleteFunc(s.units, func(_ tenure.UnitID, known *unit) bool { return known == u })
}

func (s *Supervisor) all() []*unit {
	s.mu.Lock()
	defer s.mu.Unlock()
	units := make([]*unit, 0, len(s.units))
	for _, u := range s.units {
		units = append(units, u)
	}
	return units
}

// request sends a message to a unit and waits for the answer. A unit that is
// forgotten before it comes to the message counts as not known, and one that has
// another name by then is not the one that was asked.
func request[T any](ctx context.Context, s *Supervisor, id tenure.UnitID, m func(*unit, context.Context, chan<- T)) (answer T, known bool, err error) {
	for {
		u, ok := s.find(id)
		if !ok {
			return answer, false, nil
		}
		reply, by := make(chan T, 1), change.IDFrom(ctx)
		err := u.tell(ctx, func(ctx context.Context) {
			if u.id != id {
				close(reply)
				return
			}
			u.by = by
			m(u, ctx, reply)
		})
		if err == nil {
			answer, err = await(ctx, u, reply)
		}
		if !errors.Is(err, errForgotten) {
			return answer, true, err
		}
	}
}

// requestKnown is request, of a unit that has to be known.
func requestKnown[T any](ctx context.Context, s *Supervisor, id tenure.UnitID, m func(*unit, context.Context, chan<- T)) (answer T, err error) {
	answer, known, err := request(ctx, s, id, m)
	if err == nil && !known {
		err = supervise.ErrUnknown
	}
	return answer, err
}

func await[T any](ctx context.Context, u *unit, reply <-chan T) (answer T, err error) {
	select {
	case answer, ok := <-reply:
		return answer, forgotten(!ok)
	case <-ctx.Done():
		return answer, context.Cause(ctx)
	case <-u.s.ended:
		return answer, ErrEnded
	case <-u.gone:
	}
	select {
	case answer, ok := <-reply:
		return answer, forgotten(!ok)
	case <-u.s.ended:
		return answer, ErrEnded
	default:
		return answer, errForgotten
	}
}

// forgotten is errForgotten if that is so.
func forgotten(really bool) error {
	if really {
		return errForgotten
	}
	return nil
}

// Reload implements supervise.Supervisor.
func (s *Supervisor) Reload(ctx context.Context, req supervise.ReloadRequest) error {
	id := req.Spec.Unit
	err := s.await(ctx)
	if err == nil {
		err = check(&req.Spec)
	}
	if err == nil {
		var failure error
		failure, err = requestKnown(ctx, s, id, func(u *unit, ctx context.Context, reply chan<- error) { u.reload(ctx, req, reply) })
		err = errors.Join(err, failure)
	}
	if err != nil {
		return fmt.Errorf("reload %s: %w", id, err)
	}
	return nil
}

// Units implements supervise.Supervisor.
func (s *Supervisor) Units(ctx context.Context) ([]supervise.Status, error) {
	if err := s.await(ctx); err != nil {
		return nil, fmt.Errorf("list units: %w", err)
	}
	units := s.all()
	known := make([]*published, len(units))
	for i, u := range units {
		known[i] = u.status.Load()
	}
	slices.SortFunc(known, func(a, b *published) int { return strings.Compare(a.name, b.name) })
	list := make([]supervise.Status, len(known))
	for i, status := range known {
		list[i] = status.Status
	}
	return list, nil
}

// Processes implements supervise.Supervisor.
func (s *Supervisor) Processes(ctx context.Context, id tenure.UnitID) ([]proc.Info, error) {
	type result struct {
		infos []proc.Info
		err   error
	}
	err := s.await(ctx)
	var r result
	if err == nil {
		r, err = requestKnown(ctx, s, id, func(u *unit, _ context.Context, reply chan<- result) {
			infos, err := u.processes()
			reply <- result{infos, err}
		})
		err = errors.Join(err, r.err)
	}
	if err != nil {
		return nil, fmt.Errorf("processes of %s: %w", id, err)
	}
	return r.infos, nil
}

// Events implements supervise.Supervisor.
func (s *Supervisor) Events(ctx context.Context) iter.Seq[supervise.Event] {
	return s.bus.subscribe(ctx)
}

// Forget implements supervise.Supervisor. A unit that is not known is forgotten
// already.
func (s *Supervisor) Forget(ctx context.Context, ids ...tenure.UnitID) error {
	if err := s.await(ctx); err != nil {
		return fmt.Errorf("forget: %w", err)
	}
	var errs []error
	for _, id := range ids {
		failure, _, err := request(ctx, s, id, func(u *unit, ctx context.Context, reply chan<- error) { reply <- u.forget(ctx) })
		err = errors.Join(err, failure)
		if err != nil {
			errs = append(errs, fmt.Errorf("forget %s: %w", id, err))
		}
	}
	return errors.Join(errs...)
}

// Logs implements supervise.LogReader.
func (s *Supervisor) Logs(ctx context.Context, units []tenure.UnitID, n int, follow bool) iter.Seq2[supervise.LogLine, error] {
	if s.cfg.Logs == nil {
		return func(func(supervise.LogLine, error) bool) {}
	}
	return s.cfg.Logs.Logs(ctx, units, n, follow)
}

// DropLogs implements supervise.LogKeeper.
func (s *Supervisor) DropLogs(ctx context.Context, snap tenure.Instance) error {
	return s.cfg.Holder.DropLogs(ctx, snap)
}

// UnitOf is the unit that a process in the control group (an absolute path)
// belongs to: the one whose group it is, or the nearest one around it. Commands
// that run for a unit count as the unit.
func (s *Supervisor) UnitOf(group string) (tenure.UnitID, bool) {
	if owner, ok := s.owner(group); ok {
		return owner, true
	}
	rel, ok := proc.GroupAt(group).Rel(s.cfg.Hierarchy)
	if !ok {
		return tenure.UnitID{}, false
	}
	return s.unitOfGroup(rel)
}

// UnitOfProcess implements supervise.Locator.
func (s *Supervisor) UnitOfProcess(h *proc.Handle) (unit tenure.UnitID, found bool, err error) {
	group, err := s.cfg.Hierarchy.GroupOf(h.Process().PID)
	if err == nil {
		// What was read is the process's own if it is still there.
		err = h.Signal(0)
	}
	if err != nil {
		return tenure.UnitID{}, false, err
	}
	unit, found = s.UnitOf(group.Path())
	return unit, found, nil
}

// owner is the living unit that has the group, or the nearest one around it.
func (s *Supervisor) owner(group string) (found tenure.UnitID, ok bool) {
	nearest := ""
	for _, u := range s.all() {
		for _, own := range u.ownGroups() {
			if (group == own || strings.HasPrefix(group, own+"/")) && len(own) > len(nearest) {
				found, nearest = u.name(), own
			}
		}
	}
	return found, nearest != ""
}

// logTail is the end of what a unit wrote since it was started.
func (s *Supervisor) logTail(ctx context.Context, id tenure.UnitID, since time.Time) []string {
	const lines = 5
	if s.cfg.Logs == nil {
		return nil
	}
	// What a process wrote just before it ended is still on its way to the log:
	// nobody says when it has arrived, but it is not far. The log of a host is asked for that.
	follow, patience := true, 200*time.Millisecond
	if s.cfg.Host != nil {
		follow, patience = false, 5*time.Second
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	var tail []string
	for line, err := range s.cfg.Logs.Logs(ctx, []tenure.UnitID{id}, lines, follow) {
		if err != nil {
			break
		}
		if !line.Time.Before(since) {
			tail = append(tail, line.Text)
		}
	}
	return tail[max(0, len(tail)-lines):]
}

// signalNumber reads the name of a signal; empty is SIGTERM.
func signalNumber(name string) (syscall.Signal, error) {
	if name == "" {
		return syscall.SIGTERM, nil
	}
	return parseSignal(name)
}
