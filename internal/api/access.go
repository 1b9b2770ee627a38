package api

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"strconv"

	"golang.org/x/sys/unix"

	"tenure/internal/polkit"
)

// access returns nil for a request whose peer may ask for it.
type access func(*http.Request) error

func (s *server) everybody(*http.Request) error { return nil }

func (s *server) administrators(r *http.Request) error {
	if !s.admin(r) {
		return denied()
	}
	return nil
}

// interactionHeader is true where the client says that a person is there to be asked.
const interactionHeader = "X-Allow-Interaction"

// let is the access of administrators, and of those whom polkit lets do action. A question
// is open for as long as the client waits for the answer.
func (s *server) let(action polkit.Action) access {
	return func(r *http.Request) error {
		p, known := r.Context().Value(peerKey{}).(peer)
		if s.admin(r) {
			return nil
		}
		if s.cfg.Polkit == nil || !known {
			return denied()
		}
		interactive, _ := strconv.ParseBool(r.Header.Get(interactionHeader)) // What is no word for it is no.
		serving, stop := s.whileServing(r.Context())
		defer stop()
		ctx, done := p.conn.whileThere(serving)
		defer done()
		err := s.cfg.Polkit.Check(ctx, polkit.Subject{Process: p.process, UID: p.uid}, action, interactive)
		switch {
		case err == nil:
			return nil
		case elsewhere(serving) != nil:
			return elsewhere(serving) // There will be an answer, and it may be yes.
		case errors.Is(err, polkit.ErrDismissed):
			return &requestError{status: http.StatusForbidden, kind: "auth-cancelled", message: "access denied: " + polkit.ErrDismissed.Error()}
		}
		s.cfg.Logger.Debug("polkit does not let a user in", slog.Any("error", err))
		return denied()
	}
}

func denied() error {
	return &requestError{
		status: http.StatusForbidden, kind: "login-required",
		message: "access denied: this is for root and the members of the group tenure; try with sudo",
	}
}

// whileThere is a context that ends when the other end of c is closed, also while the body
// of a request is still to be read, which is when net/http does not look. Its function gives
// back what it takes.
func (c *counted) whileThere(ctx context.Context) (context.Context, func()) {
	ctx, cancel := context.WithCancel(ctx)
	// A descriptor of its own: who waits at that of c is net/http.
	file, err := c.File()
	if err != nil {
		return ctx, cancel
	}
	giveBack := func() {
		cancel()
		_ = file.Close()
	}
	raw, err := file.SyscallConn()
	if err != nil {
		return ctx, giveBack
	}
	go func() {
		defer cancel()
		_ = raw.Read(hungUp) // It fails when the file is closed.
	}()
	return ctx, giveBack
}

// hungUp reports whether the other end of a socket is closed.
func hungUp(fd uintptr) bool {
	at := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLRDHUP}} //nolint:gosec // A small number.
	n, err := unix.Poll(at, 0)
	return err == nil && n > 0
}
