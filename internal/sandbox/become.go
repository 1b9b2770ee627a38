package sandbox

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"syscall"

	"golang.org/x/sys/unix"
)

// Enter makes the calling process the program: in the profile, with its own
// session, terminal, descriptors, umask and control group, and as its own real user;
// only for root does the profile's user count. Where its working directory
// does not exist in the unit's root it is "/". It only returns with an error,
// and the process is then good for nothing but to say so.
func Enter(p Profile, e Exec) error {
	if err := errors.Join(p.Check(), e.check()); err != nil {
		return err
	}
	in, err := EnterAhead(p)
	if err != nil {
		return fmt.Errorf("start %s: %w", e.Argv[0], err)
	}
	return in.Become(e)
}

// Entered is the calling goroutine in a profile, with all the rights that it came with.
type Entered struct {
	profile Profile
	// here is the working directory that it came from.
	here string
}

// EnterAhead enters a profile before it is known what the calling process is to become
// there, and reads programs as Prepare does. The calling goroutine is in it, and cannot leave; other
// threads are not. When it fails the process is good for nothing but to say so.
func EnterAhead(p Profile, programs ...string) (Entered, error) {
	if err := p.Check(); err != nil {
		return Entered{}, err
	}
	here := workingDir()
	runtime.LockOSThread()
	if err := enter(p); err != nil {
		return Entered{}, err
	}
	for _, program := range programs {
		readAhead(program)
	}
	return Entered{p, here}, nil
}

// Become is Enter where the profile has been entered.
func (in Entered) Become(e Exec) error {
	if err := e.check(); err != nil {
		return err
	}
	if len(e.Files) > 0 || e.Group != nil || e.Umask != 0 {
		return fmt.Errorf("start %s: %w: files, group and umask are the caller's own", e.Argv[0], ErrProfile)
	}
	return become(
		e,
		func() error { return changeDir(e.Dir, in.here) },
		func() error { return in.profile.dropRights(unix.CAP_SETUID, unix.CAP_SETGID) },
		in.profile.becomeUser,
	)
}

// become takes the steps on one thread, and makes the calling process the program.
func become(e Exec, steps ...func() error) error {
	runtime.LockOSThread()
	for _, step := range steps {
		if err := step(); err != nil {
			return fmt.Errorf("start %s: %w", e.Argv[0], err)
		}
	}
	return execError(e, syscall.Exec(e.Argv[0], e.Argv, e.Env))
}

// workingDir is that of the calling process, or "/" where it is not known.
func workingDir() string {
	here, err := os.Getwd()
	if err != nil {
		return "/"
	}
	return here
}

// changeDir changes to dir, or, when none is asked for, to here if there is
// such a directory in the new root.
func changeDir(dir, here string) error {
	if dir == "" {
		_ = unix.Chdir(here)
		return nil
	}
	if err := unix.Chdir(dir); err != nil {
		return fmt.Errorf("change to directory %s: %w", dir, err)
	}
	return nil
}
