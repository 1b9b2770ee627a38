package native

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"tenure"
	"tenure/internal/proc"
	"tenure/internal/supervise"
	"tenure/internal/supervise/fdstore"
)

// adopt finds everything that an earlier supervisor left: first the records, then
// what is in groups that no record speaks of.
func (s *Supervisor) adopt(ctx context.Context) error {
	recs, warnings := s.records.load(s.boot)
	for _, warning := range warnings {
		s.cfg.Logger.Warn("record is passed over", slog.Any("error", warning))
	}
	recs, stale := resumeHandOvers(recs)
	mend(recs)
	recs, err := s.startedByHost(ctx, recs)
	if err != nil {
		return err
	}
	spoken := make(map[string]bool)
	var units []*unit
	for _, rec := range recs {
		s.common.share(rec.Spec)
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
	if err := s.rewrite(recs, stale); err != nil {
		return err
	}
	return s.begin(ctx, append(units, orphans...))
}

// begin lets units go on, and returns when they have looked where they are.
func (s *Supervisor) begin(ctx context.Context, units []*unit) error {
	kept, err := s.cfg.Holder.Known(ctx, fdstore.Notify)
	if err != nil {
		// Each asks for its own, then.
		s.cfg.Logger.Warn("what is kept of all units cannot be had at once", slog.Any("error", err))
		kept = make(map[tenure.UnitID][]fdstore.Kept)
	}
	pending := make(map[*unit]chan struct{})
	for _, u := range units {
		u.adopting = true
		if s.add(u) {
			adopted := make(chan struct{})
			pending[u] = adopted
			known := takeKept(kept, u)
			s.spawn(ctx, u, func(ctx context.Context) { u.adopted(ctx, known, func() { close(adopted) }) })
		}
	}
	for _, nobodys := range kept {
		closeKept(nobodys)
	}
	for u, adopted := range pending {
		select {
		case <-adopted:
		case <-u.gone:
		}
	}
	return nil
}

// hearing bounds how long is waited for what a unit has said while nobody heard it: one that does not stop keeps nobody from starting.
const hearing = 5 * time.Second

// takeKept takes out of kept what is u's. Generations of a service may have it in common.
func takeKept(kept map[tenure.UnitID][]fdstore.Kept, u *unit) (taken []fdstore.Kept) {
	keeper := u.keeper()
	kept[keeper] = slices.DeleteFunc(kept[keeper], func(k fdstore.Kept) bool {
		if k.Name == u.home {
			taken = append(taken, k)
		}
		return k.Name == u.home
	})
	return taken
}

// rewrite writes what hand-overs that were completed have changed.
func (s *Supervisor) rewrite(recs []*record, stale []tenure.UnitID) error {
	for _, rec := range recs {
		if rec.Successor.IsZero() {
			continue
		}
		if err := s.records.save(rec); err != nil {
			return err
		}
	}
	for _, unit := range stale {
		if err := s.records.remove(unit); err != nil {
			return err
		}
	}
	return nil
}

// mend makes the records agree where the supervisor died after it had written
// that of a new unit, and before that of the unit which it came out of.
func mend(recs []*record) {
	owners := make(map[string]*record)
	for _, rec := range recs {
		if (rec.Passive || rec.Draining) && rec.Group != "" {
			owners[rec.Group] = rec
		}
	}
	byGroup := make(map[string]*record)
	for _, rec := range recs {
		if owner := owners[rec.Group]; owner != nil && owner != rec {
			rec.giveGroupTo(owner)
		}
		if rec.Group != "" {
			byGroup[rec.Group] = rec
		}
	}
	for _, rec := range recs {
		for _, claim := range rec.Claims {
			host := byGroup[filepath.Dir(claim)]
			if host != nil && host != rec && !slices.Contains(host.Ceded, claim) {
				host.Ceded = append(host.Ceded, claim)
			}
		}
	}
}

// giveGroupTo makes the record that of a unit out of which another came with its
// group. A service that has handed over, and whose successor ended before it was
// the service, has no process either, and another runtime directory from now on.
func (r *record) giveGroupTo(owner *record) {
	r.Group, r.Ceded = "", nil
	if owner.Draining {
		r.Main, r.Home = tenure.Process{}, encodeUnit(r.Spec.Unit)+"."+strconv.Itoa(r.Generation+1)
	}
}

// adoptGroups lets go on what stands still, removes what is empty, and makes
// units of what no record speaks of. Groups that services made are their own
// business: a container that is paused stays so.
func (s *Supervisor) adoptGroups(spoken map[string]bool) ([]*unit, error) {
	groups, err := s.cfg.Hierarchy.Groups()
	if err != nil {
		return nil, err
	}
	var orphans []*unit
	for _, group := range groups {
		rel, ok := group.Rel(s.cfg.Hierarchy)
		if !ok || strings.Count(rel, "/") != 1 {
			continue
		}
		if err := group.Wake(); err != nil {
			s.cfg.Logger.Warn("group cannot be thawed", slog.String("group", group.Path()), slog.Any("error", err))
		}
		if spoken[group.Path()] {
			continue
		}
		infos, err := group.Processes()
		infos = slices.DeleteFunc(infos, func(i proc.Info) bool {
			return i.Foreign && spoken[filepath.Join(group.Path(), topGroup(i.Group))]
		})
		if err != nil || len(infos) == 0 {
			s.removeUnspoken(group, spoken)
			continue
		}
		if u := s.orphan(group, infos); u != nil {
			orphans = append(orphans, u)
		}
	}
	return orphans, nil
}

// removeUnspoken removes an empty group, unless a claimed one is in it.
func (s *Supervisor) removeUnspoken(group proc.Group, spoken map[string]bool) {
	for path := range spoken {
		if strings.HasPrefix(path, group.Path()+"/") {
			return
		}
	}
	if s.cfg.Host == nil && group.Remove() == nil {
		_ = os.Remove(filepath.Dir(group.Path())) // It is in use when this fails.
	}
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

// adopted is how a unit begins its life with another supervisor than before. It calls done when it has looked where it is.
func (u *unit) adopted(ctx context.Context, kept []fdstore.Kept, done func()) {
	u.openNotifyAgain(ctx, kept)
	if !u.rec.Successor.IsZero() {
		u.relabel()
		u.settle(ctx)
	}
	u.recover(ctx)
	switch {
	case u.overlaps() && u.rec.State == supervise.Inactive:
		u.vanish(ctx) // The last supervisor died over it.
	case u.rec.Launching && u.rec.Ending == nil:
		u.adoptLaunch(ctx)
	case u.rec.Passive && u.rec.Ending == nil && (u.rec.State.Alive() || !u.id.Named()):
		u.attend(ctx)
	default:
		u.adoptProcesses(ctx, done)
		return
	}
	u.adopting = false
	done()
}

// adoptProcesses waits for the ends of the unit's processes again. Of one that has ended while nobody watched is heard first what it has
// said before, as which process is the main one now.
func (u *unit) adoptProcesses(ctx context.Context, done func()) {
	main, aux := u.rec.Main, u.rec.Aux
	reloads := u.rec.State == supervise.Reloading && aux == ""
	goOn := func(ctx context.Context) {
		if !u.adopting {
			return
		}
		u.adopting = false
		defer done()
		if u.main == nil && u.rec.Main.PID != 0 && u.rec.Main == main {
			u.mainLost(ctx)
		}
		if u.aux == nil && u.rec.Aux != "" && u.rec.Aux == aux {
			u.auxEnded(ctx, proc.Exit{}, supervise.Event{Cause: supervise.CauseExit})
		}
		if reloads && u.rec.State == supervise.Reloading {
			u.state(supervise.Running)
		}
		u.goOn(ctx)
	}
	mainThere, auxThere := u.adoptMain(), u.adoptAux()
	if mainThere && auxThere {
		goOn(ctx)
		return
	}
	u.afterNotified(ctx, goOn)
	u.background(func(ctx context.Context) {
		select {
		case <-time.After(hearing):
			_ = u.tell(ctx, goOn)
		case <-u.gone:
		case <-ctx.Done():
		}
	})
}

// goOn takes up again what an adopted unit was about to do.
func (u *unit) goOn(ctx context.Context) {
	u.adoptAlarms(ctx)
	switch {
	case u.rec.Ending != nil:
		u.watchGroups(ctx)
		u.askTerms()
		u.progress(ctx)
	case u.rec.State == supervise.Listening:
		u.listenAgain(ctx)
	case u.main == nil && u.forkedUnseen():
		u.forked(ctx)
	case u.rec.State.Alive() && u.main == nil:
		u.endBy(ctx, supervise.CauseExit)
	case u.rec.State == supervise.Starting && u.rec.Spec.Type == supervise.DBus:
		u.awaitBusName(ctx)
	}
	// While nobody listened it may have said often enough that it lives, and have
	// started workloads.
	u.feedWatchdog()
	u.s.nursery.follow(u) // Perhaps nothing has changed, so that it was not published.
	u.setApartEarly(ctx)
}

// listenAgain waits for somebody to connect. A holder that has died as well has taken the
// sockets along: they are opened anew.
func (u *unit) listenAgain(ctx context.Context) {
	if u.s.cfg.Host == nil {
		if err := u.openSockets(ctx, u.rec.Spec); err != nil {
			u.warn("sockets cannot be opened again", err)
		}
	}
	u.listen(ctx)
}

// forkedUnseen reports whether the first process of a service that forks has ended while
// nobody watched, and not by a failure that is known: what it has left, if anything, is the
// service.
func (u *unit) forkedUnseen() bool {
	return u.rec.State == supervise.Starting && u.rec.Spec.Type == supervise.Forking &&
		u.rec.Exit != nil && (!u.rec.Exit.Known || u.rec.Exit.Success())
}

// adoptMain waits for the main process again, and reports whether it is there, if there was one.
func (u *unit) adoptMain() bool {
	if u.rec.Main.PID == 0 {
		return true
	}
	handle, err := proc.Open(u.rec.Main)
	if err != nil {
		return false
	}
	u.holdMain(handle)
	if u.rec.Ending == nil {
		u.serves() // The last supervisor may have died before it had said so.
	}
	return true
}

// mainLost is the end of a main process while nobody watched: its exit nobody knows, but for a host.
func (u *unit) mainLost(ctx context.Context) {
	exit := u.exitByHost(ctx, u.rec.Group, u.rec.Main)
	u.rec.Main, u.rec.Exit, u.rec.LastExit = tenure.Process{}, &exit, &exit
	if u.rec.Ending != nil {
		u.rec.Ending.Exit = u.rec.Exit
	}
}

// adoptLaunch completes a launch in whose middle the supervisor died: the
// process may have been born or not. A workload is not launched twice: who asked for
// it has not been told that it runs.
func (u *unit) adoptLaunch(ctx context.Context) {
	u.rec.Launching = false
	infos, _ := u.living()
	for _, info := range infos {
		handle, err := proc.Open(info.Process)
		if err != nil {
			continue
		}
		u.rec.Started, u.rec.Found = info.Started, true
		u.holdMain(handle)
		u.serves()
		u.started(ctx)
		return
	}
	if u.rec.Passive {
		u.endBy(ctx, supervise.CauseExit)
		return
	}
	u.dropGroup(ctx, true)()
	u.launch(ctx)
}

// adoptAlarms sets again what the record says nothing of: where it is of a release that
// counted by the clock on the wall, the time begins anew.
func (u *unit) adoptAlarms(ctx context.Context) {
	spec := u.rec.Spec
	missing := func(name alarm, after time.Duration) {
		if _, set := u.rec.Deadline[name]; !set && after > 0 {
			u.setAlarm(name, after)
		}
	}
	switch e := u.rec.Ending; {
	case e != nil && e.Phase == phaseSignal && e.Told == 0:
		e.Told, e.Began = present(), present()
		u.resumeGrace()
	case u.rec.State == supervise.Starting:
		missing(alarmStart, spec.StartTimeout)
	case u.rec.State == supervise.Backoff:
		missing(alarmBackoff, restartDelay(spec.Restart, u.rec.Streak))
	case u.rec.State == supervise.Waiting && u.rec.Next.IsZero() && u.s.cfg.Host == nil:
		u.arm(ctx)
	}
	if u.rec.Aux != "" && u.rec.AuxKind != auxReload {
		missing(alarmAux, u.grace())
	}
	u.awaitNext()
}

// adoptAux waits for the command that the unit runs again, and reports whether it is there, if there was one.
func (u *unit) adoptAux() bool {
	if u.rec.Aux == "" {
		return true
	}
	if infos, err := proc.GroupAt(u.rec.Aux).Processes(); err == nil && len(infos) > 0 && u.rec.AuxMain.PID == 0 {
		u.rec.AuxMain = infos[0].Process // The last supervisor died before it could write that.
		u.save()
	}
	handle, err := proc.Open(u.rec.AuxMain)
	if err != nil {
		return false
	}
	u.holdAux(handle)
	return true
}
