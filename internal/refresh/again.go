package refresh

import (
	"context"
	"errors"

	"tenure"
	"tenure/internal/change"
	"tenure/internal/snapdata"
)

// asideStep puts aside the data that a revision has from an earlier time, when the
// snap goes to it again: what the current one has is copied to it. It is put back if
// the change is undone, and goes when it is done.
type asideStep struct{ m *Manager }

type asideParams struct {
	Ref tenure.Ref `json:"ref"`
}

func (s asideStep) Do(ctx context.Context, p asideParams) (nothing, error) {
	return nothing{}, change.Partial(s.move(ctx, p.Ref, snapdata.Aside))
}

func (s asideStep) Undo(ctx context.Context, p asideParams, _ nothing) error {
	return s.move(ctx, p.Ref, snapdata.Restore)
}

// move moves the data of a revision, also that of users.
func (s asideStep) move(ctx context.Context, ref tenure.Ref, move func(dir string) error) error {
	places, release, err := s.m.places(ref.Snap)
	if err != nil {
		return err
	}
	defer release()
	var failures []error
	for _, at := range places {
		if err := move(at.of(ref.Revision)); !s.m.spoilt(ctx, at, ref, err) {
			failures = append(failures, err)
		}
	}
	return errors.Join(failures...)
}

// takesOver reports why a request by hand cannot do what an automatic change waits to do.
func (m *Manager) takesOver(ctx context.Context, req Request, c *change.Change) error {
	for _, j := range jobsOf(c) {
		j.Auto, j.Options = false, inherit(req.Options, j.Before)
		plan, err := m.decide(ctx, &j, nil)
		if err == nil && plan.Refusal != nil {
			err = refused(string(req.Action), plan)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// stagedAlready is the change that waits to do what a request from a source asks for;
// zero if there is none. One that nobody has asked for is given up for the request, unless
// that is refused.
func (m *Manager) stagedAlready(ctx context.Context, req Request) (change.ID, error) {
	staged := m.staged()
	for _, file := range req.Files {
		if file.Origin == nil {
			continue
		}
		id := staged[tenure.Ref{Snap: file.Name, Revision: file.Origin.Release.Revision}]
		c, err := m.engine.Get(id)
		if id == 0 || err != nil {
			continue
		}
		waiting, _ := deferral(c)
		if !waiting.Change.Auto {
			return id, nil
		}
		if err := m.takesOver(ctx, req, &c); err != nil {
			return 0, err
		}
		if err := m.engine.Abort(ctx, id); err != nil {
			return 0, err
		}
		if _, err := m.engine.WaitFor(ctx, id); err != nil {
			return 0, err
		}
		return 0, errStale
	}
	return 0, nil
}
