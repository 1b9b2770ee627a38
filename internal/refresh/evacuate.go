package refresh

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

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
func (s decideStep) evacuate(ctx context.Context, p decideParams, plan policy.Plan) (asked bool, err error) {
	p.Plans[len(p.Plans)-len(p.Jobs)] = plan
	again := p
	again.Asked = slices.Clone(p.Asked)
	var tasks []change.TaskSpec
	for n := range p.Jobs {
		j, asks := &p.Jobs[n], p.Plans[len(p.Plans)-len(p.Jobs)+n].Evacuate
		if asks == nil || slices.Contains(p.Asked, j.snap()) {
			continue
		}
		more, err := s.m.hookTask(j, j.Before, asks.Revision, hook.Evacuate, nil)
		if err != nil {
			return false, err
		}
		tasks, again.Asked = append(tasks, more...), append(again.Asked, j.snap())
		change.ReporterFrom(ctx).Logf("before anything of %q stops: %s", j.snap(), asks)
	}
	if len(tasks) == 0 {
		return false, nil
	}
	tasks = append(tasks, s.m.decideTask(again))
	raw, err := json.Marshal(p.Plans)
	if err != nil {
		return false, fmt.Errorf("store the plan: %w", err)
	}
	return true, change.Replan(ctx, raw, tasks...)
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
