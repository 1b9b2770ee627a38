package snapfile

import (
	"slices"
	"syscall"
)

// ExitStatuses are ends of a main process that count as success besides the
// usual ones.
type ExitStatuses struct {
	// Codes are exit codes, 0 to 255, sorted.
	Codes []int `json:"codes,omitempty"`
	// Signals are names such as "sigusr1", sorted.
	Signals []Signal `json:"signals,omitempty"`
}

// IsZero reports whether there are none.
func (e ExitStatuses) IsZero() bool { return len(e.Codes) == 0 && len(e.Signals) == 0 }

// CleanExit reports whether a main process of a that ended with code, or by
// signal if that is not 0, ended well. Besides what the package declares, the
// code 0 does and, except for oneshot, an end by SIGHUP, SIGINT, SIGTERM or
// SIGPIPE (systemd.service(5), SuccessExitStatus).
func (a *App) CleanExit(code int, signal syscall.Signal) bool {
	declared := a.SuccessExitStatus
	if signal == 0 {
		return code == 0 || slices.Contains(declared.Codes, code)
	}
	usual := []syscall.Signal{syscall.SIGHUP, syscall.SIGINT, syscall.SIGTERM, syscall.SIGPIPE}
	if a.Daemon != Oneshot && slices.Contains(usual, signal) {
		return true
	}
	return slices.ContainsFunc(declared.Signals, func(s Signal) bool { return s.Number() == signal })
}
