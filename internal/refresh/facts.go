package refresh

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"syscall"

	"tenure"
	"tenure/internal/hook"
	"tenure/internal/policy"
	"tenure/internal/proc"
	"tenure/internal/snapfile"
	"tenure/internal/supervise"
)

// supported are the verdicts that the steps of this package carry out.
func supported() []tenure.Verdict {
	return []tenure.Verdict{tenure.Restart, tenure.Reload, tenure.HandOver, tenure.Stop, tenure.Endure, tenure.Defer, tenure.Refuse}
}

// facts gathers what a decision about change depends on, with what the administrator's
// rules say. More are revisions that are not installed yet, but that the change leads to.
func (m *Manager) facts(ctx context.Context, change policy.Change, more ...installed) (policy.Facts, error) {
	facts, known, err := m.gather(ctx, change, more...)
	if err == nil {
		m.rule(&facts, known)
	}
	return facts, err
}

// gather is facts without the rules, and the revisions that they are about.
func (m *Manager) gather(ctx context.Context, change policy.Change, more ...installed) (policy.Facts, revisions, error) {
	facts := policy.Facts{Now: m.cfg.Now(), Change: change, Supported: supported(), Limits: m.limits()}
	states, err := m.snaps.All()
	if err != nil {
		return policy.Facts{}, revisions{}, fmt.Errorf("gather facts: %w", err)
	}
	units, statuses, err := m.unitsOf(ctx, change.Snap)
	if err != nil {
		return policy.Facts{}, revisions{}, err
	}
	facts.Units = units[change.Snap]
	linesIn(states).tell(&facts, statuses)
	known := revisions{states, more}
	m.declare(&facts, known)
	return facts, known, nil
}

// unitsOf are the units that have to do with each of snaps, and how all units are doing, at one time.
func (m *Manager) unitsOf(ctx context.Context, snaps ...tenure.Instance) (units map[tenure.Instance][]policy.Unit, statuses []supervise.Status, err error) {
	startedBy, err := m.startedBy()
	if err != nil {
		return nil, nil, err
	}
	statuses, err = m.steady(ctx, func(statuses []supervise.Status) (err error) {
		units = make(map[tenure.Instance][]policy.Unit, len(snaps))
		for _, snap := range snaps {
			if units[snap], err = m.concerned(ctx, statuses, startedBy, snap); err != nil {
				return err
			}
		}
		return nil
	})
	return units, statuses, err
}

// steadyRounds is how often units are read that do not stay the same. What comes out of
// them all the time is found when they are decided on again, frozen.
const steadyRounds = 8

// steady reads all units, until none has come while they were read: what was split off a
// unit before its processes were read would be in none of both.
func (m *Manager) steady(ctx context.Context, read func([]supervise.Status) error) ([]supervise.Status, error) {
	statuses, err := m.cfg.Supervisor.Units(ctx)
	for range steadyRounds {
		if err != nil {
			return nil, fmt.Errorf("gather facts: %w", err)
		}
		if err := read(statuses); err != nil {
			return nil, err
		}
		var after []supervise.Status
		after, err = m.cfg.Supervisor.Units(ctx)
		same := func(a, b supervise.Status) bool { return a.Unit == b.Unit && a.Generation == b.Generation }
		if err == nil && slices.EqualFunc(statuses, after, same) {
			break
		}
		statuses = after
	}
	return statuses, err
}

// concerned are the units that have to do with a snap, and that are alive or have processes.
func (m *Manager) concerned(ctx context.Context, statuses []supervise.Status, startedBy map[tenure.UnitID]tenure.Instance, snap tenure.Instance) ([]policy.Unit, error) {
	var units []policy.Unit
	for _, status := range statuses {
		by := startedBy[status.Unit.Service()]
		if !concerns(&status, by, snap) {
			continue
		}
		unit, err := m.unitFacts(ctx, status)
		if err != nil {
			return nil, err
		}
		unit.By = by
		if unit.Active || len(unit.Processes) > 0 {
			units = append(units, unit)
		}
	}
	return units, nil
}

// declare adds to facts what the revisions of the snaps that they are about say. Those of
// other snaps than the one that changes tell their services from their workloads.
func (m *Manager) declare(facts *policy.Facts, known revisions) {
	about := snapsOf(facts)
	for _, state := range known.states {
		if !slices.Contains(about, state.Instance) {
			continue
		}
		for rev := range state.Kept {
			r := state.revision(rev)
			facts.Declarations = append(facts.Declarations, m.declaration(&r))
		}
	}
	for i := range known.more {
		facts.Declarations = append(facts.Declarations, m.declaration(&known.more[i]))
	}
	slices.SortFunc(facts.Declarations, func(a, b policy.Declaration) int {
		return cmp.Or(cmp.Compare(a.Snap, b.Snap), a.Revision.Compare(b.Revision))
	})
}

// concerns reports whether a unit, which a snap may have started in another, has to do
// with snap: it is of it, runs on it, or was started by it.
func concerns(status *supervise.Status, by, snap tenure.Instance) bool {
	return status.Unit.Snap == snap || status.Spec == nil || status.Spec.Base.Snap == snap || by != "" && by == snap
}

func (m *Manager) unitFacts(ctx context.Context, status supervise.Status) (policy.Unit, error) {
	processes, err := m.processes(ctx, status.Unit)
	if err != nil {
		return policy.Unit{}, fmt.Errorf("gather facts: %w", err)
	}
	return factsOf(status, processes), nil
}

// factsOf is a unit with its processes, in the terms of policy.
func factsOf(status supervise.Status, processes []proc.Info) policy.Unit {
	unit := policy.Unit{
		ID:       status.Unit,
		Revision: status.Revision,
		Main:     status.Main,
		Since:    status.Started,
	}
	switch status.State {
	case supervise.Inactive, supervise.Failed:
	case supervise.Listening, supervise.Waiting, supervise.Starting, supervise.Running,
		supervise.Reloading, supervise.Stopping, supervise.Backoff:
		unit.Active = true
	}
	if status.Spec != nil && !status.Spec.Base.IsZero() {
		unit.Uses = []tenure.Ref{status.Spec.Base}
	}
	for _, p := range processes {
		unit.Processes = append(unit.Processes, processFacts(p))
	}
	return unit
}

// processes are those of a unit that was there a moment ago. It may have ended
// and been forgotten since; then there are none.
func (m *Manager) processes(ctx context.Context, unit tenure.UnitID) ([]proc.Info, error) {
	infos, err := m.cfg.Supervisor.Processes(ctx, unit)
	if err != nil && !errors.Is(err, supervise.ErrUnknown) {
		return nil, fmt.Errorf("see processes of %s: %w", unit, err)
	}
	return infos, nil
}

func processFacts(p proc.Info) policy.Process {
	return policy.Process{Process: p.Process, PPID: p.PPID, CommandLine: p.CommandLine(), Foreign: p.Foreign, Group: p.Group, Started: p.Started, Memory: p.Memory}
}

// declaration is what r says, in the terms of policy.
func (m *Manager) declaration(r *installed) policy.Declaration {
	d := policy.Declaration{
		Snap:      r.Ref.Snap,
		Revision:  r.Ref.Revision,
		Version:   r.Info.Version,
		Base:      baseFacts(r),
		Classic:   r.classic(),
		Evacuates: r.Info.Hook(string(hook.Evacuate)) != nil,
		Apps:      make(map[tenure.App]policy.App, len(r.Info.Apps)),
	}
	for i := range r.Info.Apps {
		app := &r.Info.Apps[i]
		declared := policy.App{
			Daemon:       app.IsService(),
			RefreshMode:  policy.RefreshMode(app.RefreshMode),
			Refresh:      app.Lifecycle.Refresh,
			DeferWhile:   app.Lifecycle.DeferWhile,
			Stop:         stopFacts(app),
			DrainTimeout: app.Lifecycle.DrainTimeout,
			KeepsNoData:  app.Lifecycle.Data == snapfile.DataNone,
			Instances:    app.Lifecycle.Instances,
			Observe:      m.window(app),
		}
		for j := range app.Lifecycle.Workloads {
			declared.Workloads = append(declared.Workloads, workloadFacts(app, &app.Lifecycle.Workloads[j]))
		}
		d.Apps[app.Name] = declared
	}
	return d
}

// baseFacts is the base that the units of a revision have as their root.
func baseFacts(r *installed) string {
	base := r.Info.EffectiveBase()
	if base == snapfile.BaseNone || r.classic() {
		return ""
	}
	return base
}

func stopFacts(app *snapfile.App) policy.Stop {
	mode := app.EffectiveStopMode()
	stop := policy.Stop{
		Command: len(app.StopCommand) > 0,
		Signal:  signalName(mode.Signal()),
		Target:  policy.TargetMain,
		Timeout: app.EffectiveStopTimeout(),
		Kill:    policy.KillAfterTimeout,
	}
	if mode.All() {
		stop.Target = policy.TargetGroup
	}
	if !app.Lifecycle.MayKill() {
		stop.Kill = policy.KillNever
	}
	return stop
}

func workloadFacts(app *snapfile.App, w *snapfile.Workload) policy.Workload {
	stop := stopFacts(app)
	stop.Command, stop.Target = len(w.StopCommand) > 0, policy.TargetGroup
	stop.Timeout = app.EffectiveWorkloadStopTimeout(w)
	if number := w.StopSignal.Number(); number != 0 {
		stop.Signal = signalName(number)
	}
	if !app.MayKillWorkload(w) {
		stop.Kill = policy.KillNever
	}
	facts := policy.Workload{Name: w.Name, Match: w.Match, Verdicts: w.OnReason, CompatibleFrom: w.CompatibleFrom}
	if w.Verdict(tenure.ReasonRefresh) == tenure.Reload || w.Verdict(tenure.ReasonRevert) == tenure.Reload || w.ReloadSignal != "" {
		facts.ReloadSignal = signalName(cmp.Or(w.ReloadSignal.Number(), syscall.SIGHUP))
	}
	if len(w.StopCommand) > 0 || w.StopSignal != "" || w.StopTimeout > 0 || w.Kill != "" {
		facts.Stop = &stop
	}
	return facts
}

func signalName(s syscall.Signal) string { return proc.SignalName(s) }
