// Command mortal kills a program at one of its system calls: those that change files,
// mounts and control groups, make something durable, start a process or send a signal. So
// a test can have a daemon die between any two of them, without anything in the daemon that
// knows of it.
//
// What always holds: the call that the program dies at has not happened, and all before it
// have. The processes that the program starts are not looked at.
//
//	mortal attach PID ROOT AT LOG   kill the process at its call AT, counted from 1 (0: never)
//	mortal become COMMAND...        execute COMMAND, which is killed where ROOT/.mortal says;
//	                                ROOT is what follows "--root" in it
//
// A call counts if it is about a file below ROOT, a control group, or a process, and unless it
// is known beforehand to change nothing: a file that is not there is not removed. Each is
// appended to LOG, one a line: its name, and what it is about; that a file is written to only for
// the first of several times in a row. The first line is "by" and who looks. "attach" says "ready" when the
// process cannot make a call any more that it does not see; it ends with the process, or when it is
// killed, which leaves the process alone. The file ROOT/.mortal has AT and LOG, with a
// space between them; it goes when it was read.
package main

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "mortal:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	switch {
	case len(args) == 5 && args[0] == "attach":
		pid, errPID := strconv.Atoi(args[1])
		at, errAt := strconv.Atoi(args[3])
		if err := errors.Join(errPID, errAt); err != nil {
			return err
		}
		return attach(pid, args[2], at, args[4])
	case len(args) > 1 && args[0] == "become":
		at := slices.Index(args, "--root") + 1
		if at == 0 || at == len(args) {
			return errors.New("the command has no --root")
		}
		return become(args[at], args[1:])
	}
	return errors.New("usage: mortal attach PID ROOT AT LOG | mortal become COMMAND")
}

// attach is the life of who looks at the process.
func attach(pid int, root string, at int, log string) error {
	// Only the thread that has attached may ask for anything.
	runtime.LockOSThread()
	out, err := os.OpenFile(log, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	w, err := newWatch(pid, func(c call) bool {
		about, counts := c.about(root)
		return counts && about != log
	})
	if err != nil {
		return err
	}
	passed, last := 0, ""
	note := func(words ...any) { _, _ = fmt.Fprintln(out, words...) } // Who misses a line will say so.
	w.each = func(c call) {
		about, _ := c.about(root)
		line := c.name + " " + about
		if c.name == "write" && line == last {
			return // A file that is long.
		}
		last = line
		note(line)
		if passed++; passed == at {
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
	}
	note("by", os.Getpid())
	if _, err := fmt.Fprintln(os.Stdout, "ready"); err != nil {
		return err
	}
	return w.run()
}

// become executes a command, with somebody who looks at it, if it is to be.
func become(root string, argv []string) error {
	order := filepath.Join(root, ".mortal")
	text, err := os.ReadFile(order)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if at, log, found := strings.Cut(strings.TrimSpace(string(text)), " "); found {
		if err := os.Remove(order); err != nil {
			return err
		}
		if err := beWatched(root, at, log); err != nil {
			return err
		}
	}
	return syscall.Exec(argv[0], argv, os.Environ()) //nolint:gosec // What it is for.
}

// beWatched returns when somebody looks at this process.
func beWatched(root, at, log string) error {
	r, w, err := os.Pipe()
	if err != nil {
		return err
	}
	cmd := exec.Command("/proc/self/exe", "attach", strconv.Itoa(os.Getpid()), root, at, log) //nolint:noctx,gosec // It ends with this process.
	cmd.Stdout, cmd.Stderr = w, os.Stderr
	if err := errors.Join(cmd.Start(), w.Close()); err != nil {
		return err
	}
	if line, err := bufio.NewReader(r).ReadString('\n'); line != "ready\n" {
		return fmt.Errorf("nobody looks at it: %w", err)
	}
	return r.Close()
}
