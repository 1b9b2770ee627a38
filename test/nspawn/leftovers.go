package nspawn

import (
	"os"
	"path/filepath"
	"strings"
)

// Leftovers are what there is on the host of a machine of that name, a sentence each:
// processes, control groups, mounts and directories.
func Leftovers(name string) []string {
	var left []string
	for _, pattern := range []string{"/sys/fs/cgroup/" + name, "/sys/fs/cgroup/*/" + name} {
		groups, _ := filepath.Glob(pattern)
		for _, group := range groups {
			left = append(left, "control group "+group)
		}
	}
	dir := filepath.Join(os.TempDir(), name)
	if _, err := os.Lstat(dir); err == nil {
		left = append(left, "directory "+dir)
	}
	left = append(left, mentions("mount", "/proc/self/mountinfo", name)...)
	processes, _ := filepath.Glob("/proc/[0-9]*")
	for _, process := range processes {
		left = append(left, mentions("process", process+"/cmdline", name)...)
		left = append(left, mentions("process "+process+" in group", process+"/cgroup", name)...)
		left = append(left, mentions("process "+process+" with mount", process+"/mountinfo", name)...)
	}
	return left
}

// mentions are the lines of a file that have the name in them. A file that is not
// there has none.
func mentions(what, file, name string) []string {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil
	}
	var found []string
	for line := range strings.Lines(string(text)) {
		// One that has ended, and that nobody has reaped, is in a group that is not there.
		if strings.Contains(line, name) && !strings.HasSuffix(line, " (deleted)\n") {
			found = append(found, what+" "+strings.TrimSpace(strings.ReplaceAll(line, "\x00", " ")))
		}
	}
	return found
}
