package refresh

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"tenure"
	"tenure/internal/change"
	"tenure/internal/policy"
	"tenure/internal/supervise"
)

// succession is a service that hands over to its next generation.
type succession struct {
	// Old is what it was started with, New what its successor is.
	Old supervise.Spec `json:"old"`
	New supervise.Spec `json:"new"`
	// Drain is how long the old generation may take to end; 0 is its grace period.
	Drain time.Duration `json:"drain,omitempty"`
}

type handOverParams struct {
	Change   policy.Change `json:"change"`
	Services []succession  `json:"services"`
	// Before are the workloads on the new revision, of an earlier time.
	Before []tenure.UnitID `json:"before,omitempty"`
	// Terms are those that the plan says for the services, by the administrator's rules.
	Terms map[tenure.UnitID]supervise.Terms `json:"terms,omitempty"`
}

// succession is the hand-over of the service of known, compiled.
func (m *Manager) succession(j *job, known supervise.Status, drain time.Duration) (succession, error) {
	_, next, err := m.next(j, known, false)
	if err != nil {
		return succession{}, fmt.Errorf("hand over: %w", err)
	}
	return succession{Old: *known.Spec, New: next, Drain: drain}, nil
}

// overlapper is the supervisor's ability to let generations overlap.
func (m *Manager) overlapper() (supervise.Overlapper, error) {
	overlapper, able := m.cfg.Supervisor.(supervise.Overlapper)
	if !able {
		return nil, fmt.Errorf("hand over: %w", errors.ErrUnsupported)
	}
	return overlapper, nil
}

// succeedStep starts the next generation of services beside the one that runs,
// which hears nothing of it. It stands after the last copy of the data, which must
// not change under who runs on it, and before the switch of what is current.
type succeedStep struct{ m *Manager }

func (s succeedStep) Do(ctx context.Context, p handOverParams) (nothing, error) {
	overlapper, err := s.m.overlapper()
	if err != nil {
		return nothing{}, err
	}
	for i := range p.Services {
		next := &p.Services[i].New
		if err := overlapper.Succeed(ctx, *next); err != nil {
			logStart(ctx, err)
			return nothing{}, change.Partial(fmt.Errorf("start services beside those that run: %w", err))
		}
		change.ReporterFrom(ctx).Logf("the next %s is ready", next.Unit)
	}
	return nothing{}, nil
}

// Undo ends the successors, and what has come out of them: they would keep the
// revision that is to go.
func (s succeedStep) Undo(ctx context.Context, p handOverParams, _ nothing) error {
	err := s.m.endBeside(ctx, p, tenure.Successor, p.Change.From)
	if err == nil {
		err = startStep(s).endOffspring(ctx, startParams{Change: p.Change, Before: p.Before})
	}
	if err != nil {
		return fmt.Errorf("stop services beside those that run: %w", err)
	}
	return nil
}

// endBeside ends the units of a name beside the services, but not those of one
// revision, which is the one that stays.
func (m *Manager) endBeside(ctx context.Context, p handOverParams, name string, stays tenure.Revision) error {
	units, err := m.beside(ctx, p, name, stays)
	if err != nil || len(units) == 0 {
		return err
	}
	from, to := p.Change.From, p.Change.To
	if stays == from {
		from, to = to, from
	}
	ended, err := m.halt(ctx, supervise.StopRequest{
		Units: units, Reason: p.Change.Reason, From: from, To: to, Kill: p.Change.Kill, Limit: m.limits().MaxStopTimeout,
		Terms: p.termsBeside(units),
	})
	for _, killed := range ended.Killed {
		change.ReporterFrom(ctx).Logf("%s did not end in its time and was killed", killed)
	}
	return err
}

// termsBeside are those of the services that units are beside: what a rule says of a service
// holds for all its generations.
func (p *handOverParams) termsBeside(units []tenure.UnitID) map[tenure.UnitID]supervise.Terms {
	terms := map[tenure.UnitID]supervise.Terms{}
	for _, unit := range units {
		if of, said := p.Terms[unit.Service()]; said {
			terms[unit] = of
		}
	}
	return terms
}

// beside are the units of a name beside the services that hand over.
func (m *Manager) beside(ctx context.Context, p handOverParams, name string, stays tenure.Revision) ([]tenure.UnitID, error) {
	statuses, err := m.cfg.Supervisor.Units(ctx)
	if err != nil {
		return nil, err
	}
	var units []tenure.UnitID
	for _, status := range statuses {
		if !status.Unit.Overlaps() || status.Unit.Name != name || status.Revision == stays {
			continue
		}
		if slices.ContainsFunc(p.Services, func(service succession) bool { return service.New.Unit == status.Unit.Service() }) {
			units = append(units, status.Unit)
		}
	}
	return units, nil
}

// Probe goes on with successors that there are.
func (s succeedStep) Probe(ctx context.Context, p handOverParams) (nothing, bool, error) {
	begun, err := s.m.beside(ctx, p, tenure.Successor, p.Change.From)
	if err != nil {
		return nothing{}, false, fmt.Errorf("see who was started: %w", err)
	}
	over, err := s.m.takenOver(ctx, p)
	if err != nil || !over && len(begun) == 0 {
		return nothing{}, false, err
	}
	_, err = s.Do(ctx, p)
	return nothing{}, true, err
}

// takenOver reports whether any of the services is the next generation already.
func (m *Manager) takenOver(ctx context.Context, p handOverParams) (bool, error) {
	statuses, err := m.statuses(ctx)
	if err != nil {
		return false, err
	}
	return slices.ContainsFunc(p.Services, func(service succession) bool {
		return statuses[service.New.Unit].Revision == service.New.Revision
	}), nil
}

// handOverStep makes the successors the services, and lets those before them drain.
type handOverStep struct{ m *Manager }

func (s handOverStep) Do(ctx context.Context, p handOverParams) (nothing, error) {
	for i := range p.Services {
		service := &p.Services[i]
		status, err := s.m.statusOf(ctx, service.New.Unit)
		if err == nil && status.Revision != service.New.Revision {
			err = s.m.takeOver(ctx, service.New.Unit, service.Drain)
		}
		if err != nil {
			return nothing{}, change.Partial(fmt.Errorf("hand over: %w", err))
		}
	}
	return nothing{}, change.Partial(s.m.drain(ctx, p, p.Change.To))
}

func (m *Manager) takeOver(ctx context.Context, service tenure.UnitID, drain time.Duration) error {
	overlapper, err := m.overlapper()
	if err != nil {
		return err
	}
	draining, err := overlapper.TakeOver(ctx, service, drain)
	if err != nil {
		return err
	}
	report := change.ReporterFrom(ctx)
	if draining.IsZero() {
		report.Logf("%s had no process to hand over", service)
		return nil
	}
	report.Logf("%s has handed over, and drains as %s", service, draining)
	return nil
}

// drain tells the generations before to end, and waits until they have. One that
// may not be killed and takes longer than its time lives on, listed and pinned: who
// is served by the new one has no harm from it.
func (m *Manager) drain(ctx context.Context, p handOverParams, stays tenure.Revision) error {
	err := m.endBeside(ctx, p, tenure.Draining, stays)
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		return fmt.Errorf("wait until services have drained: %w", err)
	}
	change.ReporterFrom(ctx).Logf("%v", err)
	return nil
}

// Undo hands over once more, the other way round.
func (s handOverStep) Undo(ctx context.Context, p handOverParams, _ nothing) error {
	var failures []error
	for i := range p.Services {
		failures = append(failures, s.m.handBack(ctx, p.Change, &p.Services[i]))
	}
	failures = append(failures, s.m.drain(ctx, p, p.Change.From))
	return errors.Join(failures...)
}

// handBack makes the old revision of a service the one that runs. Where the new one
// does not run, or cannot be succeeded, there is nobody whom a restart would hurt.
func (m *Manager) handBack(ctx context.Context, c policy.Change, service *succession) error {
	unit := service.Old.Unit
	status, err := m.statusOf(ctx, unit)
	if err != nil || status.Revision == service.Old.Revision && status.State.Alive() {
		return err
	}
	overlapper, err := m.overlapper()
	if err == nil && status.State.Alive() {
		if err = overlapper.Succeed(ctx, service.Old); err == nil {
			err = m.takeOver(ctx, unit, service.Drain)
		}
		if err == nil {
			return nil
		}
		change.ReporterFrom(ctx).Logf("%s is started again: %v", unit, err)
	}
	stop := supervise.StopRequest{Units: []tenure.UnitID{unit}, Reason: c.Reason, From: c.To, To: c.From, HoldSockets: true}
	if _, err := m.halt(ctx, stop); err != nil {
		return fmt.Errorf("hand back to %s: %w", c.From, err)
	}
	if err := m.startAgain(ctx, service.Old); err != nil {
		return fmt.Errorf("hand back to %s: %w", c.From, err)
	}
	return nil
}

// Probe goes on with what has begun.
func (s handOverStep) Probe(ctx context.Context, p handOverParams) (nothing, bool, error) {
	over, err := s.m.takenOver(ctx, p)
	if err != nil || !over {
		return nothing{}, false, err
	}
	_, err = s.Do(ctx, p)
	return nothing{}, true, err
}
