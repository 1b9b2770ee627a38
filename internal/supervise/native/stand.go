package native

import (
	"context"
	"errors"
	"time"

	"tenure/internal/proc"
)

// freeze makes the unit's processes stand still, and gives what lets them go on.
func (u *unit) freeze(ctx context.Context) (thaw func()) {
	if u.rec.Group == "" {
		return func() {}
	}
	thaw, err := u.stand(ctx, freezePatience)
	if err != nil && !errors.Is(err, proc.ErrNoGroup) { // With its last process a host removes it.
		u.warn("group cannot be frozen", err)
	}
	return thaw
}

// stand makes the processes in the unit's group stand still, within a time, and
// gives what lets them go on, which does nothing when they do anyway.
func (u *unit) stand(ctx context.Context, patience time.Duration) (thaw func(), err error) {
	group := proc.GroupAt(u.rec.Group)
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), patience)
	defer cancel()
	hold, err := group.Hold(ctx)
	if err != nil {
		return func() {}, err
	}
	return func() {
		if err := hold.Thaw(); err != nil {
			u.warn("group cannot be thawed", err)
		}
	}, nil
}
