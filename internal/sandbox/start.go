package sandbox

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"runtime"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// Exec is one program to run in a profile.
type Exec struct {
	// Argv is the program and its arguments. Argv[0] is an absolute path as the
	// unit sees it; nothing is searched for.
	Argv []string
	// Env is the whole environment.
	Env []string
	// Dir is the working directory as the unit sees it; empty is "/".
	Dir string
	// Files become descriptors 0, 1, 2, …; nil ones are closed. They are passed as
	// os/exec does: those that package os made non-blocking are blocking again.
	Files []*os.File
	// Group is the directory of a control group of version 2 in which the
	// process is born; nil is the daemon's own. It must not be frozen.
	Group *os.File
	// Umask is the file mode creation mask; 0 is 022.
	Umask int
}

// Errors that callers tell apart.
var (
	// ErrFrozen is that the group in which a process should be born is frozen:
	// the process would stand still before its first instruction, and with it
	// every other start.
	ErrFrozen = errors.New("control group is frozen")
	// ErrExec is that the program itself could not be executed; what the
	// profile asks for had been made.
	ErrExec = errors.New("cannot execute")
)

// started is what a sacrificed thread has to show for itself.
type started struct {
	pid   int
	pidfd *os.File
	err   error
}

// Start runs a program in a profile, as the leader of a session of its own,
// and returns when it has been executed. The process is a child of the caller,
// who owns pidfd and reaps it.
//
// When ctx ends first, the process is killed as soon as it exists.
func Start(ctx context.Context, p Profile, e Exec) (pid int, pidfd *os.File, err error) {
	if err := errors.Join(context.Cause(ctx), p.Check(), e.check()); err != nil {
		return 0, nil, err
	}
	return begin(p, nil).Start(ctx, e)
}

// onSacrificedThread runs f in a goroutine whose thread ends with it, for what
// was done to the thread cannot be undone.
func onSacrificedThread(f func()) {
	go func() {
		// Never unlocked.
		runtime.LockOSThread()
		if unix.Gettid() != unix.Getpid() {
			f()
			return
		}
		// The first thread cannot end: it would stay behind in the new
		// namespace, and /proc/PID shows what the first thread sees. While it
		// is locked here, another one is taken.
		done := make(chan struct{})
		go func() {
			defer close(done)
			runtime.LockOSThread()
			f()
		}()
		<-done
		runtime.UnlockOSThread()
	}()
}

func (e Exec) check() error {
	if len(e.Argv) == 0 || !strings.HasPrefix(e.Argv[0], "/") {
		return fmt.Errorf("%w: command %q does not begin with an absolute path", ErrProfile, e.Argv)
	}
	return nil
}

// descriptors are what a start was given. They are its own, for the caller
// may close his as soon as Start returns, which can be before launch does.
type descriptors struct {
	// group is -1 for none, as is a file that is to be closed.
	group int
	files []int
}

func duplicate(e Exec) (descriptors, error) {
	d := descriptors{group: -1}
	var err error
	if e.Group != nil {
		if d.group, err = dup(e.Group); err != nil {
			return d, err
		}
	}
	for _, file := range e.Files {
		fd := -1
		if file != nil {
			if fd, err = dup(file); err != nil {
				d.close()
				return d, err
			}
		}
		d.files = append(d.files, fd)
	}
	return d, nil
}

func dup(file *os.File) (int, error) {
	fd, err := unix.FcntlInt(file.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return -1, fmt.Errorf("duplicate %s: %w", file.Name(), err)
	}
	return fd, nil
}

func (d descriptors) close() {
	for _, fd := range append(d.files, d.group) {
		if fd >= 0 {
			_ = unix.Close(fd)
		}
	}
}

// launch forks a program from the calling thread, which has entered p, and
// spoils the thread.
func launch(p Profile, e Exec, given descriptors) started {
	if err := checkThawed(given.group); err != nil {
		return started{err: fmt.Errorf("start %s: control group %s: %w", e.Argv[0], e.Group.Name(), err)}
	}
	umask := e.Umask
	if umask == 0 {
		umask = 0o022
	}
	if err := enterDir(e.Dir); err != nil {
		return started{err: fmt.Errorf("start %s: %w", e.Argv[0], err)}
	}
	unix.Umask(umask)
	// The forked child changes its user, for which it needs these two; it
	// loses them in exec, since they are not in the bounding set.
	if err := p.dropRights(unix.CAP_SETUID, unix.CAP_SETGID); err != nil {
		return started{err: fmt.Errorf("start %s: %w", e.Argv[0], err)}
	}
	// The child has the mask of this thread, which is that of whoever started the daemon.
	if err := unix.PthreadSigmask(unix.SIG_SETMASK, &unix.Sigset_t{}, nil); err != nil {
		return started{err: fmt.Errorf("start %s: unblock signals: %w", e.Argv[0], err)}
	}
	files := make([]uintptr, len(given.files))
	for i, file := range given.files {
		files[i] = uintptr(file) //nolint:gosec // -1 is what stands for none.
	}
	fd := -1
	pid, err := syscall.ForkExec(e.Argv[0], e.Argv, &syscall.ProcAttr{
		Env:   e.Env,
		Files: files,
		Sys: &syscall.SysProcAttr{
			Setsid:      true,
			UseCgroupFD: given.group >= 0,
			CgroupFD:    max(given.group, 0),
			PidFD:       &fd,
			Credential:  &syscall.Credential{Uid: p.UID, Gid: p.GID, Groups: p.Groups},
		},
	})
	if err != nil {
		return started{err: execError(e, err)}
	}
	if fd < 0 {
		// Since Linux 5.2 there always is one.
		s := started{pid: pid, err: fmt.Errorf("start %s: no pidfd: %w", e.Argv[0], errors.ErrUnsupported)}
		_ = unix.Kill(pid, unix.SIGKILL)
		_, _ = syscall.Wait4(pid, nil, 0, nil)
		return s
	}
	return started{pid: pid, pidfd: os.NewFile(uintptr(fd), "pidfd")}
}

// discard ends a process that nobody waits for any more.
func (s started) discard() {
	if s.pidfd == nil {
		return
	}
	defer s.pidfd.Close() //nolint:errcheck // Nothing can be lost.
	_ = unix.PidfdSendSignal(int(s.pidfd.Fd()), unix.SIGKILL, nil, 0)
	for {
		err := unix.Waitid(unix.P_PIDFD, int(s.pidfd.Fd()), nil, unix.WEXITED, nil)
		if !errors.Is(err, unix.EINTR) {
			return
		}
	}
}

// checkThawed refuses a group in which a process would not run.
func checkThawed(group int) error {
	if group < 0 {
		return nil
	}
	for _, frozen := range []struct{ file, text string }{
		{"cgroup.events", "frozen 1"},
		{"cgroup.freeze", "1"},
	} {
		text, err := readFileAt(group, frozen.file)
		if err != nil {
			return err
		}
		if strings.Contains(text, frozen.text) {
			return ErrFrozen
		}
	}
	return nil
}

func readFileAt(dir int, name string) (string, error) {
	fd, err := unix.Openat(dir, name, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return "", fmt.Errorf("open %s: %w", name, err)
	}
	file := os.NewFile(uintptr(fd), name) //nolint:gosec // An open descriptor.
	defer file.Close()                    //nolint:errcheck // Only read.
	text, err := io.ReadAll(file)
	if err != nil {
		return "", fmt.Errorf("read %s: %w", name, err)
	}
	return string(text), nil
}

// execError words the single error number that comes back from between fork
// and exec. The calling thread is where the program would have been.
func execError(e Exec, err error) error {
	if _, statErr := os.Stat(e.Argv[0]); errors.Is(err, fs.ErrNotExist) && statErr == nil {
		return fmt.Errorf("%w %s: its interpreter or loader is missing: %w", ErrExec, e.Argv[0], err)
	}
	if e.Group != nil && (errors.Is(err, unix.ENODEV) || errors.Is(err, unix.EOPNOTSUPP)) {
		return fmt.Errorf("start %s: fork into control group %s: %w", e.Argv[0], e.Group.Name(), err)
	}
	if errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.ENOMEM) {
		return fmt.Errorf("start %s: fork: %w", e.Argv[0], err)
	}
	return fmt.Errorf("%w %s: %w", ErrExec, e.Argv[0], err)
}
