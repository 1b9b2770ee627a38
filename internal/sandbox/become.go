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
// session, terminal, descriptors and control group. Where its working directory
// does not exist in the unit's root it is "/". It only returns with an error,
// and the process is then good for nothing but to say so.
func Enter(p Profile, e Exec) error {
	if err := errors.Join(p.Check(), e.check()); err != nil {
		return err
	}
	runtime.LockOSThread()
	here, err := os.Getwd()
	if err != nil {
		here = "/"
	}
	if err := enter(p, ""); err != nil {
		return fmt.Errorf("start %s: %w", e.Argv[0], err)
	}
	for _, dir := range []string{e.Dir, here, "/"} {
		if dir != "" && unix.Chdir(dir) == nil {
			break
		}
	}
	if err := p.dropRights(); err != nil {
		return fmt.Errorf("start %s: %w", e.Argv[0], err)
	}
	if err := syscall.Exec(e.Argv[0], e.Argv, e.Env); err != nil {
		return execError(e, err)
	}
	return nil
}
