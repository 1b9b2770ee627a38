package bench

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"tenure/internal/snapdata"
)

// The data of benchCopy: directories of filesPerDir files. Of a refresh in which 1 % of it changes the gap
// may take secondPart of a full copy.
const (
	block       = 4 * kib
	sizeOfData  = 100 * kib
	filesPerDir = 100
	changedPart = 100
	secondPart  = 10
	// moreBytes is how many times larger files are where blocks are shared, mostShared how many of them there is
	// room for, and sharedFactor what the second pass may take for them then.
	moreBytes    = 16
	mostShared   = 1000
	sharedFactor = 1.5
)

// benchCopy is the copy of the data of a snap: what of it lies in the gap, after 1 % of them have changed, against
// a full copy, and where blocks are shared against files that are smaller.
func benchCopy(b *testing.B, t *table, files int) {
	const size = sizeOfData
	fewer := min(max(changedPart, files/10), mostShared)
	plain := copyTwice(b, b.TempDir(), files, size)
	t.row(fmt.Sprintf("data, %d files of %d KiB: cp -a and sync", files, size/kib), plain.peer)
	t.row("data: first pass and sync", plain.first)
	t.row("data: second pass, 1 % changed", plain.second)
	t.holdTime("data in the gap, against 10 % of a full copy", plain.second.median(), plain.first.median()/secondPart)

	large := copyTwice(b, sharing(b), fewer, moreBytes*size)
	small := copyTwice(b, sharing(b), fewer, size)
	t.row(fmt.Sprintf("data on XFS, %d files of %d KiB: second pass", fewer, size/kib), small.second)
	t.row(fmt.Sprintf("data on XFS, %d files of %d KiB: second pass", fewer, moreBytes*size/kib), large.second)
	t.holdTime(fmt.Sprintf("data in the gap where blocks are shared, %d times the bytes, against 1.5 x + 2 ms", moreBytes),
		large.second.median(), time.Duration(sharedFactor*float64(small.second.median()))+2*time.Millisecond)
}

// copied are the times of copies of one tree.
type copied struct{ peer, first, second series }

// copyTwice copies a tree in dir of so many files, of size bytes each, by hand and in two passes, three times.
func copyTwice(b *testing.B, dir string, files, size int) (c copied) {
	b.Helper()
	src, dst := filepath.Join(dir, "1"), filepath.Join(dir, "2")
	content := bytes.Repeat([]byte("0123456789abcde\n"), size/16)
	if err := fill(src, files, content); err != nil {
		b.Fatal(err)
	}
	for turn := range 3 {
		c.peer.add(taken(b, func() error {
			return errors.Join(exec.CommandContext(b.Context(), "cp", "-a", src, dst).Run(), syncDir(dst))
		}))
		if err := os.RemoveAll(dst); err != nil {
			b.Fatal(err)
		}
		var pass *snapdata.Pass
		c.first.add(taken(b, func() (err error) {
			pass, err = snapdata.First(b.Context(), src, dst, snapdata.Options{})
			return errors.Join(err, snapdata.Sync(b.Context(), pass))
		}))
		if err := change(src, files, turn, content); err != nil {
			b.Fatal(err)
		}
		var stats snapdata.Stats
		c.second.add(taken(b, func() (err error) {
			stats, err = pass.Second(b.Context(), snapdata.Options{})
			return err
		}))
		// What changed just before the first pass is copied again, too.
		if want := files / changedPart; stats.Copied < want {
			b.Fatalf("the second pass has copied %d files, want at least %d", stats.Copied, want)
		}
		if err := os.RemoveAll(dst); err != nil {
			b.Fatal(err)
		}
	}
	return c
}

// sharing is a directory on a file system whose files can share blocks.
func sharing(b *testing.B) string {
	b.Helper()
	image, dir := filepath.Join(b.TempDir(), "image"), b.TempDir()
	err := errors.Join(os.WriteFile(image, nil, 0o600), os.Truncate(image, 8<<30))
	for _, command := range [][]string{{"mkfs.xfs", "-q", "-m", "reflink=1", image}, {"mount", "-o", "loop", image, dir}} {
		if err == nil {
			err = exec.CommandContext(b.Context(), command[0], command[1:]...).Run() //nolint:gosec // The two above.
		}
	}
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		if err := unix.Unmount(dir, 0); err != nil {
			b.Error(err)
		}
	})
	return dir
}

func taken(b *testing.B, do func() error) time.Duration {
	b.Helper()
	start := time.Now()
	if err := do(); err != nil {
		b.Fatal(err)
	}
	return time.Since(start)
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()                 //nolint:errcheck // Only read.
	return unix.Syncfs(int(d.Fd())) //nolint:gosec // A descriptor fits.
}

func fileAt(dir string, k int) string {
	return filepath.Join(dir, fmt.Sprint(k/filesPerDir), fmt.Sprint(k%filesPerDir))
}

func fill(dir string, files int, content []byte) error {
	for k := range files {
		path := fileAt(dir, k)
		err := os.MkdirAll(filepath.Dir(path), 0o755)
		if err == nil {
			err = os.WriteFile(path, content, 0o600)
		}
		if err != nil {
			return fmt.Errorf("make data: %w", err)
		}
	}
	return syncDir(dir)
}

// change writes a block of 1 % of the files, each turn of others.
func change(dir string, files, turn int, content []byte) error {
	for k := turn; k < files; k += changedPart {
		file, err := os.OpenFile(fileAt(dir, k), os.O_WRONLY, 0)
		if err == nil {
			_, err = file.WriteAt(content[:block], 0)
			err = errors.Join(err, file.Close())
		}
		if err != nil {
			return fmt.Errorf("change data: %w", err)
		}
	}
	return nil
}
