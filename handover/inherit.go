package handover

import (
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"
	"syscall"
)

// firstFD is SD_LISTEN_FDS_START of sd_listen_fds(3).
const firstFD = 3

// Inheritance is what the supervisor has passed to this process, by the names of
// LISTEN_FDNAMES. The caller owns it.
type Inheritance struct {
	// Listeners are the listening sockets: those that the package declares, by the
	// names that it gives them.
	Listeners map[string]net.Listener
	// Files are all other descriptors: those that an earlier generation has kept
	// (Keep).
	Files map[string][]*os.File
}

// Inherit takes over what the supervisor has passed to this process, by the
// protocol of sd_listen_fds(3). What was passed is passed once: the variables are
// taken out of the environment, and children inherit nothing. A process to which
// nothing was passed inherits nothing, which is no error.
func Inherit() (Inheritance, error) {
	names := passed(os.Getenv, os.Getpid()) //nolint:forbidigo // The environment is the protocol.
	for _, variable := range []string{"LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"} {
		if err := os.Unsetenv(variable); err != nil {
			return Inheritance{}, fmt.Errorf("inherit: %w", err)
		}
	}
	files := make([]*os.File, 0, len(names))
	for i, name := range names {
		syscall.CloseOnExec(firstFD + i)
		files = append(files, os.NewFile(uintptr(firstFD+i), name))
	}
	return sorted(files)
}

// passed are the names of the descriptors from firstFD on that are for the process
// with this pid.
func passed(getenv func(string) string, pid int) []string {
	count, err := strconv.Atoi(getenv("LISTEN_FDS"))
	if err != nil || count <= 0 || getenv("LISTEN_PID") != strconv.Itoa(pid) {
		return nil
	}
	given := strings.Split(getenv("LISTEN_FDNAMES"), ":")
	names := make([]string, count)
	for i := range names {
		names[i] = "unknown"
		if i < len(given) && given[i] != "" {
			names[i] = given[i]
		}
	}
	return names
}

// sorted tells listening sockets from other descriptors. After an error all are
// closed.
func sorted(files []*os.File) (Inheritance, error) {
	in := Inheritance{Listeners: make(map[string]net.Listener), Files: make(map[string][]*os.File)}
	var errs []error
	for _, file := range files {
		name := file.Name()
		if !listens(file) {
			in.Files[name] = append(in.Files[name], file)
			continue
		}
		listener, err := net.FileListener(file)
		errs = append(errs, err, file.Close())
		if err == nil {
			in.Listeners[name] = listener
		}
	}
	if err := errors.Join(errs...); err != nil {
		return Inheritance{}, errors.Join(fmt.Errorf("inherit: %w", err), in.Close())
	}
	return in, nil
}

// listens reports whether a descriptor is a socket that listens.
func listens(file *os.File) bool {
	raw, err := file.SyscallConn()
	if err != nil {
		return false
	}
	accepts := 0
	if err := raw.Control(func(fd uintptr) {
		accepts, err = syscall.GetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_ACCEPTCONN)
	}); err != nil {
		return false
	}
	return err == nil && accepts != 0
}

// All are the listeners, in no order.
func (in Inheritance) All() []net.Listener {
	all := make([]net.Listener, 0, len(in.Listeners))
	for _, listener := range in.Listeners {
		all = append(all, listener)
	}
	return all
}

// Close closes everything.
func (in Inheritance) Close() error {
	var errs []error
	for _, listener := range in.Listeners {
		errs = append(errs, listener.Close())
	}
	for _, files := range in.Files {
		for _, file := range files {
			errs = append(errs, file.Close())
		}
	}
	return errors.Join(errs...)
}
