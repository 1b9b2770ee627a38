package refresh

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"golang.org/x/sync/errgroup"

	"tenure/internal/change"
)

// The kinds of tasks that prepare several snaps side by side.
const (
	taskPrepareAll = "prepare-snaps"
	taskMountAll   = "mount-snaps"
	taskCopyAll    = "copy-snaps-data"
)

// sideBySide is how many snaps of one change are prepared at the same time: most of it waits, for the
// disk or for all processors to have seen a mount.
const sideBySide = 8

// togetherStep does to each of some snaps what the step of one does, side by side. That step can be undone where it
// was not done, and done again where it was.
type togetherStep[P any] struct{ one change.Step[P, nothing] }

type togetherParams[P any] struct {
	Each []P `json:"each"`
}

func (s togetherStep[P]) Do(ctx context.Context, p togetherParams[P]) (nothing, error) {
	// What has not begun when one fails, or the change is aborted, need not.
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(sideBySide)
	for i := range p.Each {
		group.Go(func() error {
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			return change.Guarded(func() error {
				_, err := s.one.Do(ctx, p.Each[i])
				return err
			})
		})
	}
	return nothing{}, change.Partial(group.Wait())
}

func (s togetherStep[P]) Undo(ctx context.Context, p togetherParams[P], _ nothing) error {
	var failures []error
	for _, one := range slices.Backward(p.Each) {
		failures = append(failures, s.one.Undo(ctx, one, nothing{}))
	}
	return errors.Join(failures...)
}

// together is one task for what is to be done to several snaps, and none for nothing.
func together[P any](kind, all, summary string, each []P, name func(P) string) []change.TaskSpec {
	switch len(each) {
	case 0:
		return nil
	case 1:
		return []change.TaskSpec{change.NewTask(kind, fmt.Sprintf(summary, name(each[0])), each[0])}
	}
	return []change.TaskSpec{change.NewTask(all, fmt.Sprintf(summary, fmt.Sprintf("%d snaps", len(each))), togetherParams[P]{each})}
}

// eachOf are the parameters of a task for one snap, or of one for several (together).
func eachOf[P any](task *change.Task, all string) ([]P, error) {
	if task.Kind == all {
		var params togetherParams[P]
		err := json.Unmarshal(task.Params, &params)
		return params.Each, err
	}
	each := make([]P, 1)
	return each, json.Unmarshal(task.Params, &each[0])
}

// preparations prepare the jobs, whatever becomes of what runs.
func (m *Manager) preparations(jobs []job) (tasks []change.TaskSpec) {
	var keep []prepareParams
	var mounts []mountParams
	var copies []copyParams
	var aside []change.TaskSpec
	for i := range jobs {
		j := &jobs[i]
		if j.Staged == "" && !j.Present {
			continue
		}
		ref := j.target()
		if j.Staged != "" {
			keep = append(keep, prepareParams{Ref: ref, Staged: j.Staged, Digest: j.After.Kept[ref.Revision].Digest})
			mounts = append(mounts, mountParams{Ref: ref, Ahead: starting(j.After.Kept[ref.Revision].Info)})
		}
		if j.Present {
			aside = append(aside, change.NewTask(taskAside, fmt.Sprintf("Put aside old data of %s", ref), asideParams{Ref: ref}))
		}
		copies = append(copies, copyParams{
			From: j.ref(j.from()), To: ref, Copy: j.Copy, Fresh: isMissing(m.cfg.Paths.DataDir(ref.Snap)), FreshUser: isMissing(m.cfg.Paths.UserDir(ref.Snap)),
		})
	}
	summary := "Make data directories of %s"
	if slices.ContainsFunc(copies, func(p copyParams) bool { return p.Copy }) {
		summary = "Copy data of %s"
	}
	copying := together(taskCopy, taskCopyAll, summary, copies, copied)
	if len(copying) > 0 && len(mounts) > 0 && len(aside) == 0 {
		copying[0] = copying[0].JoinedOn() // On the mount.
	}
	return slices.Concat(
		together(taskPrepare, taskPrepareAll, "Keep snap file of %s", keep, func(p prepareParams) string { return p.Ref.String() }),
		together(taskMount, taskMountAll, "Mount %s", mounts, func(p mountParams) string { return p.Ref.String() }),
		aside,
		copying,
	)
}

func copied(p copyParams) string {
	if p.Copy {
		return fmt.Sprintf("%s to %s", p.From, p.To.Revision)
	}
	return p.To.String()
}
