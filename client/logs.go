package client

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// Logs yields the last n lines of the named services and units, and with follow
// all further ones until ctx ends or each returns an error. A daemon that ends while
// it is followed is waited for: the next one goes on with the line after the last.
func (c *Client) Logs(ctx context.Context, names []string, n int, follow bool, each func(Log) error) error {
	query := url.Values{"names": {strings.Join(names, ",")}, "n": {strconv.Itoa(n)}, "follow": {strconv.FormatBool(follow)}}
	seen := &lastSeen{each: each, floor: time.Now(), last: map[string]Log{}, behind: map[string]bool{}}
	inVain := 0
	for connected := false; ; connected = true {
		read, begun := seen.read, time.Now()
		err := c.readLogs(ctx, query, seen.line)
		_, lost := errors.AsType[*lostError](err)
		gone := connected && (errors.Is(err, ErrNoDaemon) || cutOff(err))
		switch {
		case ctx.Err() != nil:
			return nil //nolint:nilerr // Nobody wants more.
		case !follow && lost && errors.Is(err, io.EOF):
			return nil
		case !follow || !lost && !gone:
			return err
		}
		waited, waitErr := c.awaitDaemon(ctx)
		if ctx.Err() != nil {
			return nil //nolint:nilerr // Nobody wants more.
		}
		// One that was replaced answers at once, and has kept a log for a while in which there is nothing new.
		if inVain++; waited || seen.read > read || time.Since(begun) > time.Second {
			inVain = 0
		}
		if waitErr != nil || inVain > maxInVain {
			return errors.Join(err, waitErr)
		}
		seen.again(query)
	}
}

// cutOff reports whether a daemon has ended that was connected to and had not answered yet.
func cutOff(err error) bool {
	return errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE) || errors.Is(err, io.EOF)
}

// maxInVain is how often in a row a daemon may end an answer at once.
const maxInVain = 3

// lostError is that the connection ended before the answer did.
type lostError struct{ err error }

func (e *lostError) Error() string { return "read logs: " + e.err.Error() }
func (e *lostError) Unwrap() error { return e.err }

func (c *Client) readLogs(ctx context.Context, query url.Values, each func(Log) error) error {
	resp, err := c.request(ctx, call{method: http.MethodGet, path: "/v2/logs", query: query})
	if err != nil {
		return err
	}
	if resp.StatusCode != http.StatusOK {
		_, err := decode(resp, nil)
		return err
	}
	defer resp.Body.Close() //nolint:errcheck // Ended by its context.
	// json-seq (RFC 7464): a record separator before each value.
	decoder := json.NewDecoder(withoutSeparators{resp.Body})
	for {
		var line Log
		if err := decoder.Decode(&line); err != nil {
			return &lostError{err}
		}
		if err := each(line); err != nil {
			return err
		}
	}
}

// lastSeen knows where to go on in each log.
type lastSeen struct {
	each func(Log) error
	// read counts the lines that were passed on.
	read int
	// floor is the time of the first line: what a log had before was not asked for.
	floor time.Time
	// last is the last line of each log; behind are the logs of which lines come once more.
	last   map[string]Log
	behind map[string]bool
	// resumed is that all lines come once more, also of logs of which none was seen.
	resumed bool
}

func (s *lastSeen) line(line Log) error {
	last, known := s.last[line.SID]
	switch {
	case s.behind[line.SID] && !after(line, last), s.resumed && !known && line.Timestamp.Before(s.floor):
		return nil
	case s.read == 0 && line.Timestamp.Before(s.floor):
		s.floor = line.Timestamp
	}
	delete(s.behind, line.SID)
	s.last[line.SID] = line
	s.read++
	return s.each(line)
}

// after reports whether a stands behind b in the log of both.
func after(a, b Log) bool {
	return a.Segment > b.Segment || a.Segment == b.Segment && a.End > b.End
}

// again makes query ask for all lines, for only the client knows which it has seen.
func (s *lastSeen) again(query url.Values) {
	query.Set("n", "-1")
	s.resumed = true
	for unit := range s.last {
		s.behind[unit] = true
	}
}

// awaitDaemon returns when a daemon answers at the socket, and tells whether it had to
// wait. Whoever starts one makes the socket, and then sets its mode.
func (c *Client) awaitDaemon(ctx context.Context) (waited bool, err error) {
	fd, err := syscall.InotifyInit1(syscall.IN_CLOEXEC | syscall.IN_NONBLOCK)
	if err != nil {
		return false, fmt.Errorf("wait for tenured: %w", err)
	}
	changes := os.NewFile(uintptr(fd), "inotify") //nolint:gosec // A descriptor.
	defer changes.Close()                         //nolint:errcheck // Only read from.
	const events = syscall.IN_CREATE | syscall.IN_MOVED_TO | syscall.IN_ATTRIB
	if _, err := syscall.InotifyAddWatch(fd, filepath.Dir(c.socket), events); err != nil {
		return false, fmt.Errorf("wait for tenured: %w", err)
	}
	stop := context.AfterFunc(ctx, func() { _ = changes.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	for buf := make([]byte, 4096); ; waited = true {
		conn, err := dial(ctx, c.socket)
		if err == nil {
			return waited, conn.Close()
		}
		if _, err := changes.Read(buf); err != nil {
			return waited, fmt.Errorf("wait for tenured: %w", err)
		}
	}
}

type withoutSeparators struct{ io.Reader }

const recordSeparator = 0x1e

func (r withoutSeparators) Read(p []byte) (int, error) {
	n, err := r.Reader.Read(p)
	for i := range p[:n] {
		if p[i] == recordSeparator {
			p[i] = ' '
		}
	}
	return n, err
}
