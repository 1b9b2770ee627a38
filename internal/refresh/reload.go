package refresh

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"tenure"
	"tenure/internal/change"
	"tenure/internal/mount"
	"tenure/internal/policy"
	"tenure/internal/proc"
	"tenure/internal/supervise"
)

// following is a service that goes on with another revision without ending.
type following struct {
	// Old is what it was started with, New what it is to be.
	Old supervise.Spec `json:"old"`
	New supervise.Spec `json:"new"`
	// Timeout is how long its main process may take to run from the new revision.
	Timeout time.Duration `json:"timeout"`
}

type followParams struct {
	Change   policy.Change `json:"change"`
	Services []following   `json:"services"`
}

// defaultReload is the time of services that declare none: a server starts its
// next generation in a second or two.
const defaultReload = 30 * time.Second

// follow is the following of the service of known, compiled.
func (m *Manager) follow(j *job, known supervise.Status) (following, error) {
	app, next, err := m.next(j, known, true)
	if err != nil {
		return following{}, fmt.Errorf("reload: %w", err)
	}
	timeout := app.Lifecycle.ReloadTimeout
	if timeout == 0 {
		timeout = defaultReload
	}
	return following{Old: *known.Spec, New: next, Timeout: timeout}, nil
}

// rememberStep stands before the switch of what is current, so that its undo
// comes after that has been switched back: only then can a service that has
// followed go back.
type rememberStep struct{ m *Manager }

func (rememberStep) Do(context.Context, followParams) (nothing, error) { return nothing{}, nil }

// Undo brings every service that has followed back, and starts again what cannot
// go back otherwise.
func (s rememberStep) Undo(ctx context.Context, p followParams, _ nothing) error {
	var failures []error
	for i := range p.Services {
		failures = append(failures, s.m.followBack(ctx, p.Change, &p.Services[i]))
	}
	return errors.Join(failures...)
}

// Probe has nothing to see: nothing was done.
func (rememberStep) Probe(context.Context, followParams) (nothing, bool, error) {
	return nothing{}, false, nil
}

func (m *Manager) followBack(ctx context.Context, c policy.Change, f *following) error {
	status, err := m.statusOf(ctx, f.Old.Unit)
	if err != nil || status.Revision == f.Old.Revision && status.State.Alive() {
		return err
	}
	if status.State.Alive() {
		back := supervise.ReloadRequest{Spec: f.Old, Reason: c.Reason, From: c.To, To: c.From}
		old, new := tenure.Ref{Snap: c.Snap, Revision: c.From}, tenure.Ref{Snap: c.Snap, Revision: c.To}
		// One that was told and never moved need not hear of it.
		stayed, err := m.runsFrom(status.Main, new, old)
		back.Quiet = stayed && err == nil
		err = m.cfg.Supervisor.Reload(ctx, back)
		if err == nil {
			err = m.awaitFollowed(ctx, f.New.Revision, f.Old, f.Timeout)
		}
		if err == nil {
			return nil
		}
		change.ReporterFrom(ctx).Logf("%s is started again: %v", f.Old.Unit, err)
		stop := supervise.StopRequest{
			Units: []tenure.UnitID{f.Old.Unit}, Reason: c.Reason, From: c.To, To: c.From, HoldSockets: true,
		}
		if _, err := m.stopOrWait(ctx, stop); err != nil {
			return fmt.Errorf("go back to %s: %w", c.From, err)
		}
	}
	if err := m.startAgain(ctx, f.Old); err != nil {
		return fmt.Errorf("go back to %s: %w", c.From, err)
	}
	return nil
}

// followStep tells services that their package has changed, and sees that they
// run from the new revision.
type followStep struct{ m *Manager }

func (s followStep) Do(ctx context.Context, p followParams) (nothing, error) {
	for i := range p.Services {
		f := &p.Services[i]
		status, err := s.m.statusOf(ctx, f.New.Unit)
		if err != nil {
			return nothing{}, err
		}
		if status.Revision != f.New.Revision {
			req := supervise.ReloadRequest{Spec: f.New, Reason: p.Change.Reason, From: p.Change.From, To: p.Change.To}
			if err := s.m.tellOf(ctx, req, f.Timeout); err != nil {
				return nothing{}, fmt.Errorf("reload services: %w", err)
			}
		}
		if err := s.m.awaitFollowed(ctx, f.Old.Revision, f.New, f.Timeout); err != nil {
			return nothing{}, fmt.Errorf("reload services: %w", err)
		}
		change.ReporterFrom(ctx).Logf("%s runs from %s", f.New.Unit, f.New.Revision)
	}
	return nothing{}, nil
}

// Undo has nothing to do: it has to wait for the switch back (rememberStep).
func (followStep) Undo(context.Context, followParams, nothing) error { return nil }

// Probe goes on with what has begun: a service that was told cannot be un-told.
func (s followStep) Probe(ctx context.Context, p followParams) (nothing, bool, error) {
	for i := range p.Services {
		status, err := s.m.statusOf(ctx, p.Services[i].New.Unit)
		if err != nil {
			return nothing{}, false, err
		}
		if status.Revision == p.Services[i].New.Revision {
			_, err := s.Do(ctx, p)
			return nothing{}, true, err
		}
	}
	return nothing{}, false, nil
}

// statusOf is the status of one unit; the zero Status when it is not known.
func (m *Manager) statusOf(ctx context.Context, unit tenure.UnitID) (supervise.Status, error) {
	statuses, err := m.statuses(ctx)
	return statuses[unit], err
}

// tellOf has a running service go on with another Spec. One that reloads or starts just now is
// told when it has: before, what it is told by may be what ends it.
func (m *Manager) tellOf(ctx context.Context, req supervise.ReloadRequest, timeout time.Duration) error {
	// It bounds the wait: what the service then does is bounded by its Spec.
	limit, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	look, _ := m.hear(limit, req.Spec.Unit)
	// One that has become ready since it answered is asked once more; a passive one never is ready.
	again := true
	for {
		refused := m.cfg.Supervisor.Reload(ctx, req)
		if !errors.Is(refused, supervise.ErrNotReady) {
			return refused
		}
		status, err := m.statusOf(ctx, req.Spec.Unit)
		switch {
		case err != nil:
			return errors.Join(refused, err)
		case status.State == supervise.Running && again:
			again = false
			continue
		case status.State != supervise.Reloading && status.State != supervise.Starting:
			return refused
		}
		again = true
		select {
		case <-look:
		case <-limit.Done():
			return cmp.Or(context.Cause(ctx), fmt.Errorf("it is still %s after %s: %w", status.State, timeout, refused))
		}
	}
}

// hear gives a channel that has an element when something has happened to a unit, or wake
// was called, since the last was taken.
func (m *Manager) hear(ctx context.Context, unit tenure.UnitID) (look <-chan struct{}, wake func()) {
	news := make(chan struct{}, 1)
	wake = func() {
		select {
		case news <- struct{}{}:
		default:
		}
	}
	events := m.cfg.Supervisor.Events(ctx)
	go func() {
		for event := range events {
			if event.Unit == unit || event.Kind == supervise.EventLost {
				wake()
			}
		}
	}()
	return news, wake
}

// awaitFollowed waits until the main process of a service that was told runs from
// the revision of spec, and is ready. What may change that is heard of: a state,
// another main process, a program executed by the one there is.
func (m *Manager) awaitFollowed(ctx context.Context, from tenure.Revision, spec supervise.Spec, timeout time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	look, wake := m.hear(ctx, spec.Unit)
	m.watchExecs(ctx, wake)
	for {
		followed, err := m.followed(ctx, from, spec)
		if followed || err != nil {
			return err
		}
		select {
		case <-look:
		case <-ctx.Done():
			if followed, err := m.followed(context.WithoutCancel(ctx), from, spec); followed || err != nil {
				return err
			}
			return fmt.Errorf("%s does not run from %s %s after it was told to", spec.Unit, spec.Revision, timeout)
		}
	}
}

// watchExecs wakes whoever waits when any process becomes another program.
// Where the kernel does not tell, only the supervisor's events do.
func (m *Manager) watchExecs(ctx context.Context, wake func()) {
	births, err := m.cfg.Births(ctx, proc.Executed)
	if err != nil {
		change.ReporterFrom(ctx).Logf("%v: a service that replaces itself is seen only when it says so", err)
		return
	}
	go func() {
		for range births {
			wake()
		}
	}()
}

// followed reports whether a service is ready and runs from the revision of spec.
// A service that has ended never will.
func (m *Manager) followed(ctx context.Context, from tenure.Revision, spec supervise.Spec) (bool, error) {
	status, err := m.statusOf(ctx, spec.Unit)
	if err != nil {
		return false, err
	}
	switch status.State {
	case supervise.Running:
	case supervise.Reloading, supervise.Starting:
		return false, nil
	case supervise.Inactive, supervise.Listening, supervise.Waiting, supervise.Stopping, supervise.Backoff, supervise.Failed:
		return false, fmt.Errorf("%s ended when it was told of %s", spec.Unit, spec.Revision)
	}
	return m.runsFrom(status.Main, tenure.Ref{Snap: spec.Unit.Snap, Revision: from}, tenure.Ref{Snap: spec.Unit.Snap, Revision: spec.Revision})
}

// runsFrom reports whether a process executes files of the revision to and none of
// from. It goes by the devices of their mounts, for a path tells nothing.
func (m *Manager) runsFrom(process tenure.Process, from, to tenure.Ref) (bool, error) {
	var infos [2]mount.Info
	for i, ref := range []tenure.Ref{from, to} {
		info, mounted, err := m.cfg.Table.Mounted(m.cfg.Mounts.Dir(ref.Snap, ref.Revision))
		if err != nil || !mounted {
			return false, fmt.Errorf("see which revision process %d runs from: %w", process.PID, errors.Join(err, errNotMounted))
		}
		infos[i] = info
	}
	used, err := m.cfg.Table.UsedBy(process, infos[:]...)
	if err != nil {
		return false, err
	}
	executes := func(what mount.What) bool { return what == mount.Exe || what == mount.Map }
	reads := func(what mount.What) bool { return executes(what) || what == mount.FD }
	return slices.ContainsFunc(used[infos[1].Dev], reads) && !slices.ContainsFunc(used[infos[0].Dev], executes), nil
}

var errNotMounted = errors.New("revision is not mounted")
