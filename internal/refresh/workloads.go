package refresh

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"tenure"
	"tenure/internal/hook"
	"tenure/internal/proc"
	"tenure/internal/supervise"
)

// StartWorkload runs a command as a workload of the caller's service. It is not
// a change of the snap: a service may need its workloads while it starts or stops.
func (p Packages) StartWorkload(ctx context.Context, c hook.Caller, name string, argv []string) error {
	b, err := p.m.branching(ctx, c, name)
	if err == nil {
		err = b.Branch(ctx, c.Unit, b.spec(argv))
	}
	return workloadError("start", name, err)
}

// AdoptWorkload makes a workload of a process of the caller's snap. Between the look
// at the pid and the hold that the supervisor takes of the process, the time of its
// start tells whether it is still the one.
func (p Packages) AdoptWorkload(ctx context.Context, c hook.Caller, name string, pid int) error {
	b, err := p.m.branching(ctx, c, name)
	if err == nil {
		var info proc.Info
		if info, err = proc.Read(pid); err == nil {
			err = b.Adopt(ctx, b.spec(nil), info.Process)
		}
	}
	return workloadError("adopt", name, err)
}

// branching is a workload that a service is about to make.
type branching struct {
	supervise.Brancher

	unit   tenure.UnitID
	parent supervise.Spec
	stop   supervise.StopProtocol
}

func (b branching) spec(argv []string) supervise.Spec { return b.parent.Branch(b.unit, argv, b.stop) }

// branching finds what the service of a caller, as it runs, says of a workload.
func (m *Manager) branching(ctx context.Context, c hook.Caller, name string) (branching, error) {
	brancher, able := m.cfg.Supervisor.(supervise.Brancher)
	unit, err := workloadOf(c, name)
	switch {
	case err != nil:
		return branching{}, err
	case !able:
		return branching{}, errors.ErrUnsupported
	case !unit.Named():
		return branching{}, fmt.Errorf("%w: such a name is for what a pattern tells apart (want WORKLOAD or WORKLOAD@NAME)", tenure.ErrName)
	}
	known, err := m.statuses(ctx)
	if err != nil {
		return branching{}, err
	}
	service := c.Unit
	if !service.Overlaps() {
		service = unit.Service()
	}
	status := known[service]
	if status.Spec == nil || idle(status) {
		return branching{}, fmt.Errorf("%s does not run", service)
	}
	at := slices.IndexFunc(status.Spec.Workloads, func(w supervise.Workload) bool { return w.Name == unit.Name })
	if at < 0 {
		return branching{}, fmt.Errorf("revision %s does not declare it (apps.%s.lifecycle.workloads.%s)", status.Revision, unit.App, unit.Name)
	}
	if err := m.roomForWorkload(known, unit); err != nil {
		return branching{}, err
	}
	return branching{brancher, unit, *status.Spec, status.Spec.Workloads[at].Stop}, nil
}

// workloadOf is a workload of the service that a caller is part of.
func workloadOf(c hook.Caller, name string) (tenure.UnitID, error) {
	service := c.Unit.Service()
	if service.IsZero() {
		return tenure.UnitID{}, fmt.Errorf("workloads are those of services, and %s is none", c.Unit)
	}
	return service.ParseWorkload(name)
}

func workloadError(op, name string, err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, supervise.ErrRunning) && op == "start":
		err = errors.New("there is one of that name, and it runs")
	case errors.Is(err, proc.ErrGone):
		err = errors.New("there is no such process")
	}
	return fmt.Errorf("cannot %s workload %q: %w", op, name, err)
}

// StopWorkload ends a workload of the caller's service.
func (p Packages) StopWorkload(ctx context.Context, c hook.Caller, name string) error {
	unit, err := workloadOf(c, name)
	if err == nil {
		err = p.m.stopWorkload(ctx, unit)
	}
	return workloadError("stop", name, err)
}

func (m *Manager) stopWorkload(ctx context.Context, unit tenure.UnitID) error {
	known, err := m.statuses(ctx)
	if err != nil {
		return err
	}
	if _, there := known[unit]; !there || unit.Overlaps() {
		return errors.New("there is none; see snapctl workload list")
	}
	_, err = m.halt(ctx, supervise.StopRequest{
		Units: []tenure.UnitID{unit}, Reason: tenure.ReasonStop, Limit: m.limits().MaxStopTimeout,
	})
	return err
}

// Workloads are those of the caller's service.
func (p Packages) Workloads(ctx context.Context, c hook.Caller) ([]hook.Workload, error) {
	service := c.Unit.Service()
	if service.IsZero() {
		return nil, fmt.Errorf("workloads are those of services, and %s is none", c.Unit)
	}
	statuses, err := p.m.cfg.Supervisor.Units(ctx)
	if err != nil {
		return nil, fmt.Errorf("list workloads: %w", err)
	}
	var list []hook.Workload
	for _, status := range statuses {
		if status.Unit.Kind != tenure.Workload || status.Unit.Service() != service || status.Unit.Overlaps() {
			continue
		}
		infos, err := p.m.processes(ctx, status.Unit)
		if err != nil {
			return nil, err
		}
		l := hook.Workload{Name: status.Unit.WorkloadName(), State: string(status.State), Revision: status.Revision.String(), Since: status.Since}
		if idle(status) {
			l.Exit = status.LastExit
		}
		for _, info := range infos {
			l.PIDs = append(l.PIDs, info.PID)
		}
		list = append(list, l)
	}
	slices.SortFunc(list, func(a, b hook.Workload) int { return cmp.Compare(a.Name, b.Name) })
	return list, nil
}

// keptEnded is how many workloads and instances that have ended are known for each
// snap, so that it can be asked how.
const keptEnded = 32

// forgetEnded drops what is known of workloads and instances that have ended and will
// not run by themselves, and their logs, but for the last ones.
func (m *Manager) forgetEnded(ctx context.Context, snap tenure.Instance) error {
	statuses, err := m.cfg.Supervisor.Units(ctx)
	if err != nil {
		return fmt.Errorf("forget workloads of %s: %w", snap, err)
	}
	kept, err := m.instancesOf(snap)
	if err != nil {
		return err
	}
	ended := slices.DeleteFunc(statuses, func(status supervise.Status) bool {
		unit := status.Unit
		return unit.Snap != snap || !nameable(unit) || kept[unit].Enabled || !idle(status)
	})
	if len(ended) <= keptEnded {
		return nil
	}
	slices.SortFunc(ended, func(a, b supervise.Status) int {
		return cmp.Or(b.Since.Compare(a.Since), strings.Compare(a.Unit.String(), b.Unit.String()))
	})
	var units []tenure.UnitID
	for _, status := range ended[keptEnded:] {
		units = append(units, status.Unit)
	}
	err = m.cfg.Supervisor.Forget(ctx, units...)
	if errors.Is(err, supervise.ErrRunning) {
		return nil // Its name has just been given again.
	}
	return err
}
