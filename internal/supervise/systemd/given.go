package systemd

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"tenure/internal/sandbox"
	"tenure/internal/supervise"
)

// given are the descriptors that systemd has passed to this process; those that it has stored for the service
// are among them.
type given []named

// named is a descriptor with its name.
type named struct {
	name string
	fd   int
}

// takeGiven finds them (sd_listen_fds(3)). What this process executes gets those alone that are
// passed on.
func takeGiven() (g given) {
	env := make(map[string]string)
	for _, entry := range os.Environ() {
		name, value, _ := strings.Cut(entry, "=")
		env[name] = value
	}
	count, err := strconv.Atoi(env["LISTEN_FDS"])
	if err != nil || env["LISTEN_PID"] != strconv.Itoa(os.Getpid()) {
		return nil
	}
	names := strings.Split(env["LISTEN_FDNAMES"], ":")
	for i := range count {
		name := ""
		if i < len(names) {
			name = names[i]
		}
		unix.CloseOnExec(firstPassed + i)
		g = append(g, named{name, firstPassed + i})
	}
	return g
}

// find is the descriptor of a name.
func (g given) find(name string) (fd int, found bool) {
	for _, one := range g {
		if one.name == name {
			return one.fd, true
		}
	}
	return -1, false
}

// withGiven are the descriptors of an order: those that came with it, and those that systemd has passed.
func withGiven(fds []int, o order) (all []int, err error) {
	g := takeGiven()
	for i, name := range o.Names {
		switch {
		case i < len(o.Given) && o.Given[i] != "":
			fd, found := g.find(o.Given[i])
			if !found {
				return nil, fmt.Errorf("socket %s is not open: %w", name, fs.ErrNotExist)
			}
			all = append(all, fd)
		case len(fds) > 0:
			all, fds = append(all, fds[0]), fds[1:]
		default:
			return nil, errors.New("the supervisor has passed too few descriptors")
		}
	}
	return all, nil
}

// enterGiven becomes a service with all that systemd has passed for it: its sockets in the order in
// which they are declared, and then what it has stored before it crashed.
func enterGiven(spec *supervise.Spec, profile sandbox.Profile, env []string) error {
	var fds []int
	var names []string
	g := takeGiven()
	for _, s := range spec.Sockets {
		if fd, found := g.find(doorID(s)); found {
			fds, names = append(fds, fd), append(names, s.Name)
		}
	}
	for _, one := range g {
		if !strings.HasPrefix(one.name, doorMark) || !isHash(one.name[len(doorMark):]) {
			fds, names = append(fds, one.fd), append(names, one.name)
		}
	}
	if _, err := arrange(fds, connection(os.Stderr.Fd())); err != nil { //nolint:gosec // A descriptor.
		return err
	}
	return enter(profile, spec.Command, append(env, listening(names)...))
}

// listening tells a process of the descriptors that it is passed.
func listening(names []string) []string {
	if len(names) == 0 {
		return nil
	}
	return []string{
		"LISTEN_FDS=" + strconv.Itoa(len(names)), "LISTEN_FDNAMES=" + strings.Join(names, ":"), "LISTEN_PID=" + strconv.Itoa(os.Getpid()),
	}
}
