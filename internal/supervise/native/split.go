package native

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"tenure"
	"tenure/internal/proc"
	"tenure/internal/supervise"
)

// Split implements supervise.Splitter.
func (s *Supervisor) Split(ctx context.Context, service tenure.UnitID) error {
	err := s.await(ctx)
	if err == nil {
		_, err = requestKnown(ctx, s, service, func(u *unit, ctx context.Context, reply chan<- struct{}) {
			u.setApart(ctx)
			reply <- struct{}{}
		})
	}
	if err != nil {
		return fmt.Errorf("set workloads of %s apart: %w", service, err)
	}
	return nil
}

// setApart splits a unit that goes on. One that is ending splits by itself.
func (u *unit) setApart(ctx context.Context) {
	if !u.keeps() || u.rec.State != supervise.Running && u.rec.State != supervise.Reloading {
		return
	}
	thaw := u.freeze(ctx)
	defer thaw()
	u.split(ctx)
	u.save()
}

// split makes units of the workloads among the unit's processes, which stand
// still, and returns the others. A process is promised to its new unit in that
// unit's record before it is moved, so that no supervisor loses it.
func (u *unit) split(ctx context.Context) (rest []proc.Info) {
	infos, _ := u.living()
	if !u.keeps() {
		return infos
	}
	out := classify(u.matchers, u.rec.Main, infos, u.kin(infos))
	rest = out.Rest
	u.giveAll(ctx, out.Picks)
	if u.rec.Main.PID == 0 {
		// Nothing is spared for the main process any more.
		rest = append(rest, out.Spared...)
	}
	return rest
}

// giveAll makes units of workloads. One that cannot be is left alone.
func (u *unit) giveAll(ctx context.Context, picks []pick) {
	for _, p := range picks {
		if err := u.giveAway(ctx, p); err != nil {
			u.warn("workload cannot be set apart, and is left alone", err)
		}
	}
}

// giveAway makes a unit of one workload, or makes it part of the unit that the
// workload is already.
func (u *unit) giveAway(ctx context.Context, p pick) error {
	if !p.Into.IsZero() {
		return u.giveMore(ctx, p)
	}
	spec := u.derived(p.Workload.Name, p.Leader, p.Workload.Stop)
	return u.part(ctx, spec, 0, p)
}

// part makes a unit with spec of processes that stand still. Its name had been
// used for some generations.
func (u *unit) part(ctx context.Context, spec supervise.Spec, generations int, p pick) error {
	child := newUnit(u.s, record{
		Spec: &spec, State: supervise.Running, Since: time.Now(), Started: p.Leader.Started,
		Generation: generations, Main: p.Leader.Process, Passive: true, Parent: u.id, Ready: true,
	})
	if !u.s.add(child) {
		return supervise.ErrRunning
	}
	if err := child.promise(u.rec.Group, p); err != nil {
		u.s.drop(child)
		close(child.gone)
		return err
	}
	u.rec.Ceded = append(u.rec.Ceded, child.rec.Claims...)
	err := child.collectMoving()
	u.adoptChild(ctx, child)
	return err
}

// promise writes down what is to be the unit's, of which nothing has moved yet.
func (u *unit) promise(from string, p pick) error {
	for _, claim := range p.Claims {
		u.rec.Claims = append(u.rec.Claims, filepath.Join(from, claim))
	}
	if len(p.Members) == 0 {
		u.rec.Generation++
		return u.s.records.save(&u.rec)
	}
	group, err := u.freshGroup(true)
	if err != nil {
		return err
	}
	u.rec.Group, u.rec.From, u.rec.Moving = group.Path(), from, processesOf(p.Members)
	if err := u.s.records.save(&u.rec); err != nil {
		return errors.Join(err, group.Remove())
	}
	return nil
}

// derived is the Spec of a unit that came out of this one.
func (u *unit) derived(name string, leader proc.Info, stop supervise.StopProtocol) supervise.Spec {
	return u.rec.Spec.Branch(u.freeID(name, leader), leader.Args, stop)
}

// freeID is a name for what came out of this unit that nothing has yet.
func (u *unit) freeID(name string, leader proc.Info) tenure.UnitID {
	id := u.id.Service().Workload(name, leader.PID)
	for {
		if _, taken := u.s.find(id); !taken {
			return id
		}
		id.Serial++
	}
}

// collectMoving moves what was promised to the unit and is not there yet.
func (u *unit) collectMoving() error {
	// They stand still, so their pids are still their own.
	err := u.gather(u.s.life, proc.GroupAt(u.rec.Group), u.rec.Moving...)
	u.rec.Moving, u.rec.From = nil, ""
	u.save()
	return err
}

// adoptChild gives a unit that came out of this one its life.
func (u *unit) adoptChild(ctx context.Context, child *unit) {
	u.s.spawn(ctx, child, child.attend)
	u.tellSplit(child)
}

// tellSplit says that a unit came out of this one.
func (u *unit) tellSplit(child *unit) {
	status := child.status.Load()
	e := supervise.Event{
		Kind: supervise.EventSplit, Time: time.Now(), Unit: status.Unit, Revision: status.Revision, Parent: u.id, State: status.State,
		Command: strings.Join(status.Spec.Command.Argv, " "), Change: u.by,
	}
	if u.rec.Ending != nil {
		e.Change, e.Reason = u.rec.Ending.Change, u.rec.Ending.Reason
	}
	if status.Main.PID != 0 {
		e.Processes = []tenure.Process{status.Main}
	}
	u.s.tell(e)
}

// attend is how a passive unit begins its life.
func (u *unit) attend(ctx context.Context) {
	u.watchGroups(ctx)
	if handle, err := proc.Open(u.rec.Main); err == nil {
		u.holdMain(handle)
		u.save()
		return
	}
	u.nextMain(ctx)
}

// leaveBehind makes the unit "leftover" of all processes that are still in the
// unit's group, where they are: the group is the leftover's from now on.
func (u *unit) leaveBehind(ctx context.Context, infos []proc.Info) {
	if len(infos) == 0 || u.rec.Group == "" {
		return
	}
	if u.s.cfg.Host != nil {
		u.leaveElsewhere(ctx)
		return
	}
	child := u.leftover(u.rec.Spec, u.rec.Group, infos[0])
	child.rec.Ceded = slices.Clone(u.rec.Ceded)
	u.addLeftover(child)
	u.unwatch()
	u.rec.Group, u.rec.Ceded = "", nil
	u.save()
	u.adoptChild(ctx, child)
}

// leftover is the unit of what is left in a group of what a Spec was carried out with.
func (u *unit) leftover(of *supervise.Spec, group string, leader proc.Info) *unit {
	stop := of.Stop
	stop.Command, stop.Target = nil, supervise.TargetGroup
	spec := of.Branch(u.freeID(tenure.Leftover, leader), leader.Args, stop)
	return newUnit(u.s, record{
		Spec: &spec, State: supervise.Running, Since: time.Now(), Started: leader.Started,
		Generation: 1, Passive: true, Parent: u.id, Ready: true, Group: group,
	})
}

// addLeftover makes a leftover known. Its life begins with adoptChild.
func (u *unit) addLeftover(child *unit) {
	u.s.add(child)
	if err := u.s.records.save(&child.rec); err != nil {
		u.warn("leftover cannot be recorded", err)
	}
	if err := u.s.setLabel(proc.GroupAt(child.rec.Group), label{child.id, child.rec.Spec.Revision}); err != nil {
		u.warn("leftover cannot be labelled", err)
	}
}

// leaveElsewhere is leaveBehind where the unit's group is the host's to end.
func (u *unit) leaveElsewhere(ctx context.Context) {
	thaw := u.freeze(ctx)
	defer thaw()
	infos, _ := u.living()
	if len(infos) == 0 {
		return
	}
	spec := u.leftover(u.rec.Spec, "", infos[0]).rec.Spec
	p := pick{Leader: infos[0]}
	for _, info := range infos {
		top := topGroup(info.Group)
		switch {
		case !info.Foreign:
			p.Members = append(p.Members, info)
		case !slices.Contains(p.Claims, top):
			p.Claims = append(p.Claims, top)
		}
	}
	if err := u.part(ctx, *spec, 0, p); err != nil {
		u.warn("leftover cannot be set apart", err)
	}
}
