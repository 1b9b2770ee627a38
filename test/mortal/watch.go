package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// watch has the threads of a process stop at their system calls (ptrace(2)).
type watch struct {
	pid     int
	threads map[int]bool
	memory  *os.File
	// sleeps are how often in a row a thread has gone to sleep for a moment.
	sleeps map[int]int
	wanted func(call) bool
	each   func(call)
}

const (
	options = unix.PTRACE_O_TRACESYSGOOD | unix.PTRACE_O_TRACECLONE | unix.PTRACE_O_TRACEEXEC
	// syscallStop is the signal of a stop at a system call, with PTRACE_O_TRACESYSGOOD.
	syscallStop = unix.SIGTRAP | 0x80
)

// newWatch attaches to all threads of a process, and returns when each stops at its next call.
func newWatch(pid int, wanted func(call) bool) (*watch, error) {
	w := &watch{pid: pid, threads: map[int]bool{}, sleeps: map[int]int{}, wanted: wanted}
	if err := w.remember(); err != nil {
		return nil, err
	}
	for {
		more, err := w.seize()
		if err != nil {
			return nil, fmt.Errorf("attach to %d: %w", pid, err)
		}
		if !more {
			return w, nil
		}
	}
}

// remember opens the memory of the process: what is open is that of the program that it executes now, and of no later one.
func (w *watch) remember() error {
	memory, err := os.Open(fmt.Sprintf("/proc/%d/mem", w.pid))
	if err != nil {
		return err
	}
	_ = w.memory.Close() // Also of none.
	w.memory = memory
	return nil
}

// seize attaches to the threads that are there, and tells whether there was a new one.
func (w *watch) seize() (more bool, err error) {
	entries, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", w.pid))
	if err != nil {
		return false, err
	}
	for _, entry := range entries {
		tid, err := strconv.Atoi(entry.Name())
		if err != nil || w.threads[tid] {
			continue
		}
		more = true
		switch err := ptrace(unix.PTRACE_SEIZE, tid, 0, options); {
		case errors.Is(err, syscall.ESRCH):
			continue // It has ended.
		case errors.Is(err, syscall.EPERM) && w.ours(tid):
		case err != nil:
			return false, err
		}
		w.threads[tid] = true
		if err := w.interrupt(tid); err != nil {
			return false, err
		}
	}
	return more, nil
}

// ours reports whether a thread is looked at since it was made by one that is.
func (w *watch) ours(tid int) bool {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/status", w.pid, tid))
	return err == nil && field(string(text), "TracerPid:") == strconv.Itoa(os.Getpid())
}

// interrupt makes a thread stop once, and go on to its next call.
func (w *watch) interrupt(tid int) error {
	err := ptrace(unix.PTRACE_INTERRUPT, tid, 0, 0)
	if err != nil && !errors.Is(err, syscall.ESRCH) {
		return err
	}
	var status unix.WaitStatus
	if _, err := unix.Wait4(tid, &status, unix.WALL, nil); err != nil {
		return err
	}
	return w.handle(tid, status)
}

// run goes on until the process has ended.
func (w *watch) run() error {
	for {
		var status unix.WaitStatus
		tid, err := unix.Wait4(-1, &status, unix.WALL, nil)
		switch {
		case errors.Is(err, syscall.EINTR):
			continue
		case errors.Is(err, syscall.ECHILD):
			return nil
		case err != nil:
			return err
		}
		if err := w.handle(tid, status); err != nil {
			return err
		}
	}
}

// handle lets a thread that has stopped go on.
func (w *watch) handle(tid int, status unix.WaitStatus) error {
	if !status.Stopped() {
		return nil
	}
	signal := 0
	switch event := int(status) >> 16; {
	case event == unix.PTRACE_EVENT_STOP && status.StopSignal() != unix.SIGTRAP:
		return alive(ptrace(unix.PTRACE_LISTEN, tid, 0, 0))
	case event == unix.PTRACE_EVENT_EXEC:
		clear(w.sleeps)
		if err := w.remember(); err != nil {
			return fmt.Errorf("see what %d has become: %w", w.pid, err)
		}
	case event != 0:
	case status.StopSignal() == syscallStop:
		c, entry := w.call(tid)
		if entry && w.each != nil && c.known && w.wanted(c) {
			w.each(c)
		}
		if entry && w.sleeper(tid, &c) {
			return alive(ptrace(unix.PTRACE_CONT, tid, 0, 0))
		}
	default:
		signal = int(status.StopSignal())
	}
	return alive(ptrace(unix.PTRACE_SYSCALL, tid, 0, uintptr(signal)))
}

// sleeper reports whether a thread is the one by which the runtime looks after all others (sysmon), which does
// nothing but to sleep for moments: ever shorter ones where calls take long, as they do when somebody
// looks at them, and then neither gets to anything else. Others sleep for shorter moments still, when they look for
// work, and go on to do it: a thread that was taken for it would do so unseen.
func (w *watch) sleeper(tid int, c *call) bool {
	const surely = 8
	if c.number != unix.SYS_NANOSLEEP || w.duration(c.args[0]) < shortestRest {
		w.sleeps[tid] = 0
		return false
	}
	w.sleeps[tid]++
	return w.sleeps[tid] >= surely
}

// shortestRest is for how long that thread sleeps at least (sysmon in runtime/proc.go); all others sleep for 3 microseconds (runqgrab).
const shortestRest = 20 * time.Microsecond

// duration is a time in the memory of the process, of a thread that has stopped.
func (w *watch) duration(at uint64) time.Duration {
	var buf [16]byte
	if _, err := w.memory.ReadAt(buf[:], int64(at)); err != nil { //nolint:gosec // An address.
		return 0
	}
	seconds, nanoseconds := binary.NativeEndian.Uint64(buf[:8]), binary.NativeEndian.Uint64(buf[8:])
	return time.Duration(seconds)*time.Second + time.Duration(nanoseconds) //nolint:gosec // Of the runtime.
}

// alive is err, unless it is that a thread has been killed meanwhile.
func alive(err error) error {
	if errors.Is(err, syscall.ESRCH) {
		return nil
	}
	return err
}

func ptrace(request, tid int, addr, data uintptr) error {
	_, _, errno := unix.Syscall6(unix.SYS_PTRACE, uintptr(request), uintptr(tid), addr, data, 0, 0)
	if errno != 0 {
		return errno
	}
	return nil
}

// text is a string in the memory of the process.
func (w *watch) text(at uint64) string {
	const most = 4096
	buf := make([]byte, most)
	n, err := w.memory.ReadAt(buf, int64(at)) //nolint:gosec // An address.
	if n == 0 && err != nil {
		return ""
	}
	for i, b := range buf[:n] {
		if b == 0 {
			return string(buf[:i])
		}
	}
	return ""
}

// file is what a descriptor of the process is open at.
func (w *watch) file(fd uint64) string {
	target, err := os.Readlink(fmt.Sprintf("/proc/%d/fd/%d", w.pid, int32(fd))) //nolint:gosec // A descriptor.
	if err != nil {
		return ""
	}
	return target
}

// path is what a call names by a directory and a path.
func (w *watch) path(fd, at uint64) string {
	name := w.text(at)
	if filepath.IsAbs(name) {
		return w.held(name)
	}
	const here = unix.AT_FDCWD
	if int32(fd) == here { //nolint:gosec // A descriptor.
		return name
	}
	return filepath.Join(w.file(fd), name)
}

// held is a path without the way over a descriptor of the process.
func (w *watch) held(name string) string {
	dir, base := filepath.Split(name)
	if fd, found := strings.CutPrefix(filepath.Clean(dir), "/proc/self/fd/"); found {
		if target, err := os.Readlink(fmt.Sprintf("/proc/%d/fd/%s", w.pid, fd)); err == nil {
			return filepath.Join(target, base)
		}
	}
	return name
}

// info is what PTRACE_GET_SYSCALL_INFO says at the entry of a call (ptrace(2)).
type info struct {
	Op   uint8
	_    [3]byte
	_    uint32
	_    [2]uint64
	Nr   uint64
	Args [6]uint64
}

const getSyscallInfo = 0x420e

// call is the call that a thread is about to make, or has made.
func (w *watch) call(tid int) (c call, entry bool) {
	var i info
	err := ptrace(getSyscallInfo, tid, unsafe.Sizeof(i), uintptr(unsafe.Pointer(&i))) //nolint:gosec // As ptrace(2) wants it.
	if err != nil || i.Op != 1 {
		return call{}, false
	}
	kind, known := kinds()[i.Nr]
	return call{name: kind.name, kind: kind, number: i.Nr, known: known, args: i.Args, w: w}, true
}
