// Package durable makes names that survive a power failure, and finds those that one has left.
//
// A directory that MkdirAll has made is on the disk when it returns, with the way to it from
// where there was something before. What is in a file is up to who writes it; Forget is for who has failed to.
//
// Everything here may run at the same time.
package durable

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// MkdirAll makes directories, with the parents that are missing, which get the mode too. The disk is waited for
// once they are all made, for what one wait brings to the disk the next ones find there. It is waited for those
// that are there already, too: who has made them may have died before the disk had them. Where it has, that takes
// no time.
func MkdirAll(mode fs.FileMode, dirs ...string) error {
	var parents []string
	for _, dir := range dirs {
		missing, err := missing(dir)
		if err != nil {
			return fmt.Errorf("make directory %s: %w", dir, err)
		}
		parents = append(parents, filepath.Dir(dir))
		if len(missing) == 0 {
			continue
		}
		if err := os.MkdirAll(dir, mode); err != nil {
			return fmt.Errorf("make directory: %w", err)
		}
		for _, made := range missing {
			parents = append(parents, filepath.Dir(made))
		}
	}
	return Sync(parents...)
}

// missing are the directories on the way to dir that are not there, the lowest first.
func missing(dir string) ([]string, error) {
	var all []string
	for {
		_, err := os.Stat(dir)
		if err == nil || !errors.Is(err, fs.ErrNotExist) {
			return all, err
		}
		all = append(all, dir)
		dir = filepath.Dir(dir)
	}
}

// Sync waits until the names in directories are on the disk. A directory that is not there has
// none.
func Sync(dirs ...string) error {
	done := make(map[string]bool, len(dirs))
	for _, dir := range dirs {
		if done[dir] {
			continue
		}
		done[dir] = true
		if err := sync(dir); err != nil {
			return fmt.Errorf("sync directory: %w", err)
		}
	}
	return nil
}

func sync(path string) error {
	dir, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}

// Begin has what was written to a file go to the disk, and does not wait until it is there: who does, later, waits less.
func Begin(f *os.File) {
	_ = unix.SyncFileRange(int(f.Fd()), 0, 0, unix.SYNC_FILE_RANGE_WRITE) // What fails will fail again there.
}

// Left are the paths in dir whose names match a pattern of filepath.Match, as those of files have that somebody
// has died over; none if there is no dir. Whatever is in the name of dir stands for itself, unlike in filepath.Glob.
func Left(dir, pattern string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	var left []string
	for _, entry := range entries {
		matches, matchErr := filepath.Match(pattern, entry.Name())
		if matchErr != nil {
			return nil, fmt.Errorf("look for what is left: %w", matchErr)
		}
		if matches {
			left = append(left, filepath.Join(dir, entry.Name()))
		}
	}
	if err != nil {
		return left, fmt.Errorf("look for what is left: %w", err)
	}
	return left, nil
}

// Forget has the kernel forget what it has of a file in memory and the disk has, too, as far as it knows: what
// is read next comes from the disk. After a write that failed, memory may have what the disk has not.
func Forget(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close() //nolint:errcheck // Nothing was written.
	if err := unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED); err != nil {
		return fmt.Errorf("forget %s: %w", path, err)
	}
	return nil
}
