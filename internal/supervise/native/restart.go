package native

import (
	"slices"
	"time"

	"tenure/internal/proc"
	"tenure/internal/supervise"
)

const (
	defaultRestartDelay = 100 * time.Millisecond
	maxRestartDelay     = time.Minute
	// lasting is how long a unit must have run for its next restart to count as
	// the first again.
	lasting = 10 * time.Second
)

// clean reports whether an exit is one that systemd.service(5) calls clean: 0,
// the statuses and signals that the unit names, and, but for oneshot, the signals
// by which services are usually ended. An unknown exit is not known to be clean.
func clean(spec *supervise.Spec, exit proc.Exit) bool {
	switch {
	case !exit.Known:
		return false
	case exit.Signal == "":
		return exit.Code == 0 || slices.Contains(spec.Restart.SuccessExit, exit.Code)
	case slices.Contains(spec.Restart.SuccessSignals, exit.Signal):
		return true
	case spec.Type == supervise.Oneshot:
		return false
	}
	switch exit.Signal {
	case "SIGHUP", "SIGINT", "SIGTERM", "SIGPIPE":
		return true
	}
	return false
}

// restarts reports whether a unit that ended by itself is started again: the
// table of Restart= in systemd.service(5). An exit that nobody saw counts as a
// failure where failures count, and as nothing else.
func restarts(spec *supervise.Spec, why supervise.Cause, exit proc.Exit) bool {
	good := why == supervise.CauseExit && clean(spec, exit)
	if good && spec.Type == supervise.Oneshot {
		return false
	}
	signalled := exit.Known && exit.Signal != "" && !clean(spec, exit)
	switch spec.Restart.Condition {
	case supervise.RestartAlways:
		return true
	case supervise.RestartOnSuccess:
		return good
	case supervise.RestartOnFailure:
		return !good
	case supervise.RestartOnAbnormal:
		return why != supervise.CauseExit || signalled || !exit.Known
	case supervise.RestartOnAbort:
		return why == supervise.CauseExit && signalled
	case supervise.RestartOnWatchdog:
		return why == supervise.CauseWatchdog
	case supervise.RestartNever:
		return false
	}
	return false
}

// restartDelay is the time before the next start after streak restarts that
// did not last. It doubles up to a minute; a unit that wants longer gets it.
func restartDelay(policy supervise.RestartPolicy, streak int) time.Duration {
	delay := policy.Delay
	if delay <= 0 {
		delay = defaultRestartDelay
	}
	for range streak {
		if delay >= maxRestartDelay {
			return delay
		}
		delay = min(2*delay, maxRestartDelay)
	}
	return delay
}
