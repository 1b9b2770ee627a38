package refresh

import (
	"errors"
	"fmt"
	"slices"
	"sync"

	"tenure"
	"tenure/internal/change"
	"tenure/internal/hook"
)

// voices are by whom the hooks that run are heard. A hook lives through the end of
// the daemon, and may speak before the next one has found its change again.
type voices struct {
	mu sync.Mutex
	// heard are the reporters of those that a change listens to, said what others have
	// said last.
	heard map[tenure.UnitID]change.Reporter
	said  map[tenure.UnitID]change.Progress
}

// say tells the change that listens to unit of its progress, now or when one does.
func (v *voices) say(unit tenure.UnitID, progress change.Progress) {
	v.mu.Lock()
	report := v.heard[unit]
	if report == nil {
		if v.said == nil {
			v.said = make(map[tenure.UnitID]change.Progress)
		}
		v.said[unit] = progress
	}
	v.mu.Unlock()
	if report != nil {
		report.Progress(progress.Label, progress.Done, progress.Total)
	}
}

// hear lets a run of a hook speak through report, until what it returns is called.
func (v *voices) hear(unit tenure.UnitID, report change.Reporter) (end func()) {
	v.mu.Lock()
	if v.heard == nil {
		v.heard = make(map[tenure.UnitID]change.Reporter)
	}
	v.heard[unit] = report
	said, spoke := v.said[unit]
	v.mu.Unlock()
	if spoke {
		report.Progress(said.Label, said.Done, said.Total)
	}
	return func() {
		v.mu.Lock()
		defer v.mu.Unlock()
		delete(v.heard, unit)
		delete(v.said, unit)
	}
}

// ErrNotHook is that what only a hook may do was asked for by something else.
var ErrNotHook = errors.New("only a hook can do that, for the change that it runs for")

// Progress says how far a hook has come.
func (p Packages) Progress(c hook.Caller, progress change.Progress) error {
	if c.Unit.Kind != tenure.HookRun {
		return ErrNotHook
	}
	p.m.voices.say(c.Unit, progress)
	return nil
}

// Fail makes the change of a hook fail, however the hook ends.
func (p Packages) Fail(c hook.Caller, message string) error {
	if c.Unit.Kind != tenure.HookRun {
		return ErrNotHook
	}
	return p.m.confs.amend(c.Unit, func(run *hookRun) error {
		run.Failure = message
		return nil
	})
}

// Change is a change that concerns the caller's snap. What its tasks have logged is
// for root, and not for the other snaps of the change.
func (p Packages) Change(c hook.Caller, id change.ID) (change.Change, error) {
	if id == 0 {
		if c.Unit.Kind != tenure.HookRun {
			return change.Change{}, errors.New("which change? outside of a hook it must be named")
		}
		id = change.ID(c.Unit.Serial) //nolint:gosec // It was made of one.
	}
	found, err := p.m.engine.Get(id)
	if err != nil || !slices.Contains(found.Snaps, c.Unit.Snap) {
		return change.Change{}, fmt.Errorf("change %q not found", id)
	}
	if c.UID == 0 && len(found.Snaps) == 1 {
		return found, nil
	}
	found.Tasks = slices.Clone(found.Tasks)
	for i := range found.Tasks {
		found.Tasks[i].Log = nil
	}
	return found, nil
}
