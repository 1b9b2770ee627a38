package sandbox

import (
	"context"
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// Namespace makes the mount namespace of a profile for a process that runs already and
// enters it by Join. It lives as long as a process is in it, or the file is open. A
// profile of the host's root has none, and the file is nil.
//
// Mounts whose targets are keys of open show the directories that are open there, as whoever
// opened them could find them, and not what their sources name.
func Namespace(ctx context.Context, p Profile, open map[string]*os.File) (*os.File, error) {
	if err := errors.Join(context.Cause(ctx), p.Check()); err != nil {
		return nil, err
	}
	if p.Root == RootHost || p.Root == "" {
		return nil, nil //nolint:nilnil // There is none, and that is no error.
	}
	type made struct {
		file *os.File
		err  error
	}
	// It has room, so that the thread ends also when nobody waits any more; the file
	// is then closed with what nobody refers to.
	done := make(chan made, 1)
	onSacrificedThread(func() {
		file, err := makeNamespace(p, open)
		done <- made{file, err}
	})
	select {
	case m := <-done:
		return m.file, m.err
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

func makeNamespace(p Profile, open map[string]*os.File) (*os.File, error) {
	// A copy can only be made in the namespace that it was opened in.
	taken := make(map[string]int, len(open))
	for target, dir := range open {
		tree, err := unix.OpenTree(int(dir.Fd()), "", unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_EMPTY_PATH)
		if err != nil {
			return nil, fmt.Errorf("take %s: %w", dir.Name(), err)
		}
		defer unix.Close(tree) //nolint:errcheck // It is mounted, or not needed.
		taken[target] = tree
	}
	// Afterwards there may be no /proc, or none of the host's.
	self, err := unix.Open("/proc/thread-self", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open /proc/thread-self: %w", err)
	}
	defer unix.Close(self) //nolint:errcheck // Only looked at.
	if err := build(p, taken); err != nil {
		return nil, err
	}
	fd, err := unix.Openat(self, "ns/mnt", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open the mount namespace: %w", err)
	}
	return os.NewFile(uintptr(fd), "mount namespace"), nil //nolint:gosec // An open descriptor.
}

// Join makes the calling process the program, in a namespace that was made for it (nil:
// where it is), with its own session, terminal, descriptors, umask and control group, and
// as its own real user, whatever rights it was given to come here. Of the profile only what
// the program may do counts. Where its working directory does not exist for the
// program, or its user may not go there, it is "/".
//
// It only returns with an error, and the process is then good for nothing but to say so.
func Join(namespace *os.File, p Profile, e Exec) error {
	if err := e.check(); err != nil {
		return err
	}
	if len(e.Files) > 0 || e.Group != nil || e.Umask != 0 || e.Dir != "" {
		return fmt.Errorf("start %s: %w: files, group, umask and directory are the caller's own", e.Argv[0], ErrProfile)
	}
	here := workingDir()
	return become(
		e,
		raiseRights,
		func() error { return join(namespace) },
		func() error { return p.dropRights(unix.CAP_SETUID, unix.CAP_SETGID) },
		p.becomeUser,
		func() error {
			// As the user, who may have come from where the user could not go.
			if namespace != nil {
				_ = unix.Chdir(here)
			}
			return nil
		},
	)
}

// raiseRights makes what the calling thread is permitted effective: a program with
// capabilities begins with none in effect.
func raiseRights() error {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var own [2]unix.CapUserData
	if err := unix.Capget(&header, &own[0]); err != nil {
		return fmt.Errorf("read capabilities: %w", err)
	}
	for i := range own {
		own[i].Effective, own[i].Inheritable = own[i].Permitted, 0
	}
	if err := unix.Capset(&header, &own[0]); err != nil {
		return fmt.Errorf("set capabilities: %w", err)
	}
	return nil
}

// join moves the calling thread alone into a mount namespace, whose root is its
// directory then.
func join(namespace *os.File) error {
	if namespace == nil {
		return nil
	}
	if err := unix.Unshare(unix.CLONE_FS); err != nil {
		return fmt.Errorf("unshare: %w", err)
	}
	if err := unix.Setns(int(namespace.Fd()), unix.CLONE_NEWNS); err != nil {
		return fmt.Errorf("enter the mount namespace: %w", err)
	}
	return nil
}
