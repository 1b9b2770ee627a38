package supervisetest

import (
	"fmt"
	"regexp"
	"slices"
	"syscall"
	"time"

	"tenure"
	"tenure/internal/change"
	"tenure/internal/proc"
	"tenure/internal/supervise"
)

// split makes units of the workloads among the unit's processes.
func (u *twinUnit) split() {
	if u.passive {
		return
	}
	for _, w := range u.spec().Workloads {
		if w.Match == "" {
			continue
		}
		pattern := regexp.MustCompile(w.Match)
		for _, p := range u.living() {
			if p == u.main || p.unit != u || !pattern.MatchString(p.info().CommandLine()) {
				continue
			}
			family := slices.DeleteFunc(u.t.descendants(p), func(q *process) bool { return q.unit != u })
			u.give(w.Name, w.Stop, p, family)
		}
	}
}

// leaveBehind makes the unit "leftover" of processes.
func (u *twinUnit) leaveBehind(rest []*process) {
	stop := u.spec().Stop
	stop.Command, stop.Target = nil, supervise.TargetGroup
	u.give(tenure.Leftover, stop, rest[0], rest)
}

func (u *twinUnit) give(name string, stop supervise.StopProtocol, leader *process, family []*process) {
	spec := u.spec().Branch(u.status.Unit.Service().Workload(name, leader.PID), leader.args, stop)
	child := u.t.adopt(spec, leader, family)
	u.t.tellSplit(child, u)
}

// adopt makes a unit of processes that run.
func (t *Twin) adopt(spec supervise.Spec, leader *process, family []*process) *twinUnit {
	u := &twinUnit{t: t, passive: true, ready: true, status: supervise.Status{
		Unit: spec.Unit, Revision: spec.Revision, State: supervise.Running, Generation: 1,
		Since: time.Now(), Started: leader.started, Spec: &spec,
	}}
	t.units[spec.Unit] = u
	for _, p := range family {
		p.unit = u
	}
	u.setMain(leader)
	return u
}

// reload is a request to go on with a Spec.
func (u *twinUnit) reload(req supervise.ReloadRequest, by change.ID, reply chan<- error) {
	if u.status.State != supervise.Running {
		reply <- fmt.Errorf("%w: it is %s", supervise.ErrNotReady, u.status.State)
		return
	}
	u.status.Spec, u.status.Revision = &req.Spec, req.Spec.Revision
	u.openSockets()
	switch {
	case req.Quiet:
		reply <- nil
	case u.spec().Reload == nil:
		u.t.send(supervise.Event{
			Kind: supervise.EventSignal, Unit: u.status.Unit, Revision: u.status.Revision, Signal: "SIGHUP", Reason: req.Reason,
			Processes: []tenure.Process{u.status.Main}, Change: by, Cause: supervise.CauseRequest,
		})
		u.main.signal(syscall.SIGHUP)
		reply <- nil
	default:
		u.state(supervise.Reloading)
		u.command(*u.spec().Reload, func(exit proc.Exit) {
			if u.status.State == supervise.Reloading {
				u.state(supervise.Running)
			}
			if !exit.Success() {
				reply <- fmt.Errorf("reload command: %s", exit)
				return
			}
			reply <- nil
		})
	}
}
