package proc

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"tenure"
)

// Info is what can be seen of a process at one moment.
type Info struct {
	tenure.Process

	PPID int `json:"ppid"`
	// Args is the command line, without empty arguments at its end; it is empty
	// for a zombie and a kernel thread. It is what the process chose to show.
	Args []string `json:"args,omitempty"`
	// Comm is the name of the executable or what the process set, at most 15 bytes.
	Comm string `json:"comm"`
	// State is the letter that ps(1) shows: R, S, D, T, Z, …
	State byte `json:"state"`
	// UID is the effective user.
	UID uint32 `json:"uid"`
	// Memory is how much of it is in memory, in bytes; 0 for a zombie.
	Memory int64 `json:"memory,omitempty"`
	// Group is the group of the process relative to the one whose processes
	// were listed, and empty for that one itself.
	Group string `json:"group,omitempty"`
	// Foreign is set for a process in a group that its service made below its
	// own. Such a process is never moved.
	Foreign bool `json:"foreign,omitempty"`
	// Started is Start as a time of day, to the kernel's 10 ms.
	Started time.Time `json:"started"`
}

// CommandLine is the arguments joined by one space, and the name in brackets
// when there are none, as ps(1) shows it.
func (i Info) CommandLine() string {
	if len(i.Args) == 0 {
		return "[" + i.Comm + "]"
	}
	return strings.Join(i.Args, " ")
}

// ticksPerSecond is the unit of times in /proc, the same on every machine
// that Linux has user space for (USER_HZ).
const ticksPerSecond = 100

// maxArgs bounds what is read of a command line; the rest cannot be matched.
const maxArgs = 256 << 10

// Read describes the process that has pid now. One that has ended is an
// error of kind ErrGone; a zombie has not.
func Read(pid int) (Info, error) {
	info, err := read(pid)
	if err != nil {
		return Info{}, fmt.Errorf("read process %d: %w", pid, goneProcess(err))
	}
	return info, nil
}

// read opens the directory once, so that all is read of the same process:
// the directory of a process that has ended stays dead.
func read(pid int) (Info, error) {
	dir, err := openAt(unix.AT_FDCWD, "/proc/"+strconv.Itoa(pid), unix.O_DIRECTORY|unix.O_PATH)
	if err != nil {
		return Info{}, err
	}
	defer unix.Close(dir) //nolint:errcheck // Nothing was written.
	// It belongs to the effective user, whether or not the process may be dumped
	// (task_dump_owner in fs/proc/base.c). The file "status" says so too, and takes as long
	// as all else together.
	var owner unix.Stat_t
	if err := unix.Fstat(dir, &owner); err != nil {
		return Info{}, err
	}
	var fields stat
	err = readAt(dir, "stat", maxStat, func(text []byte) (err error) {
		fields, err = parseStat(string(text))
		return err
	})
	if err != nil {
		return Info{}, err
	}
	var args []string
	err = readAt(dir, "cmdline", maxArgs, func(text []byte) error {
		args = splitArgs(text)
		return nil
	})
	if err != nil {
		return Info{}, err
	}
	return Info{
		Process: tenure.Process{PID: pid, Start: fields.start},
		PPID:    fields.ppid,
		Args:    args,
		Comm:    fields.comm,
		State:   fields.state,
		UID:     owner.Uid,
		Memory:  fields.pages * int64(os.Getpagesize()),
		Started: startTime(fields.start),
	}, nil
}

// maxStat is more than /proc/PID/stat ever is.
const maxStat = 4096

// stat is what is used of /proc/PID/stat (proc_pid_stat(5)).
type stat struct {
	comm  string
	state byte
	ppid  int
	start uint64
	// pages is how much of it is in memory.
	pages    int64
	exitCode int
	hasExit  bool
}

// parseStat reads a line of /proc/PID/stat. The name is in parentheses and may
// have any character in it, so the last closing one counts.
func parseStat(line string) (stat, error) {
	open, end := strings.IndexByte(line, '('), strings.LastIndexByte(line, ')')
	malformed := func() error { return fmt.Errorf("malformed stat %q", line) }
	if open < 0 || end < open {
		return stat{}, malformed()
	}
	// fields[0] is field 3 of the manual page.
	fields := strings.Fields(line[end+1:])
	if len(fields) < 20 || len(fields[0]) != 1 {
		return stat{}, malformed()
	}
	s := stat{comm: line[open+1 : end], state: fields[0][0]}
	var ppidErr, startErr error
	s.ppid, ppidErr = strconv.Atoi(fields[1])
	s.start, startErr = strconv.ParseUint(fields[19], 10, 64)
	if ppidErr != nil || startErr != nil {
		return stat{}, malformed()
	}
	if len(fields) > 21 {
		s.pages, _ = strconv.ParseInt(fields[21], 10, 64)
	}
	if len(fields) > 49 {
		code, err := strconv.Atoi(fields[49])
		s.exitCode, s.hasExit = code, err == nil
	}
	return s, nil
}

// splitArgs splits a command line at its NULs. Empty arguments at the end are
// dropped: they are what setproctitle(3) leaves of the old, longer one.
func splitArgs(cmdline []byte) []string {
	cmdline = bytes.TrimRight(cmdline, "\x00")
	if len(cmdline) == 0 {
		return nil
	}
	return strings.Split(string(cmdline), "\x00")
}

// startTime converts ticks since boot. It counts back from now on the clock
// that runs while the machine sleeps, as the kernel's own start times do.
func startTime(ticks uint64) time.Time {
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &now); err != nil {
		return time.Time{}
	}
	const tick = time.Second / ticksPerSecond
	age := time.Duration(now.Nano()) - time.Duration(ticks)*tick //nolint:gosec // Ticks since boot.
	return time.Now().Add(-age).Round(tick)
}

// goneProcess turns what /proc and pidfds say of an ended process into ErrGone.
func goneProcess(err error) error {
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("%w: %w", ErrGone, err)
	}
	return err
}

// MachineMemory is how much memory the machine has, in bytes; 0 where that is not told.
func MachineMemory() int64 {
	var info unix.Sysinfo_t
	if unix.Sysinfo(&info) != nil {
		return 0
	}
	return int64(info.Totalram) * int64(info.Unit) //nolint:gosec // No memory is that large.
}

// BootID is the kernel's name for the time since the machine last booted. A
// tenure.Process means nothing under another one.
func BootID() (string, error) {
	id, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return "", fmt.Errorf("boot id: %w", err)
	}
	return strings.TrimSpace(string(id)), nil
}
