package mount

import (
	"os"

	"golang.org/x/sys/unix"
)

// Room is what there is of a file system, in bytes.
type Room struct {
	// Free is what may still be written, Used what is taken.
	Free, Used int64
	// Shares is that copies can be made by sharing what is there: nobody knows beforehand what they take.
	Shares bool
}

// RoomAt is that of the file system that a file or directory is on.
func RoomAt(path string) (Room, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(path, &st); err != nil {
		return Room{}, &os.PathError{Op: "statfs", Path: path, Err: err}
	}
	return Room{
		Free:   int64(st.Bavail) * st.Bsize,          //nolint:gosec // Of a real disk.
		Used:   int64(st.Blocks-st.Bfree) * st.Bsize, //nolint:gosec // Of a real disk.
		Shares: st.Type == unix.BTRFS_SUPER_MAGIC || st.Type == unix.XFS_SUPER_MAGIC,
	}, nil
}
