package main

import (
	"errors"
	"io/fs"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// kind is a kind of call that changes something.
type kind struct {
	name string
	// where says what it is about.
	where func(w *watch, args [6]uint64) string
}

// call is one call.
type call struct {
	kind

	name   string
	number uint64
	// known is that it is of a kind that may count.
	known bool
	args  [6]uint64
	w     *watch
}

// process stands for what is not about a file.
const process = "(process)"

// about is what the call changes, without the root that it lies below; and whether it
// counts.
func (c call) about(root string) (what string, counts bool) {
	path := c.where(c.w, c.args)
	switch {
	case path == "":
		return "", false
	case path == process, strings.HasPrefix(path, "/sys/fs/cgroup/"):
		return path, true
	}
	below, found := strings.CutPrefix(path, root)
	return below, found && !unimportant(below)
}

// unimportant reports whether a file need not survive anything: it tells people of the past.
func unimportant(path string) bool {
	for _, dir := range []string{"/var/lib/tenure/history", "/var/lib/tenure/failpoint", "/var/lib/tenure/logs", "/.mortal"} {
		if strings.HasPrefix(path, dir) {
			return true
		}
	}
	return false
}

// kinds are all that count, by their numbers on this machine.
func kinds() map[uint64]kind { return allKinds }

//nolint:gochecknoglobals // A table, which nobody changes.
var allKinds = map[uint64]kind{
	unix.SYS_RENAMEAT:          {"rename", renamed},
	unix.SYS_RENAMEAT2:         {"rename", renamed},
	unix.SYS_UNLINKAT:          {"unlink", unlinked},
	unix.SYS_MKDIRAT:           {"mkdir", made},
	unix.SYS_SYMLINKAT:         {"symlink", pathAt(1, 2)},
	unix.SYS_LINKAT:            {"link", pathAt(2, 3)},
	unix.SYS_MOUNT:             {"mount", path(1)},
	unix.SYS_MOVE_MOUNT:        {"mount", pathAt(2, 3)},
	unix.SYS_UMOUNT2:           {"umount", path(0)},
	unix.SYS_FSYNC:             {"fsync", descriptor},
	unix.SYS_FDATASYNC:         {"fdatasync", descriptor},
	unix.SYS_SYNCFS:            {"syncfs", descriptor},
	unix.SYS_FTRUNCATE:         {"truncate", descriptor},
	unix.SYS_COPY_FILE_RANGE:   {"copy", second},
	unix.SYS_OPENAT:            {"create", created},
	unix.SYS_WRITE:             {"write", written},
	unix.SYS_CLONE:             {"start", child},
	unix.SYS_CLONE3:            {"start", always},
	unix.SYS_KILL:              {"kill", always},
	unix.SYS_PIDFD_SEND_SIGNAL: {"kill", signalled},
}

func path(n int) func(*watch, [6]uint64) string {
	return func(w *watch, args [6]uint64) string { return w.path(atCWD, args[n]) }
}

// atCWD is AT_FDCWD as an argument.
const atCWD = 0xffffff9c

func pathAt(dir, n int) func(*watch, [6]uint64) string {
	return func(w *watch, args [6]uint64) string { return w.path(args[dir], args[n]) }
}

// renamed is what something becomes that is there.
func renamed(w *watch, args [6]uint64) string {
	if missing(w.path(args[0], args[1])) {
		return ""
	}
	return w.path(args[2], args[3])
}

// unlinked is what is there, and can be removed in this way.
func unlinked(w *watch, args [6]uint64) string {
	path := w.path(args[0], args[1])
	info, err := os.Lstat(path)
	if err != nil || info.IsDir() != (args[2]&unix.AT_REMOVEDIR != 0) {
		return ""
	}
	return path
}

// made is a directory that is not there.
func made(w *watch, args [6]uint64) string {
	path := w.path(args[0], args[1])
	if !missing(path) {
		return ""
	}
	return path
}

func missing(path string) bool {
	_, err := os.Lstat(path)
	return errors.Is(err, fs.ErrNotExist)
}

func descriptor(w *watch, args [6]uint64) string { return w.file(args[0]) }

func second(w *watch, args [6]uint64) string { return w.file(args[2]) }

func always(*watch, [6]uint64) string { return process }

// created is a file that is opened to be made.
func created(w *watch, args [6]uint64) string {
	if args[2]&unix.O_CREAT == 0 {
		return ""
	}
	return w.path(args[0], args[1])
}

// written is what is written to, where one write is all: a control group, and a small file.
func written(w *watch, args [6]uint64) string {
	file := w.file(args[0])
	if !strings.HasPrefix(file, "/") || strings.HasPrefix(file, "/memfd:") || strings.HasPrefix(file, "/dev/") {
		return ""
	}
	return file
}

// child tells processes from threads.
func child(_ *watch, args [6]uint64) string {
	if args[0]&unix.CLONE_THREAD != 0 {
		return ""
	}
	return process
}

// signalled leaves out who only asks whether a process is there.
func signalled(_ *watch, args [6]uint64) string {
	if args[1] == 0 {
		return ""
	}
	return process
}

// field is the rest of the line that begins with name.
func field(text, name string) string {
	for line := range strings.Lines(text) {
		if rest, found := strings.CutPrefix(line, name); found {
			return strings.TrimSpace(rest)
		}
	}
	return ""
}
