package native

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"tenure"
	"tenure/internal/change"
	"tenure/internal/proc"
	"tenure/internal/supervise"
)

// reloading is what is known of a reload: for the command, and for whoever asks.
type reloading struct {
	Reason tenure.Reason   `json:"reason,omitempty"`
	From   tenure.Revision `json:"from,omitzero"`
	To     tenure.Revision `json:"to,omitzero"`
	Change change.ID       `json:"change,omitzero"`
}

// reload is a request to go on with a Spec.
func (u *unit) reload(ctx context.Context, req supervise.ReloadRequest, reply chan<- error) {
	same := sameSpec(u.rec.Spec, &req.Spec)
	switch {
	case u.rec.State == supervise.Reloading && same:
		u.reloading = append(u.reloading, reply)
		return
	case u.rec.State != supervise.Running || u.rec.Passive:
		reply <- fmt.Errorf("%w: it is %s", supervise.ErrNotReady, u.rec.State)
		return
	}
	if !same {
		if err := u.follow(ctx, req.Spec); err != nil {
			reply <- err
			return
		}
	}
	if req.Quiet {
		reply <- nil
		return
	}
	u.rec.Reloading = &reloading{Reason: req.Reason, From: req.From, To: req.To, Change: u.by}
	u.writeReason(req.Reason)
	if u.rec.Spec.Reload == nil {
		u.save()
		reply <- u.signalMain(syscall.SIGHUP, req.Reason)
		return
	}
	u.reloading = append(u.reloading, reply)
	u.state(supervise.Reloading)
	if err := u.runAux(ctx, auxReload, *u.rec.Spec.Reload, u.rec.Spec.StartTimeout); err != nil {
		u.endReload(err)
	}
}

// follow makes a running unit one of another Spec. Its processes stay what they
// are until they are told.
func (u *unit) follow(ctx context.Context, spec supervise.Spec) error {
	matchers, err := compileWorkloads(spec.Workloads)
	if err != nil {
		return err
	}
	old := u.rec.Spec
	u.rec.Spec, u.matchers = &spec, matchers
	if err := u.openSockets(ctx, old); err != nil {
		u.rec.Spec = old
		u.matchers, _ = compileWorkloads(old.Workloads) // They have been compiled before.
		return err
	}
	u.save()
	u.serves()
	return u.s.setLabel(proc.GroupAt(u.rec.Group), label{u.id, spec.Revision})
}

// reloaded is told when the reload command has ended.
func (u *unit) reloaded(exit proc.Exit) {
	var err error
	if !exit.Success() {
		err = fmt.Errorf("reload command: %s", exit)
	}
	u.endReload(err)
}

// endReload makes the unit Running again, unless it has ended meanwhile.
func (u *unit) endReload(err error) {
	if u.rec.State == supervise.Reloading {
		u.rec.Reloading = nil
		u.forgetReason()
		u.state(supervise.Running)
	}
	u.answerReload(err)
}

func (u *unit) answerReload(err error) {
	for _, reply := range u.reloading {
		reply <- err
	}
	u.reloading = nil
}

// writeReason puts a reason where SNAP_LIFECYCLE_REASON_FILE points, before
// anybody is told.
func (u *unit) writeReason(reason tenure.Reason) {
	if reason == "" {
		return
	}
	err := os.MkdirAll(u.dir(), 0o755)
	if err == nil {
		err = replaceFile(filepath.Join(u.dir(), reasonName), []byte(string(reason)+"\n"), 0o644)
	}
	if err != nil {
		u.warn("reason cannot be written", err)
	}
}

// forgetReason removes a reason that holds no more.
func (u *unit) forgetReason() {
	err := os.Remove(filepath.Join(u.dir(), reasonName))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		u.warn("reason cannot be removed", err)
	}
}
