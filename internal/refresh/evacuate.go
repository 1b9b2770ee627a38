package refresh

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
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

// evacuate makes the running revision be asked first, and the decision be made anew
// when it has let go: what runs is not the same then.
func (s decideStep) evacuate(ctx context.Context, p decideParams, j *job, plan policy.Plan) error {
	tasks, err := s.m.hookTask(j, j.Before, plan.Evacuate.Revision, hook.Evacuate, nil)
	if err != nil {
		return err
	}
	again := p
	again.Evacuated = true
	tasks = append(tasks, s.m.decideTask(again))
	p.Plans[len(p.Plans)-len(p.Jobs)] = plan
	raw, err := json.Marshal(p.Plans)
	if err != nil {
		return fmt.Errorf("store the plan: %w", err)
	}
	change.ReporterFrom(ctx).Logf("before anything stops: %s", plan.Evacuate)
	return change.Replan(ctx, raw, tasks...)
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
