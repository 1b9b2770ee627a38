package snapdata

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// InodeOf is the directory at a path, which is no link; zero if there is nothing.
func InodeOf(dir string) (Inode, error) {
	var st unix.Stat_t
	err := unix.Lstat(dir, &st)
	if errors.Is(err, unix.ENOENT) {
		return Inode{}, nil
	}
	if err != nil {
		return Inode{}, &os.PathError{Op: "lstat", Path: dir, Err: err}
	}
	return inodeOf(&st), nil
}

// Exchange puts the directory fresh at dir, durably and in one instant, and what was at dir in the
// place of fresh. One of the two may not be there. It does nothing if what is at dir is wanted
// already, or if nothing is and nothing is wanted, so that it can be done again.
func Exchange(fresh, dir string, wanted Inode) error {
	at, err := InodeOf(dir)
	if err != nil || at == wanted {
		return err
	}
	from, to, flags := fresh, dir, uint(unix.RENAME_EXCHANGE)
	switch (Inode{}) {
	case at:
		flags = unix.RENAME_NOREPLACE
	case wanted:
		from, to, flags = dir, fresh, unix.RENAME_NOREPLACE
	}
	if err := unix.Renameat2(unix.AT_FDCWD, from, unix.AT_FDCWD, to, flags); err != nil {
		return &os.LinkError{Op: "exchange", Old: from, New: to, Err: err}
	}
	if err := syncDir(filepath.Dir(dir)); err != nil {
		return fmt.Errorf("exchange %s and %s: %w", fresh, dir, err)
	}
	return nil
}
