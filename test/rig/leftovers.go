package rig

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
	"syscall"
	"time"

	"tenure"
	"tenure/internal/daemon"
	"tenure/internal/mount"
	"tenure/internal/proc"
)

// groups are the control groups that an instance below root has while it runs.
func groups(root string) []proc.Group {
	var found []proc.Group
	name := daemon.HierarchyName(root)
	for _, top := range []string{"/sys/fs/cgroup/unified", "/sys/fs/cgroup"} {
		for _, dir := range []string{name, name + "-holder", daemon.SliceName(root) + ".slice"} {
			group := proc.GroupAt(filepath.Join(top, dir))
			if _, err := os.Stat(filepath.Join(group.Path(), "cgroup.procs")); err == nil {
				found = append(found, group)
			}
		}
	}
	return found
}

// Groups are the control groups of an instance below root, those of its units
// too, by their paths.
func Groups(root string) []string {
	var found []string
	for _, group := range groups(root) {
		err := filepath.WalkDir(group.Path(), func(path string, entry fs.DirEntry, err error) error {
			if err == nil && entry.IsDir() {
				found = append(found, path)
			}
			if errors.Is(err, fs.ErrNotExist) {
				return nil // It has just gone.
			}
			return err
		})
		if err != nil {
			found = append(found, err.Error())
		}
	}
	return found
}

// Leftovers are what there is on the machine of an instance below root:
// processes, control groups, mounts and loop devices, a sentence each.
func Leftovers(root string) []string {
	var left []string
	for _, group := range groups(root) {
		left = append(left, "control group "+group.Path())
	}
	for _, p := range Processes(root) {
		left = append(left, "process "+p)
	}
	for _, point := range Mounts(root) {
		left = append(left, "mount "+point)
	}
	awaitLoops(root)
	for _, loop := range Loops(root) {
		left = append(left, "loop device "+loop)
	}
	return left
}

// awaitLoops allows loop devices that are mounted no more a moment to go: whoever
// makes a mount namespace on this machine has a copy of our mounts in it until it
// has thrown them out.
func awaitLoops(root string) {
	const moment, again = 5 * time.Second, 5 * time.Millisecond
	deadline := time.After(moment)
	for len(unmountedLoops(root)) > 0 {
		select {
		case <-deadline:
			return
		case <-time.After(again):
		}
	}
}

// unmountedLoops are the files of Loops that are not mounted here.
func unmountedLoops(root string) []string {
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil
	}
	var files []string
	for name, file := range loops(root) {
		if !bytes.Contains(mounts, []byte(" /dev/"+name+" ")) {
			files = append(files, file)
		}
	}
	return files
}

// Processes are the processes in the groups of an instance below root, and those
// whose command line names the root, but for those of this test itself.
func Processes(root string) []string {
	var found []string
	for _, group := range groups(root) {
		infos, err := group.Processes()
		if err != nil {
			found = append(found, fmt.Sprintf("of %s: %v", group.Path(), err))
		}
		for _, info := range infos {
			found = append(found, fmt.Sprintf("%d %s in %s", info.PID, info.CommandLine(), info.Group))
		}
	}
	entries, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, entry := range entries {
		line, err := os.ReadFile(entry)
		pid := filepath.Base(filepath.Dir(entry))
		if err == nil && bytes.Contains(line, []byte(root)) && pid != strconv.Itoa(os.Getpid()) && !leaves(pid, line) {
			found = append(found, pid+" "+string(bytes.ReplaceAll(line, []byte{0}, []byte{' '})))
		}
	}
	return found
}

// leaves reports whether a process with a command line unmounts a copy of our mounts in a mount namespace of another test (package mountns).
func leaves(pid string, line []byte) bool {
	program, _, _ := bytes.Cut(line, []byte{0})
	if !slices.Contains([]string{"mount", "umount"}, string(program)) {
		return false
	}
	own, ownErr := os.Readlink("/proc/self/ns/mnt")
	its, err := os.Readlink(filepath.Join("/proc", pid, "ns/mnt"))
	return errors.Is(err, fs.ErrNotExist) || err == nil && ownErr == nil && its != own
}

// Mounts are the mount points below root.
func Mounts(root string) []string {
	var points []string
	text, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return []string{err.Error()}
	}
	lines := bufio.NewScanner(bytes.NewReader(text))
	for lines.Scan() {
		if fields := strings.Fields(lines.Text()); len(fields) > 4 && strings.HasPrefix(fields[4], root+"/") {
			points = append(points, fields[4])
		}
	}
	return points
}

// Loops are the files below root that a loop device shows.
func Loops(root string) []string {
	return slices.Collect(maps.Values(loops(root)))
}

// loops are the files below root, by the name of the loop device that shows each.
func loops(root string) map[string]string {
	files := map[string]string{}
	backing, _ := filepath.Glob("/sys/block/loop*/loop/backing_file")
	for _, path := range backing {
		file, err := os.ReadFile(path)
		if err == nil && strings.HasPrefix(string(file), root+"/") {
			files[filepath.Base(filepath.Dir(filepath.Dir(path)))] = strings.TrimSpace(string(file))
		}
	}
	return files
}

// sweep ends and unmounts what is left, so that one failed test does not fail
// others.
func sweep(ctx context.Context, root string) error {
	var failures []error
	for _, group := range groups(root) {
		failures = append(failures, group.Thaw(), group.Kill(), group.AwaitEmpty(ctx), group.Remove())
	}
	for _, point := range slices.Backward(Mounts(root)) {
		err := mount.Unmount(ctx, point)
		if err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, syscall.EINVAL) {
			failures = append(failures, err)
		}
	}
	return errors.Join(failures...)
}

// Gone waits for the end of a process, at most until ctx ends.
func Gone(ctx context.Context, p tenure.Process) error {
	handle, err := proc.Open(p)
	if errors.Is(err, proc.ErrGone) {
		return nil
	}
	if err != nil {
		return err
	}
	defer handle.Close()
	_, err = handle.Wait(ctx)
	return err
}
