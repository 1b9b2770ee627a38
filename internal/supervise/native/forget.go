package native

import (
	"context"
	"errors"
	"maps"
	"os"

	"tenure"
	"tenure/internal/supervise"
)

// vanish forgets a unit that came out of another, or was started elsewhere, or is
// a service beside itself, with its last process.
func (u *unit) vanish(ctx context.Context) {
	u.state(supervise.Inactive)
	if err := u.forget(ctx); err != nil {
		u.warn("unit cannot be forgotten", err)
	}
}

// forget drops all that is known of the unit.
func (u *unit) forget(ctx context.Context) error {
	if infos, ok := u.living(); !ok || len(infos) > 0 || u.rec.State.Alive() {
		return supervise.ErrRunning
	}
	u.disarm()
	u.tidy()
	u.closeSockets(ctx)
	u.closeNotifyAtRest(ctx)
	ctx = context.WithoutCancel(ctx)
	err := errors.Join(
		u.s.cfg.Holder.Remove(ctx, u.id, ""),
		os.RemoveAll(u.dir()),
		u.s.records.remove(u.id),
		u.forgetByHost(),
	)
	if u.id.Kind == tenure.HookRun || u.id.Named() || u.id.At != "" {
		// Nobody asks for it any more, and the next one of the name has another log.
		err = errors.Join(err, u.s.cfg.Holder.DropLog(ctx, u.id))
	}
	u.rec.Deadline = maps.Clone(map[alarm]moment{})
	u.forgotten = true
	u.s.drop(u)
	return err
}
