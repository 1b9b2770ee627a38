package fdstore

import (
	"errors"
	"fmt"
	"os"

	"tenure"
)

// Kind tells what a kept descriptor is for. Names of different kinds do not meet: what
// a service stores cannot replace or remove the sockets of its supervisor.
type Kind string

// The kinds.
const (
	// Listen is a declared socket. A second one of the same name replaces the first.
	Listen Kind = "listen"
	// Notify is a socket for sd_notify(3). A second one of the same name replaces
	// the first.
	Notify Kind = "notify"
	// Stored was given by the service with FDSTORE=1. Several may have one name; the same
	// open file is kept once (sd_pid_notify_with_fds(3)).
	Stored Kind = "stored"
	// Log is the reading end of a log; it is listed, but neither put nor removed by
	// name: it ends when its last writer is gone.
	Log Kind = "log"
)

// Errors that callers tell apart.
var (
	// ErrName is that a unit, kind or name cannot be kept.
	ErrName = errors.New("invalid name of a descriptor")
	// ErrFull is that the holder keeps as many descriptors as it may.
	ErrFull = errors.New("too many descriptors")
	// ErrClosed is that the client was closed.
	ErrClosed = errors.New("client is closed")
	// ErrRefused is that the other side of the socket is another user's process.
	ErrRefused = errors.New("not a process of this user")
)

// Item names a kept descriptor.
type Item struct {
	Unit tenure.UnitID `json:"unit"`
	Kind Kind          `json:"kind"`
	Name string        `json:"name"`
}

// Kept is a kept descriptor. File belongs to the caller and shares the open file
// with the holder's: its flags and offset, but not its lifetime.
type Kept struct {
	Item
	File *os.File
}

const maxName = 255

// check refuses what sd_listen_fds_with_names(3) could not pass on.
func (i Item) check() error {
	switch {
	case i.Unit.IsZero():
		return fmt.Errorf("%w: no unit", ErrName)
	case i.Kind != Listen && i.Kind != Notify && i.Kind != Stored:
		return fmt.Errorf("%w: kind %q", ErrName, i.Kind)
	case i.Name == "" || len(i.Name) > maxName:
		return fmt.Errorf("%w: name of %d bytes (want 1 to %d)", ErrName, len(i.Name), maxName)
	}
	for _, c := range []byte(i.Name) {
		if c < ' ' || c > '~' || c == ':' {
			return fmt.Errorf("%w: %q (want printable ASCII without colons)", ErrName, i.Name)
		}
	}
	return nil
}
