package mount

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

// The kinds of errors about mounts.
var (
	// ErrBusy means that processes still use a mount; UsersOf tells which.
	ErrBusy = errors.New("mount is in use")
	// ErrOccupied means that something else is mounted where a revision should
	// be.
	ErrOccupied = errors.New("something else is mounted there")
)

// Mount mounts the snap file at dir, which is made if it is missing: read-only,
// without set-uid and devices, through a loop device of its own that vanishes
// with the mount. If the same file is mounted there already nothing is done.
func Mount(ctx context.Context, file, dir string) (Info, error) {
	info, err := mount(ctx, file, dir)
	if err != nil {
		return Info{}, fmt.Errorf("mount %s at %s: %w", file, dir, err)
	}
	return info, nil
}

func mount(ctx context.Context, file, dir string) (Info, error) {
	if info, done, err := alreadyMounted(file, dir); err != nil || done {
		return info, err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return Info{}, err
	}
	f, err := os.Open(file)
	if err != nil {
		return Info{}, err
	}
	defer f.Close() //nolint:errcheck // Only read; the device has its own reference.
	loop, err := attach(ctx, f)
	if err != nil {
		return Info{}, err
	}
	err = unix.Mount(loop.Name(), dir, "squashfs", unix.MS_RDONLY|unix.MS_NOSUID|unix.MS_NODEV, "")
	// The mount holds the device from here on; without one it is freed.
	_ = loop.Close()
	if err != nil {
		return Info{}, fmt.Errorf("as squashfs through %s: %w", loop.Name(), err)
	}
	info, ok, err := Mounted(dir)
	if err == nil && !ok {
		err = errors.New("it vanished at once")
	}
	return info, err
}

// alreadyMounted tells whether dir shows the file.
func alreadyMounted(file, dir string) (Info, bool, error) {
	info, ok, err := Mounted(dir)
	if err != nil || !ok {
		return Info{}, false, err
	}
	want, err := inodeOf(file)
	if err != nil {
		return Info{}, false, err
	}
	got, ok, err := backing(info.Dev)
	if err != nil {
		return Info{}, false, err
	}
	if !ok || got != want || info.Type != "squashfs" {
		return Info{}, false, fmt.Errorf("%w: %s from %s", ErrOccupied, info.Type, info.Source)
	}
	return info, true, nil
}

// Unmount takes away all that is mounted at dir, here and wherever it has
// propagated to. It is no error if nothing is. It never detaches what is in
// use: then it fails with ErrBusy and the topmost mount is as it was.
func Unmount(ctx context.Context, dir string) error {
	wait := time.Millisecond
	for {
		if err := ctx.Err(); err != nil {
			return fmt.Errorf("unmount %s: %w", dir, err)
		}
		err := unix.Unmount(dir, unix.UMOUNT_NOFOLLOW)
		switch {
		case err == nil:
			continue
		case errors.Is(err, unix.EINVAL), errors.Is(err, fs.ErrNotExist):
			return stillMounted(dir, err)
		case errors.Is(err, unix.EBUSY) && wait < glance:
			pause(ctx, wait)
			wait *= 2
		case errors.Is(err, unix.EBUSY):
			return fmt.Errorf("unmount %s: %w", dir, ErrBusy)
		default:
			return fmt.Errorf("unmount %s: %w", dir, err)
		}
	}
}

// glance is longer than a mount is in use by somebody who only looks: who reads the links
// of /proc/PID, or makes a namespace of mounts and drops what is not its own. Nothing
// tells when they have looked.
const glance = 100 * time.Millisecond

func pause(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}

// stillMounted tells a mount that cannot be unmounted from none.
func stillMounted(dir string, cause error) error {
	_, ok, err := Mounted(dir)
	if err != nil {
		return fmt.Errorf("unmount %s: %w", dir, err)
	}
	if ok {
		return fmt.Errorf("unmount %s: %w", dir, cause)
	}
	return nil
}

// Share makes dir a mount of itself from which mounts propagate to every copy
// that is made of it later, but not to where dir itself lies. It is no error if
// it is one already.
func Share(dir string) error {
	info, ok, err := Mounted(dir)
	switch {
	case err != nil:
	case ok && info.Shared:
		return nil
	case !ok:
		err = unix.Mount(dir, dir, "", unix.MS_BIND, "")
	}
	// The copy is a peer of what it is a copy of, until it is made private:
	// without that, every mount in it would appear twice.
	for _, how := range []uintptr{unix.MS_PRIVATE, unix.MS_SHARED} {
		if err == nil {
			err = unix.Mount("", dir, "", how, "")
		}
	}
	if err != nil {
		return fmt.Errorf("share %s: %w", dir, err)
	}
	return nil
}

// DetachTree takes all mounts at and below dir out of the tree, also those that are
// in use: who has something of them open keeps it until he closes it. It is for
// directories that are to be deleted, and never for revisions.
func DetachTree(ctx context.Context, dir string) error {
	mounts, err := Below(dir)
	if err != nil {
		return fmt.Errorf("detach all below %s: %w", dir, err)
	}
	for _, m := range slices.Backward(mounts) {
		if err := ctx.Err(); err != nil {
			return fmt.Errorf("detach all below %s: %w", dir, err)
		}
		failure := unix.Unmount(m.Dir, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
		if failure != nil && !errors.Is(failure, unix.EINVAL) && !errors.Is(failure, fs.ErrNotExist) {
			err = errors.Join(err, fmt.Errorf("detach %s: %w", m.Dir, failure))
		}
	}
	return err
}

// UnmountTree unmounts all that is mounted at and below dir, the last first. It
// goes on after an error, so that what can go goes.
func UnmountTree(ctx context.Context, dir string) error {
	mounts, err := Below(dir)
	if err != nil {
		return fmt.Errorf("unmount all below %s: %w", dir, err)
	}
	for _, m := range slices.Backward(mounts) {
		err = errors.Join(err, Unmount(ctx, m.Dir))
	}
	return err
}
