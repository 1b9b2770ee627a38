package mount_test

import (
	"os"
	"testing"

	"tenure"
	"tenure/internal/mount"
	"tenure/internal/mount/mounttest"
	"tenure/internal/proc"
)

// The table of the kernel keeps the law.
func TestKernel(t *testing.T) {
	t.Parallel()
	needRoot(t)
	mounttest.Run(t, func(*testing.T) mounttest.Bench {
		return mounttest.Bench{Table: mount.Kernel{}, File: image, Use: standIn}
	})
}

// standIn opens a directory.
func standIn(t *testing.T, dir string) (user tenure.Process, end func()) {
	t.Helper()
	f, err := os.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	me, err := proc.Read(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	return me.Process, func() { _ = f.Close() } // Opened for reading.
}
