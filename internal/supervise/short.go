package supervise

import (
	"errors"
	"syscall"
)

// ShortError is that the machine, or a limit, had no room for what a start needs. It is nothing
// that the unit did, and is over when there is room again.
type ShortError struct {
	// Of is what there is too little of, and Do what to do about it.
	Of, Do string
	Err    error
}

// Error says what is missing, and what to do.
func (e *ShortError) Error() string {
	return "out of " + e.Of + " (" + e.Err.Error() + "): " + e.Do
}

// Unwrap is the cause.
func (e *ShortError) Unwrap() error { return e.Err }

// Short is err as a *ShortError, if it is one by its number, and otherwise err: of who
// forks, and opens what a process is to have (fork(2), open(2)).
func Short(err error) error {
	if _, is := errors.AsType[*ShortError](err); is || err == nil {
		return err
	}
	for _, short := range []struct {
		number syscall.Errno
		of, do string
	}{
		{syscall.EAGAIN, "processes", "end some, or raise the limit that is reached: kernel.pid_max, kernel.threads-max, pids.max of a control group (TasksMax= where systemd has it), or RLIMIT_NPROC of the user that it was to run as (ulimit -u)"},
		{syscall.ENOMEM, "memory", "end something, or raise memory.max of the control group (MemoryMax= where systemd has it)"},
		{syscall.EMFILE, "file descriptors", "raise the limit of tenured: LimitNOFILE= of its unit, or ulimit -n"},
		{syscall.ENFILE, "open files", "end something, or raise fs.file-max"},
	} {
		if errors.Is(err, short.number) {
			return &ShortError{Of: short.of, Do: short.do, Err: err}
		}
	}
	return err
}

// IsShort reports whether err is a *ShortError.
func IsShort(err error) bool {
	_, is := errors.AsType[*ShortError](err)
	return is
}
