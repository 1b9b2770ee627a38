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
	errLink        = errors.New("it is a link")
)

// openProgram opens the tenured at a path that nobody but root can change, as nobody else can what it takes from its directory.
// closed are directories whose files packages may write. Nothing of it is executed.
func openProgram(path string, closed ...string) (*program, error) {
	if !filepath.IsAbs(path) {
		return nil, fmt.Errorf("%s: %w", path, errNotAbsolute)
	}
	real, err := filepath.EvalSymlinks(path)
	if err != nil {
		return nil, err
	}
	if err := checkWay(filepath.Dir(real), closed); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	file, err := openExecutable(real, ofRoot)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	built, err := buildinfo.Read(file)
	if err != nil || built.Path != programPackage {
		return nil, errors.Join(fmt.Errorf("%s: %w", path, errNotTenured), file.Close())
	}
	if err := checkCompanions(filepath.Dir(real)); err != nil {
		return nil, errors.Join(err, file.Close())
	}
	return &program{file: file, path: real}, nil
}

// checkWay refuses a directory in which others than root can put files, or that they can put another one in the place of.
func checkWay(last string, closed []string) error {
	for dir := last; ; dir = filepath.Dir(dir) {
		info, err := os.Lstat(dir)
		if err != nil {
			return err
		}
		if !ofRoot(info) && (dir == last || !sticky(info)) {
			return fmt.Errorf("%w: see the owner and the mode of %s", errOthers, dir)
		}
		for _, path := range closed {
			if its, err := os.Stat(path); err == nil && os.SameFile(its, info) {
				return fmt.Errorf("%w: %s is for the data of snaps", errOthers, dir)
			}
		}
		if dir == filepath.Dir(dir) {
			return nil
		}
	}
}

// companion is where the program of a name is that belongs to the tenured at self.
func companion(self, name string) string { return filepath.Join(filepath.Dir(self), name) }

// The programs that a tenured takes from the directory that it is in itself.
const (
	companionTenure  = "tenure"
	companionSnapctl = "snapctl"
	companionRun     = "tenure-run"
)

// checkCompanions refuses what others could change of the programs in a directory of root's that belong to a tenured in it. One
// that is missing nobody else puts there.
func checkCompanions(dir string) error {
	for _, name := range []string{companionTenure, companionSnapctl, companionRun} {
		path := filepath.Join(dir, name)
		file, err := openExecutable(path, ofRoot)
		switch {
		case errors.Is(err, fs.ErrNotExist):
		case err != nil:
			return fmt.Errorf("%s: %w", path, err)
		default:
			_ = file.Close() // Only looked at.
		}
	}
	return nil
}

// openExecutable opens an executable file that is trusted, and no link.
func openExecutable(path string, trusted func(fs.FileInfo) bool) (*os.File, error) {
	const executable = 0o111
	file, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0)
	if errors.Is(err, syscall.ELOOP) {
		return nil, errLink
	}
	if err != nil {
		return nil, err
	}
	info, err := file.Stat()
	switch {
	case err != nil:
	case !info.Mode().IsRegular() || info.Mode().Perm()&executable == 0:
		err = errNotProgram
	case !trusted(info):
		err = errOthers
	}
	if err != nil {
		return nil, errors.Join(err, file.Close())
	}
	return file, nil
}

// ofRootOrOwn reports whether nobody can change what info is of who cannot change this program: whoever
// builds Tenure in a directory of theirs, and runs it by sudo, does not have to give it away.
func ofRootOrOwn(info fs.FileInfo) bool {
	own, err := os.Stat("/proc/self/exe")
	if err != nil || ofRoot(info) {
		return ofRoot(info)
	}
	its, known := info.Sys().(*syscall.Stat_t)
	ours, alsoKnown := own.Sys().(*syscall.Stat_t)
	return known && alsoKnown && (its.Uid == 0 || its.Uid == ours.Uid) &&
		info.Mode().Perm()&others&^own.Mode().Perm() == 0 && (info.Mode().Perm()&others == 0 || its.Gid == ours.Gid)
}

// sticky reports whether a directory is root's, and nobody can remove in it what is not theirs.
func sticky(info fs.FileInfo) bool {
	stat, known := info.Sys().(*syscall.Stat_t)
	return known && stat.Uid == 0 && info.Mode()&fs.ModeSticky != 0
}

// others are the bits of a mode by which others than its owner may change a file.
const others = 0o022

// ofRoot reports whether only root can change what info is of.
func ofRoot(info fs.FileInfo) bool {
	stat, known := info.Sys().(*syscall.Stat_t)
	return known && stat.Uid == 0 && info.Mode().Perm()&others == 0
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
