package entry

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// Install puts the helper of this version into the root, and what shells read beside it. The
// helper has the rights that it needs: as capabilities of the file, and as a set-uid bit where the file system has none
// (docs/adr/0015-apps.md): who calls must know that program is one that nobody could change who may not have them. The warning
// says what it cannot do there.
func Install(program io.Reader, helper string) (warning string, err error) {
	text, err := io.ReadAll(program)
	if err != nil {
		return "", fmt.Errorf("install the helper: %w", err)
	}
	if !installed(text, helper) {
		if err := install(text, helper); err != nil {
			return "", fmt.Errorf("install the helper: %w", err)
		}
	}
	if err := installLoader(filepath.Join(filepath.Dir(helper), filepath.Base(LoaderPath))); err != nil {
		return "", fmt.Errorf("install what completes: %w", err)
	}
	var stat unix.Statfs_t
	if err := unix.Statfs(helper, &stat); err == nil && stat.Flags&unix.ST_NOSUID != 0 {
		return "the file system of the helper is mounted nosuid", nil
	}
	return "", nil
}

// install replaces the helper.
func install(text []byte, helper string) error {
	dir := filepath.Dir(helper)
	err := errors.Join(os.MkdirAll(dir, 0o755), os.Chmod(dir, 0o755)) //nolint:gosec // Everybody runs what is in it.
	if err != nil {
		return err
	}
	return replace(helper, text, 0o755, func(next string) error { return errors.Join(os.Chown(next, 0, 0), empower(next)) })
}

// installLoader replaces what shells read.
func installLoader(path string) error {
	return replace(path, loader, 0o644, func(string) error { return nil })
}

// replace replaces a file, in one instant, by one that finish has been called with.
func replace(path string, text []byte, mode os.FileMode, finish func(next string) error) error {
	next := path + ".next"
	err := removeIfThere(next)
	if err == nil {
		err = os.WriteFile(next, text, mode)
	}
	if err == nil {
		err = finish(next)
	}
	if err == nil {
		err = os.Rename(next, path)
	}
	return err
}

// installed reports whether the helper is there with its rights.
func installed(text []byte, helper string) bool {
	there, err := os.ReadFile(helper)
	if err != nil || !bytes.Equal(there, text) {
		return false
	}
	info, err := os.Lstat(helper)
	if err == nil && info.Mode()&fs.ModeSetuid != 0 {
		return true
	}
	var has [64]byte
	n, err := unix.Lgetxattr(helper, capabilityXattr, has[:])
	return err == nil && bytes.Equal(has[:n], helperRights())
}

func removeIfThere(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

const capabilityXattr = "security.capability"

// helperRights is what the helper is permitted, and what is not in effect when it
// begins, as the kernel keeps it with a file (struct vfs_cap_data of
// linux/capability.h, revision 2): to enter a mount namespace (setns(2)), and to give up
// capabilities for good.
func helperRights() []byte {
	const revision2 = 0x02000000
	permitted := uint32(1<<unix.CAP_SYS_ADMIN | 1<<unix.CAP_SYS_CHROOT | 1<<unix.CAP_SETPCAP)
	var data []byte
	for _, word := range []uint32{revision2, permitted, 0, 0, 0} {
		data = binary.LittleEndian.AppendUint32(data, word)
	}
	return data
}

// empower gives a file the rights of the helper.
func empower(file string) error {
	err := unix.Lsetxattr(file, capabilityXattr, helperRights(), 0)
	if errors.Is(err, unix.ENOTSUP) || errors.Is(err, unix.EPERM) {
		return os.Chmod(file, 0o755|fs.ModeSetuid) //nolint:gosec // It gives up what it does not need at once.
	}
	return err
}
