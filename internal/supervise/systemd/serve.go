package systemd

import (
	"bufio"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"tenure"
	"tenure/internal/accept"
	"tenure/internal/proc"
	"tenure/internal/sandbox"
	"tenure/internal/supervise"
)

// What this program says when systemd has started it for a unit is a question in a line of
// JSON; what it gets is an answer behind its length, with descriptors. Then it becomes the
// program, which closes the connection, or says why it cannot. Of a start ahead the first answer
// says so; then it says that it is ready, with one byte, and gets a second one when it is time.

// The verbs, in questions and in the command lines that systemd runs.
const (
	verbLaunch = "launch"
	verbStop   = "stop"
	verbReload = "reload"
	// These are of the units that start services, and not of services.
	verbConnect = "connect"
	verbStrike  = "strike"
	verbPlace   = "place"
)

// question is what systemd has started this program for.
type question struct {
	// Verb is one of the verbs.
	Verb string `json:"verb"`
	// Unit is systemd's name of the unit.
	Unit string `json:"unit"`
	// Orphan is that the unit is to end and systemd knows no main process of it.
	Orphan bool `json:"orphan,omitempty"`
}

// order is the answer.
type order struct {
	Profile sandbox.Profile   `json:"profile"`
	Command supervise.Command `json:"command"`
	// Names are those of the descriptors (sd_listen_fds(3)). Of each, Given is by what name systemd
	// has passed it; empty for those that come with the order.
	Names []string `json:"names,omitempty"`
	Given []string `json:"given,omitempty"`
	// Wait is that only the profile is to be entered yet, and the programs of Ahead
	// are to be read: another order follows.
	Wait  bool     `json:"wait,omitempty"`
	Ahead []string `json:"ahead,omitempty"`
	// Lives is that there is nothing to become, since the service runs, as another process.
	Lives bool `json:"lives,omitempty"`
	// Error is why there is nothing to become.
	Error string `json:"error,omitempty"`
}

// maxQuestion bounds a question, maxOrder an answer.
const (
	maxQuestion = 4 << 10
	maxOrder    = 4 << 20
)

// caller is a process of this program that systemd has started.
type caller struct {
	question

	conn *net.UnixConn
	peer proc.Peer
}

func (c *caller) close() { _ = c.conn.Close() } // It has been told all there is.

// serve answers those who ask until the listener is closed.
func (h *host) serve(listener *net.UnixListener, answer func(*caller)) error {
	for {
		conn, err := accept.Next(listener, func(err error) { h.logger.Warn("units have to wait", slog.Any("error", err)) })
		if errors.Is(err, net.ErrClosed) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("accept from units: %w", err)
		}
		go func() {
			c, err := hear(conn)
			if err != nil {
				h.logger.Warn("who asks is not understood", slog.Any("error", err))
				_ = conn.Close() // There is nothing to tell him.
				return
			}
			answer(c)
		}()
	}
}

// hear reads a question. Only root may ask.
func hear(conn *net.UnixConn) (*caller, error) {
	peer, err := proc.PeerOf(conn)
	if err != nil {
		return nil, err
	}
	c := &caller{conn: conn, peer: peer}
	if peer.UID != 0 {
		peer.Handle.Close()
		return nil, fmt.Errorf("user %d: %w", peer.UID, os.ErrPermission)
	}
	line, err := bufio.NewReaderSize(io.LimitReader(conn, maxQuestion), maxQuestion).ReadBytes('\n')
	if err == nil {
		err = json.Unmarshal(line, &c.question)
	}
	if err != nil {
		peer.Handle.Close()
		return nil, fmt.Errorf("question of process %d: %w", peer.Handle.Process().PID, err)
	}
	return c, nil
}

// become tells who asks what to become, and returns when it has.
func (c *caller) become(ctx context.Context, o order, files []*os.File) (*proc.Handle, error) {
	stop := context.AfterFunc(ctx, func() { _ = c.conn.SetDeadline(time.Now()) })
	defer stop()
	err := c.tell(o, files)
	var text []byte
	if err == nil {
		text, err = io.ReadAll(io.LimitReader(c.conn, maxQuestion))
	}
	if err == nil && len(text) > 0 {
		err = errors.New(string(text))
	}
	if err != nil {
		c.peer.Handle.Close()
		return nil, err
	}
	return c.peer.Handle, nil
}

// isReady is the byte by which one says that it waits. No error begins with it.
const isReady = 0

// wait tells who asks to get ready, and returns when it is.
func (c *caller) wait(ctx context.Context, o order) error {
	stop := context.AfterFunc(ctx, func() { _ = c.conn.SetDeadline(time.Now()) })
	defer stop()
	if err := c.tell(o, nil); err != nil {
		return err
	}
	var first [1]byte
	if _, err := io.ReadFull(c.conn, first[:]); err != nil || first[0] == isReady {
		return err
	}
	text, err := io.ReadAll(io.LimitReader(c.conn, maxQuestion))
	return errors.Join(errors.New(string(first[:])+string(text)), err)
}

// tell sends an answer, with descriptors.
func (c *caller) tell(o order, files []*os.File) error {
	text, err := json.Marshal(o)
	if err != nil {
		return fmt.Errorf("encode order: %w", err)
	}
	message := append(binary.BigEndian.AppendUint32(nil, uint32(len(text))), text...) //nolint:gosec // An order is small.
	fds := make([]int, len(files))
	for i, file := range files {
		fds[i] = int(file.Fd()) //nolint:gosec // An open descriptor.
	}
	var rights []byte
	if len(fds) > 0 {
		rights = unix.UnixRights(fds...)
	}
	n, _, err := c.conn.WriteMsgUnix(message, rights, nil)
	if err == nil && n < len(message) {
		_, err = c.conn.Write(message[n:])
	}
	if err != nil {
		return fmt.Errorf("tell process %d: %w", c.peer.Handle.Process().PID, err)
	}
	return nil
}

// refuse tells who asks why there is nothing for it.
func (c *caller) refuse(err error) {
	o := order{}
	if err != nil {
		o.Error = err.Error()
	}
	_ = c.tell(o, nil) // It may have gone.
	c.peer.Handle.Close()
	c.close()
}

// answer gives who asks to whoever waits for it.
func (s *Supervisor) answer(ctx context.Context, c *caller) {
	switch c.Verb {
	case verbConnect:
		c.refuse(s.told(ctx, c, s.Connected))
		return
	case verbStrike:
		c.refuse(s.told(ctx, c, s.Struck))
		return
	}
	group, err := s.host.groupOf(c)
	if err != nil {
		c.refuse(err)
		return
	}
	switch c.Verb {
	case verbLaunch:
		s.launched(ctx, c)
	case verbStop:
		c.refuse(s.stopByHand(ctx, c.question, group))
	case verbReload:
		c.refuse(s.reloadByHand(ctx, group))
	default:
		c.refuse(fmt.Errorf("%s %s: %w", c.Verb, c.Unit, errors.ErrUnsupported))
	}
}

// groupOf is the group of the unit that who asks is in, as he must be.
func (h *host) groupOf(c *caller) (proc.Group, error) {
	unit, _, ok := h.names.parse(c.Unit)
	if !ok {
		return proc.Group{}, fmt.Errorf("unit %s: %w", c.Unit, supervise.ErrUnknown)
	}
	group := h.groupFor(unit, c.Unit)
	own, err := h.hierarchy.GroupOf(c.peer.Handle.Process().PID)
	if err != nil {
		return proc.Group{}, err
	}
	if own != group && filepath.Dir(own.Path()) != group.Path() {
		return proc.Group{}, fmt.Errorf("process %d is not of %s: %w", c.peer.Handle.Process().PID, c.Unit, os.ErrPermission)
	}
	return group, nil
}

// launched gives who asks what to become to the launch that waits for it, or else tells the
// supervisor that systemd has started a service by itself.
func (s *Supervisor) launched(ctx context.Context, c *caller) {
	h := s.host
	h.mu.Lock()
	if expected := h.expected[c.Unit]; expected != nil {
		delete(h.expected, c.Unit)
		h.mu.Unlock()
		expected <- c
		return
	}
	unit, err := h.serves(c.Unit)
	if err == nil {
		come := make(chan *caller, 1)
		come <- c
		h.come[c.Unit] = come
	}
	h.mu.Unlock()
	if err == nil {
		err = s.Launched(ctx, unit)
	}
	if err == nil {
		return
	}
	h.mu.Lock()
	delete(h.come, c.Unit)
	h.mu.Unlock()
	if errors.Is(err, supervise.ErrRunning) && s.livesOn(ctx, c, unit) {
		return
	}
	h.logger.Warn("systemd has started what is not to run", slog.String("unit", c.Unit), slog.Any("error", err))
	c.refuse(err)
}

// serves is the service that a unit is; the caller has the lock.
func (h *host) serves(name string) (tenure.UnitID, error) {
	for unit, now := range h.serving {
		if now.name == name {
			return unit, nil
		}
	}
	return tenure.UnitID{}, fmt.Errorf("%s is not the service any more: %w", name, supervise.ErrUnknown)
}

func (s *Supervisor) status(ctx context.Context, id tenure.UnitID) (supervise.Status, bool) {
	units, err := s.Units(ctx)
	if err != nil {
		return supervise.Status{}, false
	}
	for _, status := range units {
		if status.Unit == id {
			return status, true
		}
	}
	return supervise.Status{}, false
}
