package native

import (
	"context"
	"time"

	"tenure/internal/proc"
	"tenure/internal/supervise"
)

// againPause is how long it takes until those are told whom the daemon had no room to tell.
const againPause = time.Second

// tellAgain tells those who have not been told, because the daemon could not list or open them.
func (u *unit) tellAgain(ctx context.Context) {
	if u.rec.Ending == nil {
		return
	}
	infos, _ := u.living()
	switch u.rec.Ending.Phase {
	case phaseSignal:
		u.tellAll(ctx, infos)
	case phaseKill:
		u.kill(ctx)
	case phaseCommand, phasePost:
	}
	u.progress(ctx)
}

// tellAll sends the stop signal to those of the unit's processes whom it is for.
func (u *unit) tellAll(ctx context.Context, infos []proc.Info) {
	number := u.stopSignal()
	// Of a unit that has but its main process nothing can be set apart, and what
	// it forks from now on is found when it has ended.
	alone := len(infos) == 1 && infos[0].Process == u.rec.Main
	if alone || (!u.keeps() && u.rec.Spec.Stop.Target == supervise.TargetMain) {
		u.signalAll(number, u.targets(infos))
		u.save()
		return
	}
	thaw := u.freeze(ctx)
	rest := u.split(ctx)
	u.signalAll(number, u.targets(rest))
	u.save()
	thaw()
}
