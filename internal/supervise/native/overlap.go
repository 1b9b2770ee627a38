package native

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"time"

	"tenure"
	"tenure/internal/change"
	"tenure/internal/proc"
	"tenure/internal/supervise"
	"tenure/internal/supervise/fdstore"
)

// A hand-over changes names, and nothing else: the actor of the successor becomes
// that of the service, and the actor of the service that of what drains. Each
// goes on with its processes, its groups, its notify socket and its log.
//
//	record of the service    SNAP.APP.json             ┐ 2 overwritten by the successor's
//	record of the successor  SNAP.APP+successor.N.json ┘ 3 removed
//	record of what drains    SNAP.APP+draining.PID.json  1 written: from here on it is done
//
// Where a supervisor dies on the way the next one goes on (resumeHandOvers).

// Succeed implements supervise.Overlapper.
func (s *Supervisor) Succeed(ctx context.Context, spec supervise.Spec) error {
	err := s.await(ctx)
	if err == nil {
		err = check(&spec)
	}
	if err == nil {
		err = s.succeed(ctx, spec)
	}
	if err != nil {
		return fmt.Errorf("succeed %s: %w", spec.Unit, err)
	}
	return nil
}

// bearing is the answer of a service that is asked for its successor: none where
// the service is it already.
type bearing struct {
	heir *unit
	err  error
}

func (s *Supervisor) succeed(ctx context.Context, spec supervise.Spec) error {
	for {
		born, err := requestKnown(ctx, s, spec.Unit, func(u *unit, ctx context.Context, reply chan<- bearing) {
			heir, err := u.bear(ctx, spec)
			reply <- bearing{heir, err}
		})
		if err = errors.Join(err, born.err); err != nil || born.heir == nil {
			return err
		}
		reply, by := make(chan error, 1), change.IDFrom(ctx)
		var failure error
		if err = born.heir.tell(ctx, func(ctx context.Context) {
			born.heir.by = by
			born.heir.ascend(ctx, reply)
		}); err == nil {
			failure, err = await(ctx, born.heir, reply)
		}
		if !errors.Is(err, errForgotten) {
			return errors.Join(failure, err)
		}
	}
}

// bear makes the successor of a service, unless there is one.
func (u *unit) bear(ctx context.Context, spec supervise.Spec) (*unit, error) {
	switch {
	case u.id.Kind != tenure.Service || u.rec.Passive:
		return nil, fmt.Errorf("%w: only a service has a successor", supervise.ErrUnknown)
	case u.rec.State.Alive() && u.rec.Ending == nil && sameSpec(u.rec.Spec, &spec):
		return nil, nil
	case u.rec.Ending != nil:
		return nil, fmt.Errorf("%w: it is ending", supervise.ErrNotReady)
	}
	if heir := u.s.heirOf(u.id); heir != nil {
		if !sameSpec(asService(heir.status.Load().Spec), &spec) {
			return nil, fmt.Errorf("%w: it has another successor", supervise.ErrRunning)
		}
		return heir, nil
	}
	own := spec
	own.Unit = u.id.Workload(tenure.Successor, u.rec.Generation+1)
	heir := newUnit(u.s, record{
		Spec: &own, State: supervise.Inactive, Since: time.Now(), Generation: u.rec.Generation,
		Heir: true, Parent: u.id, Stored: true, Shared: shared(u.rec.Spec, &spec),
		Home: encodeUnit(u.id) + "." + strconv.Itoa(own.Unit.Serial),
	})
	if !u.s.add(heir) {
		return nil, supervise.ErrRunning
	}
	u.s.spawn(ctx, heir, nil)
	return heir, nil
}

// heirOf is the successor of a service, if there is one.
func (s *Supervisor) heirOf(service tenure.UnitID) *unit {
	for _, u := range s.all() {
		if id := u.name(); id.Name == tenure.Successor && id.Kind == tenure.Workload && id.Service() == service {
			return u
		}
	}
	return nil
}

// asService is the Spec of a successor as that of the service that it becomes.
func asService(spec *supervise.Spec) *supervise.Spec {
	as := *spec
	as.Unit = spec.Unit.Service()
	return &as
}

// shared are the sockets that two generations have in common, by their names in
// the new one: those at one address.
func shared(old, next *supervise.Spec) map[string]string {
	names := make(map[string]string)
	for _, socket := range next.Sockets {
		for _, before := range old.Sockets {
			if socket.Network == before.Network && socket.Address == before.Address {
				names[socket.Name] = before.Name
			}
		}
	}
	return names
}

// overlaps reports whether the unit is a generation of a service beside the one
// that is the service.
func (u *unit) overlaps() bool { return u.rec.Heir || u.rec.Draining }

// ascend starts a successor, or waits with those who wait for it already.
func (u *unit) ascend(ctx context.Context, reply chan<- error) {
	switch u.rec.State {
	case supervise.Running, supervise.Reloading:
		reply <- nil
	case supervise.Starting:
		u.starting = append(u.starting, reply)
	case supervise.Stopping:
		reply <- &supervise.StartError{Unit: u.id, Err: fmt.Errorf("%w: it is ending", supervise.ErrNotReady)}
	case supervise.Inactive, supervise.Listening, supervise.Waiting, supervise.Backoff, supervise.Failed:
		matchers, err := compileWorkloads(u.rec.Spec.Workloads)
		if err == nil {
			err = u.openUnshared(ctx)
		}
		if err != nil {
			u.vanish(ctx)
			reply <- &supervise.StartError{Unit: u.id, Err: err}
			return
		}
		u.matchers = matchers
		u.starting = append(u.starting, reply)
		u.launch(ctx)
	}
}

// openUnshared opens the sockets of a successor that its service has not.
func (u *unit) openUnshared(ctx context.Context) error {
	if keeper := u.doorkeeper(); keeper != nil && len(u.rec.Spec.Sockets) > 0 {
		if err := keeper.Open(ctx, asService(u.rec.Spec)); err != nil {
			return err
		}
	}
	for _, socket := range u.held() {
		if u.rec.Shared[socket.Name] != "" {
			continue
		}
		if err := u.openToKeep(ctx, socket); err != nil {
			return err
		}
	}
	return nil
}

// closeOwn closes what a generation beside its service has for itself.
func (u *unit) closeOwn(ctx context.Context) {
	if u.rec.Draining {
		return
	}
	u.closeUnshared()
	if err := u.s.cfg.Holder.Remove(context.WithoutCancel(ctx), u.id, fdstore.Listen); err != nil {
		u.warn("sockets cannot be closed", err)
	}
	for _, socket := range u.rec.Spec.Sockets {
		if socket.Network == "unix" && u.rec.Shared[socket.Name] == "" {
			removeSocketFile(socket.Address)
		}
	}
}

// closeUnshared has the host close what a successor has declared that its service has not.
func (u *unit) closeUnshared() {
	service, known := u.s.find(u.keeper())
	if keeper := u.doorkeeper(); keeper != nil && known {
		spec := service.status.Load().Spec
		if own := withoutAlike(u.rec.Spec.Sockets, spec.Sockets); len(own) > 0 {
			keeper.Close(spec, own, true)
		}
	}
}

// kept is what the unit's next process may be passed: that of a successor has its
// own, and what it shares with its service.
func (u *unit) kept(ctx context.Context) ([]fdstore.Kept, error) {
	kept, err := u.s.cfg.Holder.Get(ctx, u.id)
	if err != nil || !u.rec.Heir {
		return kept, err
	}
	service, err := u.s.cfg.Holder.Get(ctx, u.keeper())
	if err != nil {
		closeKept(kept)
		return nil, err
	}
	for _, k := range service {
		switch k.Kind {
		case fdstore.Stored:
			kept = append(kept, k)
			continue
		case fdstore.Listen:
			if name, found := u.rec.sharedAs(k.Name); found {
				k.Name = name
				kept = append(kept, k)
				continue
			}
		case fdstore.Notify, fdstore.Log:
		}
		_ = k.File.Close()
	}
	return kept, nil
}

// sharedAs is what a successor calls a socket of its service.
func (r *record) sharedAs(old string) (name string, found bool) {
	for name, before := range r.Shared {
		if before == old {
			return name, true
		}
	}
	return "", false
}

func closeKept(kept []fdstore.Kept) {
	for _, k := range kept {
		_ = k.File.Close()
	}
}

// TakeOver implements supervise.Overlapper.
func (s *Supervisor) TakeOver(ctx context.Context, service tenure.UnitID, drain time.Duration) (tenure.UnitID, error) {
	err := s.await(ctx)
	var c ceded
	if err == nil {
		c, err = requestKnown(ctx, s, service, func(u *unit, ctx context.Context, reply chan<- ceded) { reply <- u.cede(ctx, drain) })
		err = errors.Join(err, c.err)
	}
	if err == nil {
		select {
		case err = <-c.taken:
		case <-ctx.Done():
			err = context.Cause(ctx)
		case <-s.ended:
			err = ErrEnded
		}
	}
	if err != nil {
		return c.draining, fmt.Errorf("let the successor of %s take over: %w", service, err)
	}
	return c.draining, nil
}

// ceded is the answer of a service that is asked to make room.
type ceded struct {
	draining tenure.UnitID
	err      error
	// taken says when the successor is the service, or why it is not.
	taken chan error
}

// cede gives the name of a service to its successor. With its last word it is done,
// whoever asked for it and whether they still wait.
func (u *unit) cede(ctx context.Context, drain time.Duration) ceded {
	heir := u.s.heirOf(u.id)
	switch {
	case heir == nil:
		return ceded{err: fmt.Errorf("%w: there is none", supervise.ErrNotReady)}
	case u.rec.Ending != nil:
		return ceded{err: fmt.Errorf("%w: the service is ending", supervise.ErrNotReady)}
	}
	next := heir.status.Load()
	if next.State != supervise.Running && next.State != supervise.Reloading {
		return ceded{err: fmt.Errorf("%w: the successor is %s", supervise.ErrNotReady, next.State)}
	}
	service, sockets, kept, alive := u.id, u.rec.Spec.Sockets, u.rec.Kept, u.rec.State.Alive()
	c := ceded{taken: make(chan error, 1)}
	if alive {
		c.draining = u.drainingID()
	}
	if !u.s.rename(service, c.draining, u, heir) {
		return ceded{err: fmt.Errorf("%w: the successor has ended", supervise.ErrNotReady)}
	}
	if alive {
		u.becomeDraining(c.draining, drain)
		u.event(supervise.Event{
			Kind: supervise.EventSplit, Parent: service, State: u.rec.State, Processes: []tenure.Process{u.rec.Main}, Change: u.by,
		})
	} else {
		u.retire(ctx)
	}
	by := u.by
	u.background(func(ctx context.Context) {
		err := heir.tell(ctx, func(ctx context.Context) {
			heir.by = by
			heir.inherit(ctx, sockets, kept)
			c.taken <- nil
		})
		if errors.Is(err, errForgotten) {
			err = u.s.startOne(ctx, *asService(next.Spec))
		}
		if err != nil {
			c.taken <- err
		}
	})
	return c
}

// rename makes heir the service, and old what drains, if it is not to be gone.
func (s *Supervisor) rename(service, draining tenure.UnitID, old, heir *unit) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	successor := heir.name()
	if s.units[successor] != heir {
		return false
	}
	delete(s.units, successor)
	s.units[service] = heir
	if !draining.IsZero() {
		s.units[draining] = old
	}
	return true
}

// drainingID is what a generation is called when it has handed over.
func (u *unit) drainingID() tenure.UnitID {
	id := u.id.Workload(tenure.Draining, max(1, u.rec.Main.PID))
	for {
		if _, taken := u.s.find(id); !taken {
			return id
		}
		id.Serial++
	}
}

// becomeDraining makes a unit of its own of the generation that was the service.
func (u *unit) becomeDraining(id tenure.UnitID, drain time.Duration) {
	u.answerStart(&supervise.StartError{Unit: u.id, Err: fmt.Errorf("%w: its successor has taken over", supervise.ErrNotReady)})
	u.unprepare()
	u.unwind()
	u.clearAlarms(alarmBackoff)
	u.answerCallers()
	spec := *u.rec.Spec
	spec.Unit, spec.Timer, spec.After = id, "", nil
	spec.Restart = supervise.RestartPolicy{Condition: supervise.RestartNever}
	if drain > 0 {
		spec.Stop.Timeout = drain
	}
	u.rec.Parent, u.rec.Home, u.rec.Draining = u.id, u.home, true
	u.id, u.rec.Spec, u.rec.Kept = id, &spec, nil
	u.save()
	u.relabel()
}

// retire ends the actor of a service that had no process to drain.
func (u *unit) retire(ctx context.Context) {
	u.disarm()
	u.closeNotifyAtRest(ctx)
	if err := os.RemoveAll(u.dir()); err != nil {
		u.warn("runtime directory cannot be removed", err)
	}
	u.forgotten = true
}

// inherit makes the successor the service. Sockets are those of the service before, and kept what is
// kept for it.
func (u *unit) inherit(ctx context.Context, sockets []supervise.Socket, kept []keptFile) {
	successor := u.id
	inherit(&u.rec, kept)
	u.id = u.rec.Spec.Unit
	u.save()
	if err := u.s.records.remove(successor); err != nil {
		u.warn("record of the successor cannot be removed", err)
	}
	u.relabel()
	u.settle(ctx)
	if keeper := u.doorkeeper(); keeper != nil {
		if u.rec.Spec.Timer == "" {
			keeper.Disarm(u.id)
		}
		if gone := withoutAlike(sockets, u.rec.Spec.Sockets); len(gone) > 0 {
			keeper.Close(u.rec.Spec, gone, true)
		}
	}
	for _, socket := range sockets {
		if socket.Network == "unix" && len(shared(u.rec.Spec, &supervise.Spec{Sockets: []supervise.Socket{socket}})) == 0 {
			removeSocketFile(socket.Address)
		}
	}
	u.event(supervise.Event{Kind: supervise.EventMain, Parent: successor, Processes: []tenure.Process{u.rec.Main}, Change: u.by})
}

// inherit makes the record of a successor that of the service, with what was kept for it, as moveKept does.
func inherit(rec *record, kept []keptFile) {
	for _, k := range kept {
		if k.Kind == fdstore.Listen {
			name, found := rec.sharedAs(k.Name)
			if !found {
				continue
			}
			k.Name = name
		}
		if !slices.Contains(rec.Kept, k) {
			rec.Kept = append(rec.Kept, k)
		}
	}
	rec.Successor, rec.Spec = rec.Spec.Unit, asService(rec.Spec)
	rec.Heir, rec.Parent = false, tenure.UnitID{}
}

// relabel writes the unit's name on its group.
func (u *unit) relabel() {
	if u.rec.Group == "" {
		return
	}
	if err := u.s.setLabel(proc.GroupAt(u.rec.Group), label{u.id, u.rec.Spec.Revision}); err != nil {
		u.warn("group cannot be labelled", err)
	}
	u.serves()
}

// settle makes what the holder keeps that of the service as it is now: with what the
// successor had for itself, by the names that it uses, without what it does not
// declare. It can be repeated.
func (u *unit) settle(ctx context.Context) {
	if u.rec.Successor.IsZero() {
		return
	}
	if err := u.moveKept(ctx); err != nil {
		u.warn("descriptors cannot be handed over", err)
	}
	u.rec.Successor, u.rec.Shared = tenure.UnitID{}, nil
	u.save()
}

func (u *unit) moveKept(ctx context.Context) error {
	holder := u.s.cfg.Holder
	own, err := holder.Get(ctx, u.rec.Successor)
	if err != nil {
		return err
	}
	defer closeKept(own)
	service, err := holder.Get(ctx, u.id)
	if err != nil {
		return err
	}
	defer closeKept(service)
	wanted := make(map[string]bool)
	for _, socket := range u.held() {
		wanted[socket.Name] = true
	}
	var errs []error
	for _, k := range own {
		errs = append(errs, holder.Put(ctx, u.id, k.Kind, k.Name, k.File))
	}
	for _, k := range service {
		name, found := u.rec.sharedAs(k.Name)
		switch {
		case k.Kind != fdstore.Listen:
		case found && name != k.Name:
			errs = append(errs, holder.Put(ctx, u.id, fdstore.Listen, name, k.File))
		}
		if k.Kind == fdstore.Listen && !wanted[k.Name] {
			errs = append(errs, holder.Remove(ctx, u.id, fdstore.Listen, k.Name))
		}
	}
	return errors.Join(append(errs, holder.Remove(ctx, u.rec.Successor, ""))...)
}

// resumeHandOvers completes what a supervisor had begun: where the record of
// what drains is written the successor is the service. It returns the records, and
// the units whose records are to go.
func resumeHandOvers(recs []*record) (kept []*record, stale []tenure.UnitID) {
	drained := make(map[string]bool)
	services := make(map[tenure.UnitID]*record)
	for _, rec := range recs {
		services[rec.Spec.Unit] = rec
		if rec.Draining && rec.Group != "" {
			drained[rec.Group] = true
		}
	}
	replaced := make(map[*record]bool)
	for _, rec := range recs {
		if !rec.Heir {
			continue
		}
		service := services[rec.Spec.Unit.Service()]
		switch {
		case service == nil || service.Group == "":
		case service.Group == rec.Group:
			stale = append(stale, rec.Spec.Unit)
			replaced[rec] = true
		case drained[service.Group]:
			stale = append(stale, rec.Spec.Unit)
			replaced[service] = true
			inherit(rec, service.Kept)
		}
	}
	for _, rec := range recs {
		if !replaced[rec] {
			kept = append(kept, rec)
		}
	}
	return kept, stale
}
