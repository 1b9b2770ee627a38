package proc

import (
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
)

// maxEnviron bounds an environment, in bytes; the kernel allows 6 MiB (execve(2)).
const maxEnviron = 8 << 20

// Environ is the environment that a process was executed with, NAME=value, as far as it has
// not written over it.
func Environ(pid int) ([]string, error) {
	file, err := os.Open("/proc/" + strconv.Itoa(pid) + "/environ")
	if err != nil {
		return nil, fmt.Errorf("read the environment of %d: %w", pid, goneProcess(err))
	}
	defer file.Close() //nolint:errcheck // Only read.
	text, err := io.ReadAll(io.LimitReader(file, maxEnviron))
	if err != nil {
		return nil, fmt.Errorf("read the environment of %d: %w", pid, goneProcess(err))
	}
	if len(text) == 0 {
		return []string{}, nil
	}
	return strings.Split(strings.TrimSuffix(string(text), "\x00"), "\x00"), nil
}
