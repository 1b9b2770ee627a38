package entry

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// answerHome makes the directories of the user that the daemon asks for. It is done with
// the rights of the user: a link of the user's leads nowhere where the user may not go.
func answerHome(daemon Channel, m Message) error {
	if len(m.Words) != 3 {
		return fmt.Errorf("%w: %q", ErrProtocol, m.Kind)
	}
	dir, err := makeUserDirs(m.Words[0], m.Words[1], m.Words[2])
	if err != nil {
		return Send(daemon, Message{Kind: Made, Words: []string{err.Error()}})
	}
	defer dir.Close() //nolint:errcheck // The daemon has it.
	return Send(daemon, Message{Kind: Made, Words: []string{""}, File: dir})
}

const mode = 0o700

// makeUserDirs makes snap/NAME in a home directory, with the user's data of a revision
// and of all in it, points current to the revision, and returns the directory.
func makeUserDirs(home, snap, revision string) (*os.File, error) {
	at, err := unix.Open(home, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", home, err)
	}
	for _, name := range []string{"snap", snap} {
		below, err := makeDir(at, name)
		if err = errors.Join(err, unix.Close(at)); err != nil {
			return nil, fmt.Errorf("make %s/snap/%s: %w", home, snap, err)
		}
		at = below
	}
	dir := os.NewFile(uintptr(at), home+"/snap/"+snap) //nolint:gosec // An open descriptor.
	for _, name := range []string{revision, "common"} {
		if err := unix.Mkdirat(at, name, mode); err != nil && !errors.Is(err, unix.EEXIST) {
			_ = dir.Close()
			return nil, fmt.Errorf("make %s/%s: %w", dir.Name(), name, err)
		}
	}
	pointCurrent(at, revision)
	return dir, nil
}

func makeDir(parent int, name string) (int, error) {
	if err := unix.Mkdirat(parent, name, mode); err != nil && !errors.Is(err, unix.EEXIST) {
		return -1, err
	}
	return unix.Openat(parent, name, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
}

// pointCurrent points the link of a person's data to a revision. What the person has put
// there instead is left alone.
func pointCurrent(dir int, revision string) {
	const current, next = "current", ".current.next"
	var now [64]byte
	n, err := unix.Readlinkat(dir, current, now[:])
	if err == nil && string(now[:n]) == revision || err != nil && !errors.Is(err, unix.ENOENT) {
		return
	}
	_ = unix.Unlinkat(dir, next, 0)
	if unix.Symlinkat(revision, dir, next) == nil {
		_ = unix.Renameat(dir, next, dir, current)
	}
}
