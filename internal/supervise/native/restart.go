package native

import (
	"slices"
	"time"

	"tenure/internal/proc"
	"tenure/internal/supervise"
)

// cause is why a unit is ending or has ended.
type cause string

const (
	// causeRequest is that somebody asked.
	causeRequest cause = "request"
	// causeExit is that the main process ended by itself.
	causeExit cause = "exit"
	// causeTimeout is that it was not ready in time.
	causeTimeout cause = "timeout"
	// causeWatchdog is that it did not report in time.
	causeWatchdog cause = "watchdog"
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
func restarts(spec *supervise.Spec, why cause, exit proc.Exit) bool {
	good := why == causeExit && clean(spec, exit)
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
		return why != causeExit || signalled || !exit.Known
	case supervise.RestartOnAbort:
		return why == causeExit && signalled
	case supervise.RestartOnWatchdog:
		return why == causeWatchdog
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
