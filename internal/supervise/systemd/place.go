package systemd

import (
	"errors"
	"fmt"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// placeSocket links the socket file at which systemd listens to where it is declared. Whoever may write there may
// have put a symbolic link in the way, which is not followed; what is there is replaced at once.
func placeSocket(from, to string) (err error) {
	source, target, err := bothDirs(filepath.Dir(from), filepath.Dir(to))
	if err != nil {
		return fmt.Errorf("link %s: %w", to, err)
	}
	defer func() { err = errors.Join(err, unix.Close(source), unix.Close(target)) }()
	name := filepath.Base(to)
	temp := "." + filepath.Base(from)
	if err := errors.Join(unlink(target, temp), unix.Linkat(source, filepath.Base(from), target, temp, 0)); err != nil {
		return fmt.Errorf("link %s: %w", to, err)
	}
	// Where it is the same file already, nothing is renamed.
	if err := errors.Join(unix.Renameat(target, temp, target, name), unlink(target, temp)); err != nil {
		return fmt.Errorf("link %s: %w", to, err)
	}
	return nil
}

// canPlace reports whether a socket file in one directory can be linked in another one.
func canPlace(from, to string) error {
	source, target, err := bothDirs(from, to)
	if err != nil {
		return err
	}
	return errors.Join(unix.Close(source), unix.Close(target))
}

// bothDirs opens two directories between which files can be linked. The kernel links within one mount, and a
// snap's common data is a mount of its own, of itself: so both are looked up in a mount of the directory that both are in, without
// what is mounted below. They are to be what everybody else sees there.
func bothDirs(from, to string) (source, target int, err error) {
	above := commonDir(from, to)
	tree, err := unix.OpenTree(unix.AT_FDCWD, above, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
	if err != nil {
		return -1, -1, fmt.Errorf("open %s: %w", above, err)
	}
	defer unix.Close(tree) //nolint:errcheck // Only looked at.
	if source, err = openAsSeen(tree, above, from); err != nil {
		return -1, -1, err
	}
	if target, err = openAsSeen(tree, above, to); err != nil {
		return -1, -1, errors.Join(err, unix.Close(source))
	}
	if err := sameDevice(source, target); err != nil {
		return -1, -1, errors.Join(fmt.Errorf("%s and %s: %w", from, to, err), unix.Close(source), unix.Close(target))
	}
	return source, target, nil
}

// sameDevice reports, by an error of kind EXDEV, that directories of one mount are of two file systems all the
// same, as subvolumes of Btrfs are.
func sameDevice(a, b int) error {
	var one, other unix.Stat_t
	if err := errors.Join(unix.Fstat(a, &one), unix.Fstat(b, &other)); err != nil {
		return err
	}
	if one.Dev != other.Dev {
		return unix.EXDEV
	}
	return nil
}

func commonDir(a, b string) string {
	for !strings.HasPrefix(b+"/", strings.TrimSuffix(a, "/")+"/") {
		a = filepath.Dir(a)
	}
	return a
}

// openAsSeen opens a directory by a copy of one that it is below, if it is the same as by its path.
func openAsSeen(tree int, above, dir string) (fd int, err error) {
	rel, err := filepath.Rel(above, dir)
	if err != nil {
		return -1, err
	}
	how := &unix.OpenHow{
		Flags:   unix.O_PATH | unix.O_DIRECTORY | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_MAGICLINKS,
	}
	seen, err := unix.Openat2(unix.AT_FDCWD, dir, how)
	if err != nil {
		return -1, fmt.Errorf("open %s: %w", dir, err)
	}
	defer unix.Close(seen) //nolint:errcheck // Only looked at.
	if fd, err = unix.Openat2(tree, rel, how); err != nil {
		return -1, fmt.Errorf("open %s: %w", dir, err)
	}
	var own, everybodys unix.Stat_t
	if err := errors.Join(unix.Fstat(fd, &own), unix.Fstat(seen, &everybodys)); err != nil {
		return -1, errors.Join(fmt.Errorf("open %s: %w", dir, err), unix.Close(fd))
	}
	if own.Dev != everybodys.Dev || own.Ino != everybodys.Ino {
		return -1, errors.Join(fmt.Errorf("%s is mounted from elsewhere: %w", dir, unix.EXDEV), unix.Close(fd))
	}
	return fd, nil
}

func unlink(dir int, name string) error {
	if err := unix.Unlinkat(dir, name, 0); err != nil && !errors.Is(err, unix.ENOENT) {
		return err
	}
	return nil
}
