package refresh

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"

	"tenure"
	"tenure/internal/change"
	"tenure/internal/hook"
	"tenure/internal/journal"
	"tenure/internal/policy"
)

// confs are the configurations of snaps, and what runs of hooks have asked for.
type confs struct {
	db *journal.DB
	// current has the configuration of each snap, kept that of its other revisions,
	// by their refs, as they were last current.
	current, kept *journal.Collection[hook.Document]
	runs          *journal.Collection[hookRun]
	// health is what revisions have said of themselves, by their refs.
	health *journal.Collection[healthRecord]
}

// hookRun is what a run of a hook has asked for by snapctl. It is done when the hook
// has ended well.
type hookRun struct {
	Patch    hook.Patch     `json:"patch,omitempty"`
	Controls []hook.Control `json:"controls,omitempty"`
	// Committed is that Patch is part of the configuration, which was Before.
	Committed bool          `json:"committed,omitempty"`
	Before    hook.Document `json:"before,omitempty"`
	// Gate is what a run of gate-auto-refresh has said of the refresh.
	Gate gateWord `json:"gate,omitempty"`
	// Failure is what the hook has said that it fails with, however it ends.
	Failure string `json:"failure,omitempty"`
}

func newConfs(db *journal.DB) confs {
	return confs{
		db:      db,
		current: journal.NewCollection[hook.Document](db, "configuration"),
		kept:    journal.NewCollection[hook.Document](db, "configuration-of-revisions"),
		runs:    journal.NewCollection[hookRun](db, "hook-runs"),
		health:  journal.NewCollection[healthRecord](db, "health"),
	}
}

// of is the configuration of a snap.
func (c *confs) of(snap tenure.Instance) (hook.Document, error) {
	document, _, err := c.current.Get(string(snap))
	if err != nil {
		return nil, fmt.Errorf("read the configuration of %s: %w", snap, err)
	}
	return document, nil
}

// put makes document the configuration of a snap; an empty one is none.
func putConf(tx *journal.Tx, current *journal.Collection[hook.Document], snap tenure.Instance, document hook.Document) error {
	if len(document) == 0 {
		return current.In(tx).Delete(string(snap))
	}
	return current.In(tx).Put(string(snap), document)
}

// restore makes document the configuration of a snap again.
func (c *confs) restore(snap tenure.Instance, document hook.Document) error {
	err := c.db.Update(func(tx *journal.Tx) error { return putConf(tx, c.current, snap, document) })
	if err != nil {
		return fmt.Errorf("restore the configuration of %s: %w", snap, err)
	}
	return nil
}

// change changes the configuration of a snap, all of patch or nothing.
func (c *confs) change(snap tenure.Instance, patch hook.Patch) error {
	err := c.db.Update(func(tx *journal.Tx) error {
		before, _, err := c.current.In(tx).Get(string(snap))
		if err != nil {
			return err
		}
		after, err := before.With(snap, patch)
		if err != nil {
			return err
		}
		return putConf(tx, c.current, snap, after)
	})
	if err != nil {
		return fmt.Errorf("configure: %w", err)
	}
	return nil
}

// amend changes what a run of a hook has asked for.
func (c *confs) amend(unit tenure.UnitID, f func(*hookRun) error) error {
	err := c.db.Update(func(tx *journal.Tx) error {
		run, _, err := c.runs.In(tx).Get(unit.String())
		if err == nil {
			err = f(&run)
		}
		if err != nil {
			return err
		}
		return c.runs.In(tx).Put(unit.String(), run)
	})
	if err != nil {
		return fmt.Errorf("note what %s asks for: %w", unit, err)
	}
	return nil
}

// discard drops what a run of a hook that has failed asked for. That it has failed by
// its own word stays: its exit status may say otherwise.
func (c *confs) discard(unit tenure.UnitID) error {
	run, found, err := c.runs.Get(unit.String())
	switch {
	case err != nil || !found:
	case run.Failure != "":
		err = c.runs.Put(unit.String(), hookRun{Failure: run.Failure})
	default:
		err = c.runs.Delete(unit.String())
	}
	if err != nil {
		return fmt.Errorf("drop what %s asked for: %w", unit, err)
	}
	return nil
}

// commit makes what a run of a hook has set part of the configuration, once.
func (c *confs) commit(unit tenure.UnitID) (run hookRun, err error) {
	err = c.db.Update(func(tx *journal.Tx) error {
		run, _, err = c.runs.In(tx).Get(unit.String())
		if err != nil || run.Committed || len(run.Patch) == 0 {
			return err
		}
		if run.Before, _, err = c.current.In(tx).Get(string(unit.Snap)); err != nil {
			return err
		}
		after, err := run.Before.With(unit.Snap, run.Patch)
		if err != nil {
			return err
		}
		run.Committed = true
		return errors.Join(putConf(tx, c.current, unit.Snap, after), c.runs.In(tx).Put(unit.String(), run))
	})
	if err != nil {
		return run, fmt.Errorf("configure: %w", err)
	}
	return run, nil
}

// drop forgets all that is kept of a snap that is gone.
func (c *confs) drop(snap tenure.Instance) error {
	kept, err := c.kept.Keys()
	if err != nil {
		return fmt.Errorf("drop the configuration of %s: %w", snap, err)
	}
	said, err := c.health.Keys()
	if err != nil {
		return fmt.Errorf("drop the health of %s: %w", snap, err)
	}
	return c.db.Update(func(tx *journal.Tx) error {
		failures := []error{c.current.In(tx).Delete(string(snap))}
		for _, key := range kept {
			if ref, err := tenure.ParseRef(key); err == nil && ref.Snap == snap {
				failures = append(failures, c.kept.In(tx).Delete(key))
			}
		}
		for _, key := range said {
			if ref, err := tenure.ParseRef(key); err != nil || ref.Snap == snap {
				failures = append(failures, c.health.In(tx).Delete(key))
			}
		}
		return errors.Join(failures...)
	})
}

// keepConfStep keeps the configuration with the revision that ceases to be current. A
// revert brings back that of the revision that it goes to.
type keepConfStep struct{ m *Manager }

type keepConfParams struct {
	Change policy.Change `json:"change"`
}

func (s keepConfStep) Do(ctx context.Context, p keepConfParams) (hook.Document, error) {
	c, snap := &s.m.confs, p.Change.Snap
	before, err := c.of(snap)
	if err != nil {
		return nil, err
	}
	var old hook.Document
	found := false
	if p.Change.Reason == tenure.ReasonRevert {
		old, found, err = c.kept.Get(tenure.Ref{Snap: snap, Revision: p.Change.To}.String())
	}
	if err == nil {
		err = c.db.Along(ctx, func(tx *journal.Tx) error {
			// What services have set until then is kept with it.
			present, _, err := c.current.In(tx).Get(string(snap))
			if err == nil {
				err = c.kept.In(tx).Put(tenure.Ref{Snap: snap, Revision: p.Change.From}.String(), present)
			}
			if err != nil || !found {
				return err
			}
			return putConf(tx, c.current, snap, old)
		})
	}
	if err != nil {
		return nil, fmt.Errorf("keep the configuration of %s: %w", snap, err)
	}
	return before, nil
}

func (s keepConfStep) Undo(_ context.Context, p keepConfParams, before hook.Document) error {
	return s.m.confs.restore(p.Change.Snap, before)
}

// snapConf are options of a snap, as Conf.
func (m *Manager) snapConf(snap string, keys []string) (map[string]any, error) {
	name, err := m.configurable("read the configuration of", snap)
	if err != nil {
		return nil, err
	}
	document, err := m.confs.of(name)
	if err != nil {
		return nil, err
	}
	if len(keys) == 0 {
		values := map[string]any{}
		maps.Copy(values, document)
		return values, nil
	}
	values := map[string]any{}
	for _, key := range keys {
		value, found, err := document.Get(key)
		if err != nil {
			return nil, &Error{Kind: KindBad, Op: "get", Object: key, Err: fmt.Errorf("snap %q: %w", snap, err)}
		}
		if !found {
			return nil, &Error{Kind: KindOption, Op: "get", Object: key, Err: fmt.Errorf("snap %q has no %q configuration option", snap, key)}
		}
		values[key] = value
	}
	return values, nil
}

func (m *Manager) configurable(op, snap string) (tenure.Instance, error) {
	name, err := tenure.ParseInstance(snap)
	if err != nil {
		return "", &Error{Kind: KindBad, Op: op, Object: snap, Err: err}
	}
	_, err = m.installedSnap(op, name)
	return name, err
}

// configureSnap begins a change of options of a snap: its configure hook sees them, and
// can refuse them.
func (m *Manager) configureSnap(ctx context.Context, snap string, raw map[string]json.RawMessage) (change.ID, error) {
	name, err := m.configurable("configure", snap)
	if err != nil {
		return 0, err
	}
	patch := hook.Patch{}
	for key, text := range raw {
		if patch[key], err = hook.ParseValue(string(text)); err != nil {
			return 0, badConf(name, fmt.Errorf("the value of %s is not JSON: %w", key, err))
		}
	}
	for {
		id, err := m.beginConfigure(ctx, name, patch)
		if !errors.Is(err, errStale) {
			return id, err
		}
	}
}

func badConf(snap tenure.Instance, err error) error {
	return &Error{Kind: KindBad, Op: "configure", Object: string(snap), Err: err}
}

// beginConfigure begins a change of options, of a snap whose last refresh is observed no
// more; it fails with errStale if it was.
func (m *Manager) beginConfigure(ctx context.Context, name tenure.Instance, patch hook.Patch) (change.ID, error) {
	release, err := m.claims.take(ctx, name)
	if err != nil {
		return 0, err
	}
	defer release()
	state, err := m.installedSnap("configure", name)
	if err != nil {
		return 0, err
	}
	before, err := m.confs.of(name)
	if err == nil {
		_, err = before.With(name, patch)
	}
	if err != nil {
		return 0, badConf(name, err)
	}
	current := state.Line.Current
	if !state.Line.Active {
		return 0, badConf(name, fmt.Errorf("snap %q is disabled", name))
	}
	j := &job{Reason: tenure.ReasonRestart, Before: state, After: state}
	tasks, err := m.hookTask(j, state, current, hook.Configure, patch)
	if err != nil {
		return 0, err
	}
	if len(tasks) == 0 {
		return 0, badConf(name, fmt.Errorf("snap %q has no %q hook", name, hook.Configure))
	}
	if err := m.vacate(ctx, "configure", []tenure.Instance{name}); err != nil {
		return 0, err
	}
	id, err := m.engine.Start(ctx, change.NewChange{
		Kind: "configure-snap", Summary: fmt.Sprintf("Change configuration of %q snap", name),
		Snaps: []tenure.Instance{name}, Tasks: append(tasks, collectTask(name)),
	})
	if err != nil {
		return 0, conflict("configure", string(name), err)
	}
	return id, nil
}
