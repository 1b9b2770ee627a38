package systemd

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"tenure"
	"tenure/internal/proc"
	"tenure/internal/supervise"
	"tenure/internal/supervise/native"
)

// launchPatience bounds the time between a start and the first word of what was started.
const launchPatience = time.Minute

// host is native.Host: it has systemd start what the supervisor wants started.
type host struct {
	names     names
	hierarchy *proc.Hierarchy
	files     *files
	bus       *bus
	program   []string
	socket    string
	state     string
	boot      string
	early     bool
	lasting   bool
	logger    *slog.Logger
	life      context.Context //nolint:containedctx // That of the supervisor.

	gap gap

	mu sync.Mutex
	// places are what the groups are for that have been named, by their paths.
	places map[string]*place
	// serving is the generation that each service is.
	serving map[tenure.UnitID]generation
	// numbers are the last ones that were given to generations.
	numbers map[tenure.UnitID]int
	// expected is where the first word of what is being started is waited for, by the
	// names of units; come are those who have come by themselves.
	expected, come map[string]chan *caller
	// closing is the closing of what services had declared: under way, or failed and not told to anybody.
	closing map[tenure.UnitID]*closing

	doorMu sync.Mutex
	// within tells of directories whether socket files in them are for systemd to open.
	within map[string]bool
}

// generation is a unit file.
type generation struct {
	name string
	spec *supervise.Spec
}

// place is a group that has been named.
type place struct {
	native.Place

	name  string
	group proc.Group
	// kept is that the unit has a file: it is there when it does not run.
	kept bool
	// release is under way when the unit has ended and systemd is to know; nil before.
	release *release
	// launches counts what was launched in it; again is closed by the next launch.
	launches int
	again    chan struct{}
	// ended is that no process of the unit is left, launching that the next one is not there yet.
	ended, launching bool
	// waiting is who was started ahead; nil for nobody.
	waiting *caller
}

// Fresh implements native.Host.
func (h *host) Fresh(p native.Place) (proc.Group, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	pl := &place{Place: p}
	switch {
	case p.Command != "":
		pl.name = h.unusedCommand(p)
	case p.Gathered:
		pl.name = h.names.numbered(p.Unit, p.Generation, scope)
	case p.Service.Kind == tenure.Service && (p.Unit == p.Service || p.Unit.Overlaps()):
		pl.name, pl.kept = h.generationOf(p), true
	default:
		pl.name = h.names.numbered(p.Unit, p.Generation, service)
	}
	pl.group = h.groupFor(p.Unit, pl.name)
	if known := h.places[pl.group.Path()]; known != nil {
		known.Place = p
		return known.group, nil
	}
	h.places[pl.group.Path()] = pl
	return pl.group, nil
}

// unusedCommand names the unit of a command.
func (h *host) unusedCommand(p native.Place) string {
	unit := p.Unit
	if p.Service.Kind == tenure.Service && unit.Overlaps() {
		unit = p.Service
	}
	stem, _ := strings.CutSuffix(h.names.numbered(unit, max(1, p.Generation), service), service)
	h.numbers[p.Unit]++
	return stem + commandMark + p.Command + strconv.Itoa(h.numbers[p.Unit]) + service
}

// generationOf is the unit that a service is launched as: the one that it is already, unless
// it has other settings by now.
func (h *host) generationOf(p native.Place) string {
	spec := *p.Spec
	spec.Unit = p.Service
	now, known := h.serving[p.Service]
	if known && p.Unit == p.Service && same(now.spec, &spec) && !h.crowded(h.groupFor(p.Service, now.name)) {
		return now.name
	}
	number := max(h.numbers[p.Service], h.files.lastNumber(p.Service, h.names)) + 1
	h.numbers[p.Service] = number
	return h.names.numbered(p.Service, number, service)
}

// groupFor is the group of the unit with a name.
func (h *host) groupFor(unit tenure.UnitID, name string) proc.Group {
	return proc.GroupAt(filepath.Join(h.hierarchy.Path(), h.names.slice(unit.Snap), name))
}

// crowded reports whether something is left in groups that a service has made: containers that
// go on live there.
func (h *host) crowded(group proc.Group) bool {
	infos, err := group.Processes()
	return err == nil && slices.ContainsFunc(infos, func(i proc.Info) bool {
		return i.Foreign && i.Group != native.ControlGroup
	})
}

func same(a, b *supervise.Spec) bool {
	textA, errA := json.Marshal(a)
	textB, errB := json.Marshal(b)
	return errA == nil && errB == nil && string(textA) == string(textB)
}

// at is the place that has been named by a group.
func (h *host) at(group proc.Group) (*place, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if pl := h.places[group.Path()]; pl != nil {
		return pl, nil
	}
	return nil, fmt.Errorf("group %s: %w", group.Path(), supervise.ErrUnknown)
}

// Launch implements native.Host.
func (h *host) Launch(ctx context.Context, group proc.Group, p native.Program) (*proc.Handle, error) {
	pl, err := h.at(group)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, launchPatience)
	defer cancel()
	o := h.orderOf(pl, p)
	c := h.takeWaiting(pl)
	if c == nil {
		o.Profile = p.Profile
		if c, err = h.fetch(ctx, pl); err != nil {
			return nil, err
		}
	}
	defer c.close()
	handle, err := c.become(ctx, o, p.Files)
	if err != nil {
		return nil, fmt.Errorf("execute %s: %w", p.Command.Argv[0], err)
	}
	return handle, nil
}

// fetch has the unit started, and returns who asks what to become.
func (h *host) fetch(ctx context.Context, pl *place) (*caller, error) {
	err := h.settle(ctx, pl)
	if err != nil {
		return nil, err
	}
	c, err := h.call(ctx, pl)
	h.mu.Lock()
	pl.launching = false
	h.mu.Unlock()
	return c, err
}

// settle waits until systemd knows of the end of the launch before.
func (h *host) settle(ctx context.Context, pl *place) error {
	h.mu.Lock()
	before := pl.release
	pl.launches++
	if pl.again != nil {
		close(pl.again)
		pl.again = nil
	}
	pl.ended, pl.launching = false, true
	h.mu.Unlock()
	if before == nil {
		return nil
	}
	return before.wait(ctx)
}

// between reports whether a unit has ended, and its next process is not there.
func (h *host) between(group proc.Group) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	pl := h.places[group.Path()]
	return pl == nil || pl.ended || pl.launching
}

// call has systemd start the unit, unless it does so by itself, and returns who asks what
// to become.
func (h *host) call(ctx context.Context, pl *place) (*caller, error) {
	expected := make(chan *caller, 1)
	h.mu.Lock()
	if come := h.come[pl.name]; come != nil {
		delete(h.come, pl.name)
		h.mu.Unlock()
		return <-come, nil
	}
	h.expected[pl.name] = expected
	h.mu.Unlock()
	defer func() {
		h.mu.Lock()
		defer h.mu.Unlock()
		delete(h.expected, pl.name)
	}()
	j, err := h.begin(ctx, pl)
	if err != nil {
		return nil, err
	}
	done, ended := j.done, (<-chan struct{})(nil)
	for {
		select {
		case c := <-expected:
			return c, nil
		case result := <-done:
			if err := j.outcome(result); err != nil {
				return nil, err
			}
			// It has been executed, and has not asked yet.
			done, ended = nil, h.awaitEnd(ctx, pl.name)
		case <-ended:
			select { // It may have asked just before.
			case c := <-expected:
				return c, nil
			default:
				return nil, fmt.Errorf("%s: it has ended before it asked what to become", pl.name)
			}
		case <-ctx.Done():
			return nil, fmt.Errorf("%s: %w", pl.name, context.Cause(ctx))
		}
	}
}

// awaitEnd closes what it returns when the main process of a unit has ended.
func (h *host) awaitEnd(ctx context.Context, name string) <-chan struct{} {
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		main, err := h.bus.main(ctx, name)
		if err != nil {
			return
		}
		handle, err := proc.Open(main)
		if err != nil {
			return
		}
		defer handle.Close()
		_, _ = handle.Wait(ctx) // How it ended does not matter.
	}()
	return ended
}

func (h *host) begin(ctx context.Context, pl *place) (*job, error) {
	if !pl.kept {
		return h.bus.startTransient(ctx, pl.name, h.transient(pl.name, pl))
	}
	spec := *pl.Spec
	spec.Unit = pl.Service
	h.carry(pl)
	if _, err := h.files.write(pl.name, h.serviceFile(pl.name, &spec), &spec); err != nil {
		return nil, err
	}
	if err := h.nameFirst(pl, &spec); err != nil {
		return nil, err
	}
	j, err := h.bus.start(ctx, pl.name)
	if err == nil {
		return j, nil
	}
	// systemd may know something else by one of its names still.
	h.logger.Warn("unit is not started before systemd has read all units again", slog.Any("error", err))
	if reloadErr := h.bus.reload(ctx); reloadErr != nil {
		return nil, errors.Join(err, reloadErr)
	}
	return h.bus.start(ctx, pl.name)
}

// carry has what an administrator added to the service added to a generation that is new.
func (h *host) carry(pl *place) {
	h.mu.Lock()
	before := h.serving[pl.Service].name
	h.mu.Unlock()
	if before == pl.name {
		return
	}
	if err := h.files.carry(h.names.alias(pl.Service), before, pl.name); err != nil {
		h.logger.Warn("what was added to a service is not complete", slog.String("unit", pl.name), slog.Any("error", err))
	}
}

// nameFirst gives a service its alias before it is started for the first time: systemd finds that
// with the unit, but does not take one that comes later before it has read all units again.
func (h *host) nameFirst(pl *place, spec *supervise.Spec) error {
	h.mu.Lock()
	_, known := h.serving[pl.Service]
	if !known && pl.Unit == pl.Service {
		h.serving[pl.Service] = generation{name: pl.name, spec: spec}
	}
	h.mu.Unlock()
	if known || pl.Unit != pl.Service {
		return nil
	}
	_, err := h.files.point(h.names.alias(pl.Service), pl.name, startsAtBoot(spec))
	return err
}

// Gather implements native.Host.
func (h *host) Gather(ctx context.Context, group proc.Group, processes []tenure.Process) error {
	if len(processes) == 0 {
		return nil // It may have no group then, but only parts of another's.
	}
	pl, err := h.at(group)
	if err != nil {
		return err
	}
	handles := make([]*proc.Handle, 0, len(processes))
	pids := make([]uint32, 0, len(processes))
	defer func() {
		for _, handle := range handles {
			handle.Close()
		}
	}()
	for _, process := range processes {
		// It stands still or waits.
		if handle, err := proc.Open(process); err == nil {
			handles, pids = append(handles, handle), append(pids, uint32(process.PID)) //nolint:gosec // A pid.
		}
	}
	if len(pids) == 0 {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, launchPatience)
	defer cancel()
	if err := h.move(ctx, pl, pids); err != nil {
		return err
	}
	// systemd moves by pids, too.
	var errs []error
	for _, handle := range handles {
		if err := h.hierarchy.PutBack(group, handle); err != nil && !errors.Is(err, proc.ErrGone) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// move has systemd move processes into a scope, which it makes for the first ones.
func (h *host) move(ctx context.Context, pl *place, pids []uint32) error {
	if populated, err := pl.group.Populated(); err == nil && populated {
		return h.bus.attach(ctx, pl.name, pids)
	}
	j, err := h.bus.startTransient(ctx, pl.name, h.scopeOf(pl, pids))
	if err != nil {
		return err
	}
	return j.wait(ctx)
}

// Release implements native.Host.
func (h *host) Release(group proc.Group, asked bool) (wait func(context.Context) error) {
	pl, err := h.at(group)
	if err != nil {
		return group.AwaitEmpty
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	launches := pl.launches
	pl.ended = true
	if pl.again == nil {
		pl.again = make(chan struct{})
	}
	again := pl.again
	if !pl.kept {
		return func(ctx context.Context) error {
			err := group.AwaitEmpty(ctx)
			h.forgetPlace(pl, launches)
			return err
		}
	}
	r := h.settleLater(pl, asked)
	return func(ctx context.Context) error {
		if err := r.wait(ctx); err != nil {
			return err
		}
		err := awaitEmpty(ctx, group, again)
		h.forgetPlace(pl, launches)
		return err
	}
}

// awaitEmpty waits until nobody is in a group, or the next life has begun there.
func awaitEmpty(ctx context.Context, group proc.Group, again <-chan struct{}) error {
	waiting, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() {
		select {
		case <-again:
			cancel()
		case <-waiting.Done():
		}
	}()
	err := group.AwaitEmpty(waiting)
	if ctx.Err() == nil && waiting.Err() != nil {
		return nil
	}
	return err
}

// release is that systemd comes to know of the end of a unit.
type release struct {
	wanted, done chan struct{}
	want         sync.Once
}

// wait has it done now, and returns when it is.
func (r *release) wait(ctx context.Context) error {
	r.want.Do(func() { close(r.wanted) })
	select {
	case <-r.done:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// settlePatience is how long a gap may take for systemd to be told only afterwards: long
// before it would restart what has ended.
const settlePatience = restartNet / 60

// settleLater has systemd settle what has ended, in the background; the caller has the lock. In
// a gap, whose next start systemd would be kept from, it does so afterwards, unless somebody waits.
func (h *host) settleLater(pl *place, asked bool) *release {
	before, over := pl.release, h.gap.over()
	r := &release{wanted: make(chan struct{}), done: make(chan struct{})}
	pl.release = r
	go func() {
		defer close(r.done)
		select {
		case <-over:
		case <-r.wanted:
		case <-time.After(settlePatience):
		case <-h.life.Done():
		}
		if before != nil && before.wait(h.life) != nil {
			return
		}
		if asked {
			h.end(pl)
		}
	}()
	return r
}

// forgetPlace drops what is known of a group that is gone, with the file of a generation that
// is not the service any more.
func (h *host) forgetPlace(pl *place, launches int) {
	h.mu.Lock()
	over := pl.launches == launches && (!pl.kept || h.serving[pl.Service].name != pl.name)
	if over {
		delete(h.places, pl.group.Path())
	}
	h.mu.Unlock()
	if over && pl.kept {
		h.removeFiles(pl.name)
	}
}

// end tells systemd that a service whose processes have ended is not to be restarted. It does
// not stand against what an administrator has asked for meanwhile.
func (h *host) end(pl *place) {
	ctx, cancel := context.WithTimeout(h.life, launchPatience)
	defer cancel()
	now, err := h.bus.look(ctx, pl.name)
	if err != nil || now.job != "" {
		return
	}
	if now.active != "inactive" && now.active != "failed" {
		if err := h.bus.stop(ctx, pl.name); err != nil {
			h.logger.Info("unit is not stopped by us", slog.String("unit", pl.name), slog.Any("error", err))
			return
		}
		if now, err = h.bus.look(ctx, pl.name); err != nil {
			return
		}
	}
	if now.active == "failed" {
		if err := h.bus.resetFailed(ctx, pl.name); err != nil {
			h.logger.Warn("failure cannot be forgotten", slog.Any("error", err))
		}
	}
}

// Told implements native.Host.
func (h *host) Told(ctx context.Context, group proc.Group) bool {
	pl, err := h.at(group)
	if err != nil {
		return false
	}
	now, err := h.bus.look(ctx, pl.name)
	return err == nil && (now.job == "stop" || now.job == "restart" || now.job == "try-restart")
}

// placeOf is the place that has a unit; the caller has the lock.
func (h *host) placeOf(name string) *place {
	for _, pl := range h.places {
		if pl.name == name {
			return pl
		}
	}
	return nil
}

// Owner implements native.Host.
func (h *host) Owner(rel string) (tenure.UnitID, bool) { return h.names.owner(rel) }

// command is a command line of this program that systemd runs for a unit.
func (h *host) command(verb, unit string) []string {
	return append(append([]string{}, h.program...), verb, h.socket, h.files.specPath(unit))
}
