package proc

import (
	"bufio"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// ForgetProgram takes the pages of the calling process's own program out of its memory.
// Those that are needed again come back from the file, as they came at first: what only
// the start has needed, which is most of a large program, does not.
func ForgetProgram() error {
	program, err := os.Readlink("/proc/self/exe")
	if err != nil {
		return fmt.Errorf("forget the program: %w", err)
	}
	maps, err := os.Open("/proc/self/maps")
	if err != nil {
		return fmt.Errorf("forget the program: %w", err)
	}
	defer maps.Close() //nolint:errcheck // Opened for reading.
	for lines := bufio.NewScanner(maps); lines.Scan(); {
		start, end, ok := readOnlyPart(lines.Text(), program)
		if !ok {
			continue
		}
		if _, _, failed := unix.Syscall(unix.SYS_MADVISE, start, end-start, unix.MADV_DONTNEED); failed != 0 {
			return fmt.Errorf("forget the program: %w", failed)
		}
	}
	return nil
}

// readOnlyPart reads a line of /proc/PID/maps (proc_pid_maps(5)): where the part of program
// is that it describes, if nothing can ever have been written to it.
func readOnlyPart(line, program string) (start, end uintptr, ok bool) {
	var perms, offset, device string
	var inode uint64
	if n, _ := fmt.Sscanf(line, "%x-%x %s %s %s %d", &start, &end, &perms, &offset, &device, &inode); n != 6 {
		return 0, 0, false
	}
	return start, end, perms[1] == '-' && strings.HasSuffix(line, " "+program)
}
