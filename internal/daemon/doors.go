package daemon

import (
	"context"
	"net"
	"os"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"tenure/internal/api"
	"tenure/internal/hook"
	"tenure/internal/relay"
)

// The names of the sockets by which others reach the daemon: of those that it is passed, and
// of those that it passes on.
const (
	doorAPI     = api.DoorAPI
	doorSnapctl = hook.Door
	doorSnapd   = api.DoorSnapd
	doorEntry   = api.DoorEntry
)

// doorNames are those of all doors.
func doorNames() []string { return []string{doorAPI, doorSnapctl, doorSnapd, doorEntry} }

// doors are the sockets by which others reach the daemon. A copy of each is kept for another program
// that comes in place of this one: who connects meanwhile waits in the queue of the socket.
type doors struct {
	// quiet is closed when this daemon is to accept nobody any more, and to answer who is there.
	quiet chan struct{}
	// inside are those who answer.
	inside sync.WaitGroup
	// box has the connections that the other program goes on with.
	box relay.Box

	mu   sync.Mutex
	kept map[string]*os.File
}

func newDoors() *doors { return &doors{quiet: make(chan struct{}), kept: map[string]*os.File{}} }

// open is the socket of a name: the one that was given, or a new one.
func (d *doors) open(name string, given *net.UnixListener, listen func() (*net.UnixListener, error)) (*net.UnixListener, error) {
	if given == nil {
		var err error
		if given, err = listen(); err != nil {
			return nil, err
		}
	}
	file, err := given.File()
	if err != nil {
		return nil, err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.kept[name] = file
	return given, nil
}

// answer has serve answer at a socket for as long as the group lives.
func (d *doors) answer(group *errgroup.Group, serve func() error) {
	d.inside.Add(1)
	group.Go(func() error {
		defer d.inside.Done()
		return serve()
	})
}

// close accepts nobody any more, and waits until everybody is answered, or for as long
// as patience. It reports whether all were.
func (d *doors) close(ctx context.Context, patience time.Duration) bool {
	close(d.quiet)
	answered := make(chan struct{})
	go func() {
		d.inside.Wait()
		close(answered)
	}()
	select {
	case <-answered:
		return true
	case <-time.After(patience):
	case <-ctx.Done():
	}
	return false
}

// drop gives up the copies: nobody comes in place of this daemon, so nobody is to wait.
func (d *doors) drop() {
	d.mu.Lock()
	defer d.mu.Unlock()
	for name, file := range d.kept {
		_ = file.Close() // There is nothing in it.
		delete(d.kept, name)
	}
}

// dropUnlessQuiet is drop at the end of a daemon that is not being replaced.
func (d *doors) dropUnlessQuiet() {
	select {
	case <-d.quiet:
	default:
		d.drop()
	}
}

// files are the copies, by their names.
func (d *doors) files() map[string]*os.File {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.kept
}
