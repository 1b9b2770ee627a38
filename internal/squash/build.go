package squash

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
)

// BuildOptions tell how to build a snap file. The zero value is ready for use.
type BuildOptions struct {
	// Compression is by default XZ, which every reader of snaps takes.
	Compression Compression
	// Mksquashfs is the program, by default /usr/bin/mksquashfs.
	Mksquashfs string
}

// Build makes the snap file out of the directory dir: the same names, modes
// and contents give the same bytes, whenever, wherever and by whomever it is
// built. Owners become root, times the epoch, the root directory's mode 0755;
// extended attributes are left out. A file at out is replaced in one instant,
// or not at all; if out lies in dir it is not part of the snap.
func Build(ctx context.Context, dir, out string, opts BuildOptions) error {
	args, tmp, err := buildArgs(dir, out, opts)
	if err != nil {
		return fmt.Errorf("build snap file %s: %w", out, err)
	}
	if err := build(ctx, args, tmp, out); err != nil {
		_ = os.Remove(tmp)
		return fmt.Errorf("build snap file %s: %w", out, err)
	}
	return nil
}

// buildArgs returns the command and the temporary file that it writes. The
// image is padded to 4096 bytes, as loop devices with blocks of that size need.
func buildArgs(dir, out string, opts BuildOptions) (args []string, tmp string, err error) {
	known := []Compression{"", Gzip, LZO, XZ, LZ4, Zstd}
	if !slices.Contains(known, opts.Compression) {
		return nil, "", fmt.Errorf("unknown compression %q (want gzip, lzo, xz, lz4 or zstd)", opts.Compression)
	}
	if opts.Compression == "" {
		opts.Compression = XZ
	}
	if opts.Mksquashfs == "" {
		opts.Mksquashfs = "/usr/bin/mksquashfs"
	}
	dir, err = realDir(dir)
	if err != nil {
		return nil, "", err
	}
	outDir, err := realDir(filepath.Dir(out))
	if err != nil {
		return nil, "", err
	}
	name := filepath.Base(out)
	f, err := os.CreateTemp(outDir, ".tenure-build-*")
	if err != nil {
		return nil, "", err
	}
	tmp = f.Name()
	args = []string{
		opts.Mksquashfs, dir, tmp, "-noappend", "-comp", string(opts.Compression),
		"-mkfs-time", "0", "-all-time", "0", "-all-root", "-root-mode", "0755", "-no-xattrs",
		"-no-recovery", "-no-progress", "-quiet", "-exit-on-error",
	}
	if rel, err := filepath.Rel(dir, outDir); err == nil && filepath.IsLocal(rel) {
		args = append(args, "-e", filepath.Join(rel, filepath.Base(tmp)), filepath.Join(rel, name))
	}
	return args, tmp, f.Close()
}

func realDir(dir string) (string, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return "", err
	}
	dir, err = filepath.EvalSymlinks(dir)
	if err != nil {
		return "", err
	}
	info, err := os.Stat(dir)
	if err == nil && !info.IsDir() {
		err = &os.PathError{Op: "open", Path: dir, Err: syscall.ENOTDIR}
	}
	return dir, err
}

func build(ctx context.Context, args []string, tmp, out string) error {
	cmd := exec.CommandContext(ctx, args[0], args[1:]...) //nolint:gosec // The program is that of the options.
	said := &capped{limit: 4 << 10}
	cmd.Stdout, cmd.Stderr = io.Discard, said
	cmd.Env = []string{"LC_ALL=C", "TZ=UTC", "PATH=/usr/bin:/bin"}
	if err := cmd.Run(); err != nil {
		return errors.Join(ctx.Err(), fmt.Errorf("%s: %w: %s", filepath.Base(args[0]), err, strings.TrimSpace(said.String())))
	}
	f, err := os.OpenFile(tmp, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	err = errors.Join(f.Chmod(0o644), f.Sync(), f.Close())
	if err != nil {
		return err
	}
	if err := os.Rename(tmp, out); err != nil {
		return err
	}
	d, err := os.Open(filepath.Dir(out))
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// CopyDigest copies src to dst and returns the number of bytes and their
// SHA-256 in hexadecimal.
func CopyDigest(dst io.Writer, src io.Reader) (n int64, digest string, err error) {
	h := sha256.New()
	n, err = io.Copy(io.MultiWriter(dst, h), src)
	return n, hex.EncodeToString(h.Sum(nil)), err
}
