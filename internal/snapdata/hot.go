package snapdata

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// findHot returns the regular files on a device that some process has open for
// writing or mapped shared. A page that is written and mapped already takes
// further stores without the kernel hearing of them, so the times of such a file
// say nothing until it is written back.
func findHot(ctx context.Context, dev uint64) ([]Inode, error) {
	procs, err := os.ReadDir("/proc")
	if err != nil {
		return nil, fmt.Errorf("find open files: %w", err)
	}
	hot := map[Inode]bool{}
	for _, p := range procs {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		if _, err := strconv.Atoi(p.Name()); err != nil {
			continue
		}
		dir := filepath.Join("/proc", p.Name())
		for _, find := range []func(string, uint64, map[Inode]bool) error{hotDescriptors, hotMaps} {
			if err := find(dir, dev, hot); err != nil && !ended(err) {
				return nil, fmt.Errorf("find open files: %w", err)
			}
		}
	}
	return slices.SortedFunc(maps.Keys(hot), Inode.compare), nil
}

// ended tells whether a process has ended, or is hidden from us by the kernel, as
// what runs the container that we are in is. No process of a snap is.
func ended(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ESRCH) || errors.Is(err, fs.ErrPermission)
}

func hotDescriptors(dir string, dev uint64, hot map[Inode]bool) error {
	fds, err := os.ReadDir(filepath.Join(dir, "fd"))
	if err != nil {
		return err
	}
	for _, fd := range fds {
		file, ok := regularOn(filepath.Join(dir, "fd", fd.Name()), dev)
		if ok && !readOnly(filepath.Join(dir, "fdinfo", fd.Name())) {
			hot[file] = true
		}
	}
	return nil
}

// regularOn is the regular file behind a link of /proc, if it is on dev.
func regularOn(path string, dev uint64) (Inode, bool) {
	var st unix.Statx_t
	err := unix.Statx(unix.AT_FDCWD, path, unix.AT_STATX_DONT_SYNC|unix.AT_NO_AUTOMOUNT, unix.STATX_TYPE|unix.STATX_INO, &st)
	if err != nil || st.Mode&unix.S_IFMT != unix.S_IFREG {
		return Inode{}, false
	}
	file := Inode{unix.Mkdev(st.Dev_major, st.Dev_minor), st.Ino}
	return file, file.Dev == dev
}

// readOnly tells whether a descriptor is known to be for reading alone, by the
// octal flags in its fdinfo.
func readOnly(fdinfo string) bool {
	b, err := os.ReadFile(fdinfo)
	if err != nil {
		return false
	}
	for line := range strings.Lines(string(b)) {
		if value, ok := strings.CutPrefix(line, "flags:"); ok {
			flags, err := strconv.ParseUint(strings.TrimSpace(value), 8, 64)
			return err == nil && flags&unix.O_ACCMODE == unix.O_RDONLY
		}
	}
	return false
}

// hotMaps looks at shared mappings. The inode comes from map_files, since the
// device in maps is not that of stat on every file system.
func hotMaps(dir string, dev uint64, hot map[Inode]bool) error {
	f, err := os.Open(filepath.Join(dir, "maps"))
	if err != nil {
		return err
	}
	defer f.Close() //nolint:errcheck // Only read.
	lines := bufio.NewScanner(f)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		fields := bytes.Fields(lines.Bytes())
		if len(fields) < 6 || len(fields[1]) != 4 || fields[1][3] != 's' {
			continue
		}
		if file, ok := regularOn(mapFile(dir, string(fields[0])), dev); ok {
			hot[file] = true
		}
	}
	return lines.Err()
}

// mapFile is the name in map_files of the range in maps, which has leading
// zeros.
func mapFile(dir, span string) string {
	from, to, _ := strings.Cut(span, "-")
	trim := func(s string) string {
		if s = strings.TrimLeft(s, "0"); s == "" {
			return "0"
		}
		return s
	}
	return filepath.Join(dir, "map_files", trim(from)+"-"+trim(to))
}
