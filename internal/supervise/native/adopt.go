package native

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"strings"
	"time"

	"tenure"
	"tenure/internal/proc"
	"tenure/internal/supervise"
)

// adopt finds everything that an earlier supervisor left: first the records, then
// what is in groups that no record speaks of.
func (s *Supervisor) adopt(ctx context.Context) error {
	recs, warnings := s.records.load(s.boot)
	for _, warning := range warnings {
		s.cfg.Logger.Warn("record is passed over", slog.Any("error", warning))
	}
	spoken := make(map[string]bool)
	var units []*unit
	for _, rec := range recs {
		u := newUnit(s, *rec)
		matchers, err := compileWorkloads(rec.Spec.Workloads)
		if err != nil {
			u.warn("workloads cannot be told apart", err)
		}
		u.matchers = matchers
		for _, path := range append([]string{rec.Group, rec.Aux}, rec.Claims...) {
			spoken[path] = true
		}
		if len(rec.Moving) > 0 {
			if err := u.collectMoving(); err != nil {
				u.warn("workload is not complete", err)
			}
		}
		units = append(units, u)
	}
	orphans, err := s.adoptGroups(spoken)
	if err != nil {
		return err
	}
	for _, u := range append(units, orphans...) {
		if s.add(u) {
			s.spawn(ctx, u, u.adopted)
		}
	}
	return nil
}

// adoptGroups lets go on what stands still, removes what is empty, and makes
// units of what no record speaks of.
func (s *Supervisor) adoptGroups(spoken map[string]bool) ([]*unit, error) {
	groups, err := s.cfg.Hierarchy.Groups()
	if err != nil {
		return nil, err
	}
	var orphans []*unit
	for _, group := range groups {
		if frozen, err := group.Frozen(); err == nil && frozen {
			if err := group.Thaw(); err != nil {
				s.cfg.Logger.Warn("group cannot be thawed", slog.Any("group", group.Path()), slog.Any("error", err))
			}
		}
		rel, ok := group.Rel(s.cfg.Hierarchy)
		if !ok || strings.Count(rel, "/") != 1 || spoken[group.Path()] {
			continue
		}
		infos, err := group.Processes()
		if err != nil || len(infos) == 0 {
			_ = group.Remove() // In use when a claimed group is below it.
			continue
		}
		if u := s.orphan(group, infos); u != nil {
			orphans = append(orphans, u)
		}
	}
	return orphans, nil
}

// orphan makes a unit of a group whose record is lost.
func (s *Supervisor) orphan(group proc.Group, infos []proc.Info) *unit {
	l, ok := s.labelOf(group)
	if !ok {
		s.cfg.Logger.Warn("group is of no unit", slog.Any("group", group.Path()))
		return nil
	}
	id := l.Unit
	if id.Kind == tenure.Service {
		id = id.Workload(tenure.Leftover, infos[0].PID)
	}
	spec := supervise.Spec{
		Unit: id, Revision: l.Revision, Type: supervise.Simple, Command: supervise.Command{Argv: infos[0].Args},
		Stop:    supervise.StopProtocol{Target: supervise.TargetGroup, Timeout: orphanGrace, Kill: supervise.KillNever},
		Restart: supervise.RestartPolicy{Condition: supervise.RestartNever},
	}
	return newUnit(s, record{
		Spec: &spec, State: supervise.Running, Since: time.Now(), Started: infos[0].Started, Generation: 1,
		Passive: true, Parent: id.Service(), Ready: true, Group: group.Path(),
	})
}

// orphanGrace is the grace period of a unit whose own is lost; SIGKILL is then left
// to an administrator's order, since nobody knows what the package had said.
const orphanGrace = 30 * time.Second

// spawn gives a unit its goroutine, with a first message.
func (s *Supervisor) spawn(_ context.Context, u *unit, first func(context.Context)) {
	if first != nil {
		u.inbox <- first
	}
	s.wg.Go(func() { u.run(s.life) })
}

// adopted is how a unit begins its life with another supervisor than before.
func (u *unit) adopted(ctx context.Context) {
	u.openNotifyAgain(ctx)
	if u.rec.Passive && u.rec.Ending == nil {
		u.attend(ctx)
		return
	}
	if u.rec.Launching {
		u.adoptLaunch(ctx)
		return
	}
	if u.rec.Main.PID != 0 {
		u.adoptMain(ctx)
	}
	u.adoptAux(ctx)
	switch {
	case u.rec.Ending != nil:
		u.watchGroups(ctx)
		u.progress(ctx)
	case u.rec.State == supervise.Listening:
		u.listen(ctx)
	case u.rec.State == supervise.Reloading && u.rec.Aux == "":
		u.state(supervise.Running)
	case u.rec.State.Alive() && u.main == nil:
		u.endBy(ctx, causeExit)
	}
}

// adoptMain waits for the main process again. One that ended while nobody
// watched has an exit that nobody knows.
func (u *unit) adoptMain(ctx context.Context) {
	handle, err := proc.Open(u.rec.Main)
	if err == nil {
		u.holdMain(ctx, handle)
		return
	}
	u.rec.Main, u.rec.LastExit = tenure.Process{}, &proc.Exit{}
	if u.rec.Ending != nil {
		u.rec.Ending.Exit = u.rec.LastExit
	}
}

// adoptLaunch completes a launch in whose middle the supervisor died: the
// process may have been born or not.
func (u *unit) adoptLaunch(ctx context.Context) {
	u.rec.Launching = false
	infos, _ := u.living()
	for _, info := range infos {
		handle, err := proc.Open(info.Process)
		if err != nil {
			continue
		}
		u.rec.Started = info.Started
		u.holdMain(ctx, handle)
		u.started(ctx)
		return
	}
	u.dropGroup(ctx)
	u.launch(ctx)
}

func (u *unit) adoptAux(ctx context.Context) {
	if u.rec.Aux == "" {
		return
	}
	handle, err := proc.Open(u.rec.AuxMain)
	if err != nil {
		u.auxEnded(ctx, proc.Exit{})
		return
	}
	u.holdAux(ctx, handle)
}

// Track implements supervise.Tracker.
func (s *Supervisor) Track(ctx context.Context, spec supervise.Spec, process tenure.Process) error {
	if err := s.await(ctx); err != nil {
		return err
	}
	info, err := proc.Read(process.PID)
	if err != nil || info.Process != process {
		return errors.Join(err, proc.ErrGone)
	}
	group, err := s.createGroup(groupName(spec.Unit, 1), label{spec.Unit, spec.Revision})
	if err != nil {
		return err
	}
	u := newUnit(s, record{
		Spec: &spec, State: supervise.Running, Since: time.Now(), Started: info.Started, Generation: 1,
		Main: process, Passive: true, Ready: true, Group: group.Path(),
	})
	err = s.records.save(&u.rec)
	if err == nil {
		err = os.MkdirAll(u.dir(), 0o755)
	}
	if err == nil && !s.add(u) {
		err = supervise.ErrRunning
	}
	if err == nil {
		err = group.Move(process.PID)
	}
	if err != nil {
		s.drop(u)
		return errors.Join(err, group.Remove(), s.records.remove(u.id))
	}
	s.spawn(ctx, u, u.attend)
	u.event(supervise.Event{Kind: supervise.EventState, State: supervise.Running})
	return nil
}
