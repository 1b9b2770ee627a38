package daemon

import (
	"debug/buildinfo"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
)

// programPackage is the main package of tenured, which every build of it says of itself.
const programPackage = "tenure/cmd/tenured"

// program is a tenured, open: what is executed is what was looked at, whatever comes to be at its path.
type program struct {
	file *os.File
	path string
}

// Errors of a path that is not a program to be executed.
var (
	errNotAbsolute = errors.New("it is not an absolute path")
	errNotProgram  = errors.New("it is not an executable file")
	errNotTenured  = errors.New("it is not a tenured")
	errOthers      = errors.New("others than root could change it")
)

// openProgram opens the tenured at a path that nobody but root can change. Nothing of it is executed.
func openProgram(path string) (*program, error) {
	if !filepath.IsAbs(path) {
		return nil, fmt.Errorf("%s: %w", path, errNotAbsolute)
	}
	real, err := filepath.EvalSymlinks(path)
	if err != nil {
		return nil, err
	}
	for dir := filepath.Dir(real); ; dir = filepath.Dir(dir) {
		info, err := os.Lstat(dir)
		if err != nil {
			return nil, err
		}
		if !ofRoot(info) && !sticky(info) {
			return nil, fmt.Errorf("%s: %w: see the owner and the mode of %s", path, errOthers, dir)
		}
		if dir == filepath.Dir(dir) {
			break
		}
	}
	file, err := os.OpenFile(real, os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	if err := checkProgram(file); err != nil {
		return nil, errors.Join(fmt.Errorf("%s: %w", path, err), file.Close())
	}
	return &program{file: file, path: real}, nil
}

// sticky reports whether a directory is root's, and nobody can remove in it what is not theirs.
func sticky(info fs.FileInfo) bool {
	stat, known := info.Sys().(*syscall.Stat_t)
	return known && stat.Uid == 0 && info.Mode()&fs.ModeSticky != 0
}

// ofRoot reports whether only root can change what info is of.
func ofRoot(info fs.FileInfo) bool {
	const others = 0o022
	stat, known := info.Sys().(*syscall.Stat_t)
	return known && stat.Uid == 0 && info.Mode().Perm()&others == 0
}

func checkProgram(file *os.File) error {
	const executable = 0o111
	info, err := file.Stat()
	switch {
	case err != nil:
		return err
	case !info.Mode().IsRegular() || info.Mode().Perm()&executable == 0:
		return errNotProgram
	case !ofRoot(info):
		return errOthers
	}
	built, err := buildinfo.Read(file)
	if err != nil || built.Path != programPackage {
		return errNotTenured
	}
	return nil
}

// ownProgram is the program of this process, also when there is another file at its path by now.
func ownProgram(path string) (*program, error) {
	file, err := os.Open("/proc/self/exe")
	if err != nil {
		return nil, fmt.Errorf("open this program: %w", err)
	}
	return &program{file: file, path: path}, nil
}

// executable is a path of the program for as long as this process has it open.
func (p *program) executable() string {
	return fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), descriptorOf(p.file))
}

func (p *program) close() { _ = p.file.Close() } // Opened to be executed.

// descriptorOf is the number of an open file, whose flags stay as they are.
func descriptorOf(file *os.File) int {
	number := -1
	raw, err := file.SyscallConn()
	if err == nil {
		_ = raw.Control(func(fd uintptr) { number = int(fd) }) //nolint:gosec // A descriptor.
	}
	return number
}
