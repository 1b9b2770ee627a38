package snapdata

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// Descend opens the directory that is some names below top, none of them through a link. With missing, what
// is not there is made, for its owner alone, who is that of top. The name of what it gives is its path.
func Descend(top string, missing bool, names ...string) (*os.File, error) {
	dir, err := os.OpenFile(top, os.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return nil, err
	}
	var owner unix.Stat_t
	if err := unix.Fstat(int(dir.Fd()), &owner); err != nil {
		return nil, errors.Join(&os.PathError{Op: "stat", Path: top, Err: err}, dir.Close())
	}
	for _, name := range names {
		next, err := openBelow(dir, name)
		if missing && errors.Is(err, fs.ErrNotExist) {
			next, err = makeBelow(dir, name, &owner)
		}
		_ = dir.Close() // Opened for reading.
		if err != nil {
			return nil, err
		}
		dir = next
	}
	return dir, nil
}

func openBelow(dir *os.File, name string) (*os.File, error) {
	path := filepath.Join(dir.Name(), name)
	fd, err := unix.Openat(int(dir.Fd()), name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: path, Err: err}
	}
	return os.NewFile(uintptr(fd), path), nil
}

// makeBelow makes a directory and gives it to its owner, by its descriptor: what has been put in its place, with
// something in it, is not given.
func makeBelow(dir *os.File, name string, owner *unix.Stat_t) (*os.File, error) {
	if err := unix.Mkdirat(int(dir.Fd()), name, 0o700); err != nil {
		return nil, &os.PathError{Op: "mkdir", Path: filepath.Join(dir.Name(), name), Err: err}
	}
	made, err := openBelow(dir, name)
	if err != nil {
		return nil, err
	}
	if names, readErr := made.Readdirnames(1); len(names) > 0 {
		err = fmt.Errorf("%s is not new: %w", made.Name(), errors.Join(readErr, fs.ErrExist))
	} else {
		err = made.Chown(int(owner.Uid), int(owner.Gid))
	}
	if err != nil {
		return nil, errors.Join(err, made.Close())
	}
	return made, nil
}
