package refresh

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"tenure"
	"tenure/internal/change"
	"tenure/internal/hook"
	"tenure/internal/policy"
)

// optionEvacuate is how long the hook evacuate may take.
const optionEvacuate = "lifecycle.max-evacuate"

// maxEvacuation is how long a package may take to move its work away.
func (m *Manager) maxEvacuation() time.Duration {
	return cmp.Or(m.limit(optionEvacuate), hook.Evacuate.Timeout())
}

// evacuate makes the running revisions be asked first that have not been, and the
// decision be made anew when they have let go: what runs is not the same then. It asks
// those of later jobs too, as they were planned: the last one may refuse, and would come
// after the gaps of the others. Asked is false if there is nothing to ask.
func (s decideStep) evacuate(ctx context.Context, d *deciding) (asked bool, err error) {
	if !slices.ContainsFunc(d.plans, func(plan policy.Plan) bool { return plan.Evacuate != nil }) {
		return false, nil
	}
	done := append(askedBefore(d.change), d.Asked...)
	jobs := append(slices.Clone(d.Jobs), jobsOf(d.change)...)
	var tasks []change.TaskSpec
	for _, plan := range d.plans {
		at := slices.IndexFunc(jobs, func(j job) bool { return j.snap() == plan.Change.Snap })
		if plan.Evacuate == nil || at < 0 || slices.Contains(done, plan.Change.Snap) {
			continue
		}
		more, err := s.m.hookTask(&jobs[at], jobs[at].Before, plan.Evacuate.Revision, hook.Evacuate, nil)
		if err != nil {
			return false, err
		}
		tasks = append(tasks, more...)
		change.ReporterFrom(ctx).Logf("before anything of %q stops: %s", plan.Change.Snap, plan.Evacuate)
	}
	if len(tasks) == 0 {
		return false, nil
	}
	tasks = append(tasks, s.m.decideTask(d.decideParams))
	return true, change.Insert(ctx, d.raw, tasks...)
}

// askedBefore are the snaps of a change that have moved their work away.
func askedBefore(c *change.Change) (snaps []tenure.Instance) {
	for i := range c.Tasks {
		var params hookParams
		if t := &c.Tasks[i]; t.Kind == taskHook && json.Unmarshal(t.Params, &params) == nil && params.Hook == hook.Evacuate {
			snaps = append(snaps, params.Change.Snap)
		}
	}
	return snaps
}

// heldError is that a package does not let go.
type heldError struct{ err error }

// Error says what to do.
func (e *heldError) Error() string {
	return fmt.Sprintf("the snap does not let go, and nothing of it was stopped (try again later, or use --force): %v", e.err)
}

// Unwrap is what the hook has said.
func (e *heldError) Unwrap() error { return e.err }

// held words the failure of a hook that was asked whether work may be interrupted.
func held(name hook.Name, err error) error {
	if name != hook.Evacuate || err == nil || errors.Is(err, change.ErrAborted) {
		return err
	}
	return &heldError{err}
}
