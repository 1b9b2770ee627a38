package refresh

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"tenure"
	"tenure/internal/change"
	"tenure/internal/policy"
	"tenure/internal/snapdata"
	"tenure/internal/supervise"
)

// stopStep ends what the plan ends.
type stopStep struct{ m *Manager }

type stopParams struct {
	Change policy.Change `json:"change"`
	// Split are services that go on, and of which workloads are set apart first.
	Split []tenure.UnitID `json:"split,omitempty"`
	// Stop are the services.
	Stop []stopping `json:"stop,omitempty"`
	// End are workloads and runs of apps, which end after the services.
	End []tenure.UnitID `json:"end,omitempty"`
	// Hold are the units that start again in the same switch; their sockets stay open.
	Hold []tenure.UnitID `json:"hold,omitempty"`
	Kill bool            `json:"kill,omitempty"`
	// Strays is that nothing of the snap is to be left, in a unit or not.
	Strays bool `json:"strays,omitempty"`
	// Patient is that a step follows which waits for what must not be killed.
	Patient bool `json:"patient,omitempty"`
	// Terms are those that the plan says for its units, by the administrator's rules.
	Terms map[tenure.UnitID]supervise.Terms `json:"terms,omitempty"`
}

// stopping is a service as it was when the stop was decided.
type stopping struct {
	Unit       tenure.UnitID   `json:"unit"`
	Revision   tenure.Revision `json:"revision"`
	Generation int             `json:"generation"`
	// Spec is what it was started with, for the undo.
	Spec *supervise.Spec `json:"spec,omitempty"`
}

// over reports whether status is of a later life of the service than the one that
// was to be stopped.
func (w stopping) over(status supervise.Status, why policy.Change) bool {
	return status.Revision != w.Revision || why.From == why.To && status.Generation > w.Generation
}

func (s stopStep) Do(ctx context.Context, p stopParams) (nothing, error) {
	if err := s.tell(ctx, p); err != nil {
		return nothing{}, change.Partial(err)
	}
	return nothing{}, nil
}

// tell is stop, which may leave it to the next step to wait.
func (s stopStep) tell(ctx context.Context, p stopParams) error {
	err := s.stop(ctx, p)
	waiting, waits := errors.AsType[*change.Waiting](err)
	switch {
	case !waits:
		return err
	case p.Patient:
		change.ReporterFrom(ctx).Logf("%s", waiting)
		return nil
	}
	return fmt.Errorf("stop services: %s", waiting.For) //nolint:err113 // It must not be taken for a wait.
}

func (s stopStep) stop(ctx context.Context, p stopParams) error {
	if err := s.split(ctx, p.Split); err != nil {
		return err
	}
	var held, closed []tenure.UnitID
	for _, service := range p.Stop {
		if slices.Contains(p.Hold, service.Unit) {
			held = append(held, service.Unit)
		} else {
			closed = append(closed, service.Unit)
		}
	}
	var left []tenure.UnitID
	for _, group := range []struct {
		units []tenure.UnitID
		hold  bool
	}{{closed, false}, {held, true}} {
		ended, err := s.m.stopUnits(ctx, p, group.units, group.hold)
		if err != nil {
			return err
		}
		left = append(left, ended.Left...)
	}
	if err := s.end(ctx, p, left); err != nil || !p.Strays {
		return err
	}
	if err := s.endLate(ctx, p); err != nil {
		return err
	}
	return s.m.endStrays(ctx, p.Change.Snap, p.Kill)
}

// split sets apart the workloads of services that go on.
func (s stopStep) split(ctx context.Context, services []tenure.UnitID) error {
	for _, service := range services {
		splitter, able := s.m.cfg.Supervisor.(supervise.Splitter)
		if !able {
			return fmt.Errorf("set workloads of %s apart: %w", service, errors.ErrUnsupported)
		}
		if err := splitter.Split(ctx, service); err != nil {
			return err
		}
	}
	return nil
}

// end ends what the plan ends beside services: the units that were there before,
// and those that have just come out of the services, decided by the same rules.
func (s stopStep) end(ctx context.Context, p stopParams, left []tenure.UnitID) error {
	units := slices.Clone(p.End)
	if len(left) > 0 {
		facts, err := s.m.facts(ctx, p.Change)
		if err != nil {
			return err
		}
		for _, item := range policy.Decide(facts).Items {
			if item.Verdict == tenure.Stop && item.Unit.Kind == tenure.Workload && !slices.Contains(units, item.Unit) {
				units = append(units, item.Unit)
			}
		}
	}
	_, err := s.m.stopUnits(ctx, p, units, false)
	return err
}

// endLate ends the units that have come out of others while those were told to end, until
// there are none.
func (s stopStep) endLate(ctx context.Context, p stopParams) error {
	for range strayRounds {
		facts, err := s.m.facts(ctx, p.Change)
		if err != nil {
			return err
		}
		var units []tenure.UnitID
		for _, item := range policy.Decide(facts).Items {
			if item.Verdict == tenure.Stop && item.Unit.Snap == p.Change.Snap {
				units = append(units, item.Unit)
			}
		}
		if len(units) == 0 {
			return nil
		}
		if _, err := s.m.stopUnits(ctx, p, units, false); err != nil {
			return err
		}
	}
	return fmt.Errorf("stop services: %w: there are ever new units of %s", supervise.ErrRunning, p.Change.Snap)
}

func (m *Manager) stopUnits(ctx context.Context, p stopParams, units []tenure.UnitID, hold bool) (supervise.Ended, error) {
	if len(units) == 0 {
		return supervise.Ended{}, nil
	}
	ended, err := m.stopOrWait(ctx, supervise.StopRequest{
		Units: units, Reason: p.Change.Reason, From: p.Change.From, To: p.Change.To,
		HoldSockets: hold, Kill: p.Kill, Terms: p.Terms,
	})
	report := change.ReporterFrom(ctx)
	for _, killed := range ended.Killed {
		report.Logf("%s did not end in its time and was killed", killed)
	}
	for _, left := range ended.Left {
		report.Logf("%s lives on", left)
	}
	if err != nil {
		return ended, fmt.Errorf("stop services: %w", err)
	}
	return ended, nil
}

// Undo starts again what was running; what was told to stop and still runs, as soon
// as it has ended. What had ended by the plan beside services cannot be brought back.
func (s stopStep) Undo(ctx context.Context, p stopParams, _ nothing) error {
	var specs []supervise.Spec
	for _, service := range p.Stop {
		if service.Spec != nil {
			specs = append(specs, *service.Spec)
		}
	}
	if len(specs) == 0 {
		return nil
	}
	if err := s.m.startAgain(ctx, specs...); err != nil {
		return fmt.Errorf("start services again: %w", err)
	}
	return nil
}

// Probe goes on with a stop that has begun: a service that was told to stop
// cannot be un-told.
func (s stopStep) Probe(ctx context.Context, p stopParams) (nothing, bool, error) {
	statuses, err := s.m.cfg.Supervisor.Units(ctx)
	if err != nil {
		return nothing{}, false, fmt.Errorf("see what was stopped: %w", err)
	}
	begun := false
	var rest []stopping
	for _, service := range p.Stop {
		at := slices.IndexFunc(statuses, func(status supervise.Status) bool { return status.Unit == service.Unit })
		if at < 0 || service.over(statuses[at], p.Change) {
			begun = true
			continue
		}
		begun = begun || statuses[at].State == supervise.Stopping || statuses[at].State == supervise.Inactive
		rest = append(rest, service)
	}
	if !begun {
		return nothing{}, false, nil
	}
	p.Stop = rest
	return nothing{}, true, s.tell(ctx, p)
}

// updateStep brings the copy of the data up to what the stopped services left.
type updateStep struct{ m *Manager }

func (s updateStep) Do(ctx context.Context, p copyParams) (nothing, error) {
	return nothing{}, s.m.secondCopy(ctx, p)
}

// Undo has nothing to do: the copy as a whole goes with the first one.
func (updateStep) Undo(context.Context, copyParams, nothing) error { return nil }

// Probe asks for the copy to be made again, which is a comparison.
func (updateStep) Probe(context.Context, copyParams) (nothing, bool, error) {
	return nothing{}, false, nil
}

// linkStep makes a revision current: the links and the commands of its apps.
type linkStep struct{ m *Manager }

type linkParams struct {
	Snap tenure.Instance `json:"snap"`
	// From and To are what is current before and after; zero is nothing.
	From     tenure.Revision `json:"from,omitzero"`
	To       tenure.Revision `json:"to,omitzero"`
	FromApps []tenure.App    `json:"from_apps,omitempty"`
	ToApps   []tenure.App    `json:"to_apps,omitempty"`
	// FromCompleted and ToCompleted are those of the apps that have a completer.
	FromCompleted []tenure.App `json:"from_completed,omitempty"`
	ToCompleted   []tenure.App `json:"to_completed,omitempty"`
}

func (p linkParams) reversed() linkParams {
	return linkParams{
		Snap: p.Snap, From: p.To, To: p.From,
		FromApps: p.ToApps, ToApps: p.FromApps, FromCompleted: p.ToCompleted, ToCompleted: p.FromCompleted,
	}
}

// changes reports whether there is anything to do.
func (p linkParams) changes() bool {
	return p.From != p.To || !slices.Equal(p.FromApps, p.ToApps) || !slices.Equal(p.FromCompleted, p.ToCompleted)
}

func (s linkStep) Do(ctx context.Context, p linkParams) (nothing, error) {
	err := s.m.link(ctx, p)
	if err == nil {
		return nothing{}, nil
	}
	return nothing{}, errors.Join(err, s.back(context.WithoutCancel(ctx), p))
}

func (s linkStep) Undo(ctx context.Context, p linkParams, _ nothing) error { return s.back(ctx, p) }

// back switches back, now or as soon as the disk lets it.
func (s linkStep) back(ctx context.Context, p linkParams) error {
	err := s.m.link(ctx, p.reversed())
	if err != nil {
		s.m.mendLinks(p)
	}
	return err
}

// Probe completes a switch that has begun.
func (s linkStep) Probe(ctx context.Context, p linkParams) (nothing, bool, error) {
	target, err := os.Readlink(s.m.cfg.Paths.Current(p.Snap))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nothing{}, false, fmt.Errorf("see what is current: %w", err)
	}
	before := ""
	if !p.From.IsZero() {
		before = p.From.String()
	}
	if target == before {
		// What was to become a link may be there already, and a power failure may have kept what
		// came after it.
		return nothing{}, false, s.m.link(ctx, p.reversed())
	}
	return nothing{}, true, s.m.link(ctx, p)
}

// nextSuffix is on the name of what is to replace a link or a file, behind a dot and the name of that: nothing that is
// replaced has such a name.
const nextSuffix = ".next"

func nextOf(path string) string {
	dir, name := filepath.Split(path)
	return dir + "." + name + nextSuffix
}

// removePlaced removes a link or a file, and what is left of what was to replace it.
func removePlaced(path string) error {
	return errors.Join(removeExisting(nextOf(path)), removeExisting(path))
}

func (m *Manager) link(ctx context.Context, p linkParams) error {
	paths := m.cfg.Paths
	links := []string{paths.Current(p.Snap), paths.DataCurrent(p.Snap)}
	// As in everybody's home, a directory that is there instead of the link is left alone.
	if own := paths.UserDir(p.Snap); !isMissing(own) && !isDir(filepath.Join(own, current)) {
		links = append(links, filepath.Join(own, current))
	}
	for _, link := range links {
		if err := pointLink(ctx, link, p.To); err != nil {
			return fmt.Errorf("switch %s to %s: %w", p.Snap, p.To, err)
		}
	}
	for _, app := range p.FromApps {
		if !slices.Contains(p.ToApps, app) {
			if err := removePlaced(m.command(p.Snap, app)); err != nil {
				return fmt.Errorf("remove command: %w", err)
			}
			m.complete(commandName(p.Snap, app), p.Snap, app, nil)
		}
	}
	for _, app := range p.ToApps {
		if err := m.makeCommand(p.Snap, app); err != nil {
			return fmt.Errorf("make command: %w", err)
		}
		m.complete(commandName(p.Snap, app), p.Snap, app, p.ToCompleted)
	}
	return m.linkAliases(p.Snap, p.ToApps, p.ToCompleted)
}

// pointLink makes link point to rev, in one instant; no revision removes it. Services may write to where links of data
// are, too: a directory that is in the way there goes, with all that is in it, so that nobody can keep a snap from its
// refresh or removal.
func pointLink(ctx context.Context, link string, rev tenure.Revision) error {
	for _, path := range []string{link, nextOf(link)} {
		if !isDir(path) {
			continue
		}
		change.ReporterFrom(ctx).Logf("%s is a directory, and in the way of a link: it is removed", path)
		if err := snapdata.Remove(ctx, path); err != nil {
			return err
		}
	}
	if rev.IsZero() {
		return removePlaced(link)
	}
	return pointAt(link, rev.String())
}

func isDir(path string) bool {
	info, err := os.Lstat(path)
	return err == nil && info.IsDir()
}

// pointAt makes link point at target, in one instant.
func pointAt(link, target string) error {
	next := nextOf(link)
	if err := removeExisting(next); err != nil {
		return err
	}
	if there, err := os.Readlink(link); err == nil && there == target {
		return nil
	}
	return placed(next, link, os.Symlink(target, next))
}

// placed renames what was made, if it was made whole; otherwise nothing is left of it.
func placed(next, path string, err error) error {
	if err == nil {
		err = os.Rename(next, path)
	}
	if err != nil {
		_ = os.Remove(next) // The next one does, too.
	}
	return err
}

// putFile makes a file, or replaces it, in one instant.
func putFile(path, text string, mode os.FileMode) error {
	next := nextOf(path)
	if err := removeExisting(next); err != nil {
		return err
	}
	return placed(next, path, os.WriteFile(next, []byte(text), mode))
}

func removeExisting(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// command is the entry of an app in snap/bin: the snap's name alone for the app
// that is called like it.
func (m *Manager) command(snap tenure.Instance, app tenure.App) string {
	return filepath.Join(m.cfg.Paths.Bin(), commandName(snap, app))
}

func commandName(snap tenure.Instance, app tenure.App) string {
	if string(app) == snap.Snap() {
		return string(snap)
	}
	return string(snap) + "." + string(app)
}

// quote makes one word of the shell of s.
func quote(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" }

// maxShebang is how long the first line of a script may be on every kernel (execve(2)).
const maxShebang = 127

// entry is what the entry of an app in snap/bin has in it: a script for the helper,
// which costs no shell.
func (m *Manager) entry(snap tenure.Instance, app tenure.App) string {
	helper, name := m.cfg.Paths.Helper(), string(snap)+"."+string(app)
	line := "#!" + helper + " --command=" + name + "\n"
	if len(line) <= maxShebang && !strings.ContainsAny(helper, " \t\n") {
		return line
	}
	return "#!/bin/sh\nexec " + quote(helper) + " app " + name + " \"$@\"\n"
}

func (m *Manager) makeCommand(snap tenure.Instance, app tenure.App) error {
	path := m.command(snap, app)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	if err := removeExisting(nextOf(path)); err != nil {
		return err
	}
	script := m.entry(snap, app)
	if current, err := os.ReadFile(path); err == nil && string(current) == script {
		return nil
	}
	return putFile(path, script, 0o755)
}

// startStep starts services on what is current now.
type startStep struct{ m *Manager }

type startParams struct {
	Change policy.Change    `json:"change"`
	Specs  []supervise.Spec `json:"specs"`
	// Idle are services that are started if a hook of the same change asks for it.
	Idle []supervise.Spec `json:"idle,omitempty"`
	// Before are the workloads on the revision that is started, of an earlier time.
	Before []tenure.UnitID `json:"before,omitempty"`
	// Stay are those of Specs that ran already: to give up is not to stop them.
	Stay []tenure.UnitID `json:"stay,omitempty"`
	// Stopped are the services that the same switch stops first, as they were.
	Stopped []stopping `json:"stopped,omitempty"`
}

func (s startStep) Do(ctx context.Context, p startParams) (nothing, error) {
	specs, err := s.wanted(ctx, p)
	if err == nil {
		err = s.m.broken.under(specs)
	}
	if err != nil {
		return nothing{}, err
	}
	err = s.m.cfg.Supervisor.Start(ctx, specs...)
	if err == nil {
		return nothing{}, nil
	}
	logStart(ctx, err)
	return nothing{}, change.Partial(fmt.Errorf("start services: %w", err))
}

// logStart puts the last words of a service that did not start into the task's log.
func logStart(ctx context.Context, err error) {
	failed, ok := errors.AsType[*supervise.StartError](err)
	if !ok {
		return
	}
	for _, line := range failed.Log {
		change.ReporterFrom(ctx).Logf("%s: %s", failed.Unit, line)
	}
}

// wanted are the services that no hook of the same change has asked to leave stopped, and
// those that one has asked to start.
func (s startStep) wanted(ctx context.Context, p startParams) ([]supervise.Spec, error) {
	runs, err := s.m.confs.runs.Keys()
	if err != nil || len(runs) == 0 {
		return p.Specs, err
	}
	apps := make([]tenure.App, 0, len(p.Specs)+len(p.Idle))
	for _, unit := range slices.Concat(names(p.Specs), names(p.Idle)) {
		apps = append(apps, unit.App)
	}
	all, err := s.m.wanted(ctx, p.Change.Snap, apps)
	if err != nil {
		return nil, err
	}
	specs := slices.DeleteFunc(slices.Clone(p.Specs), func(spec supervise.Spec) bool {
		return all[spec.Unit.App].action == string(ActionStop)
	})
	for i := range p.Idle {
		if all[p.Idle[i].Unit.App].action == string(ActionStart) {
			specs = append(specs, p.Idle[i])
		}
	}
	return specs, nil
}

// Undo stops what was started; those that are to run again on the revision
// before keep their sockets open meanwhile.
func (s startStep) Undo(ctx context.Context, p startParams, _ nothing) error {
	stop := undoing(p.Change)
	stop.Units, stop.HoldSockets = slices.Concat(names(p.Specs), names(p.Idle)), !p.Change.From.IsZero()
	stop.Units = slices.DeleteFunc(stop.Units, func(unit tenure.UnitID) bool { return slices.Contains(p.Stay, unit) })
	if len(stop.Units) == 0 {
		return nil
	}
	_, err := s.m.stopOrWait(ctx, stop)
	if err == nil {
		err = s.endOffspring(ctx, p)
	}
	if err != nil {
		return fmt.Errorf("stop services again: %w", err)
	}
	return nil
}

// endOffspring ends the workloads that came out of services which are not to have
// been started: they would keep the revision that is to go.
func (s startStep) endOffspring(ctx context.Context, p startParams) error {
	if p.Change.From == p.Change.To {
		return nil
	}
	statuses, err := s.m.cfg.Supervisor.Units(ctx)
	if err != nil {
		return err
	}
	var units []tenure.UnitID
	for i := range statuses {
		if offspring(&statuses[i], p.Change) && !slices.Contains(p.Before, statuses[i].Unit) {
			units = append(units, statuses[i].Unit)
		}
	}
	if len(units) == 0 {
		return nil
	}
	stop := undoing(p.Change)
	stop.Units = units
	_, err = s.m.stopOrWait(ctx, stop)
	return err
}

// undoing is a stop for the undo of a change: the way back. From an installation that is
// a removal: what acts by the reason must not leave anything behind.
func undoing(c policy.Change) supervise.StopRequest {
	stop := supervise.StopRequest{Reason: c.Reason, From: c.To, To: c.From}
	if c.From.IsZero() {
		stop.Reason = tenure.ReasonRemove
	}
	return stop
}

// offspring reports whether a unit came out of a service of the revision that a
// change starts.
func offspring(status *supervise.Status, c policy.Change) bool {
	return status.Unit.Kind == tenure.Workload && status.Unit.Snap == c.Snap && status.Revision == c.To
}

// stands reports whether a service has not been stopped yet: where it starts again on the
// revision that it ran on, that is all that tells.
func (p startParams) stands(status supervise.Status) bool {
	return slices.ContainsFunc(p.Stopped, func(was stopping) bool { return was.Unit == status.Unit && !was.over(status, p.Change) })
}

// Probe tells whether any of the services runs from its new Spec; starting them
// again starts only those that do not.
func (s startStep) Probe(ctx context.Context, p startParams) (nothing, bool, error) {
	statuses, err := s.m.cfg.Supervisor.Units(ctx)
	if err != nil {
		return nothing{}, false, fmt.Errorf("see what was started: %w", err)
	}
	for _, status := range statuses {
		for i := range p.Specs {
			if status.Unit == p.Specs[i].Unit && status.Revision == p.Specs[i].Revision && status.State != supervise.Inactive && !p.stands(status) {
				_, err := s.Do(ctx, p)
				return nothing{}, true, err
			}
		}
	}
	return nothing{}, false, nil
}
