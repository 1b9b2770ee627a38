package sandbox

import (
	"context"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"
)

// ReadAhead brings programs below a directory into memory, at most maxReadAhead of them, until ctx ends. What is no
// program is not read, and no link leads out of the directory. That something cannot be read is said by who starts it.
func ReadAhead(ctx context.Context, dir string, programs ...string) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return
	}
	defer root.Close() //nolint:errcheck // Only read.
	left := maxReadAhead
	for _, program := range programs {
		left -= readBelow(ctx, root, program, left)
	}
}

// readBelow reads at most so much of a program, and returns how much that was.
func readBelow(ctx context.Context, root *os.Root, program string, most int) (all int) {
	// Looked at before it is opened, which may set something in motion.
	if info, err := root.Stat(program); err != nil || !info.Mode().IsRegular() || info.Mode()&0o111 == 0 {
		return 0
	}
	file, err := root.OpenFile(program, os.O_RDONLY|unix.O_NONBLOCK, fs.FileMode(0))
	if err != nil {
		return 0
	}
	defer file.Close() //nolint:errcheck // Only read.
	buf := make([]byte, 128<<10)
	for all < most && ctx.Err() == nil {
		n, err := file.Read(buf)
		all += n
		if err != nil {
			break
		}
	}
	return all
}
