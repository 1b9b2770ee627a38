package hook

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"sync"
	"time"

	"tenure/internal/proc"
)

const (
	// maxCall bounds what one call sends, and callTime how long it may take to.
	maxCall  = 1 << 20
	callTime = 10 * time.Second
)

// ServeConfig is what snapctl is served with.
type ServeConfig struct {
	// Socket is the path to listen at.
	Socket string
	Host   Host
	Logger *slog.Logger
}

// Call is what snapctl sends: one of it, in JSON, on a connection of its own.
type Call struct {
	Args []string `json:"args"`
}

// Serve answers snapctl until ctx ends. Who calls is known by the control group of
// the process that connected, which it cannot choose, and by nothing that it says.
func Serve(ctx context.Context, cfg ServeConfig) error {
	cfg.Logger = cmp.Or(cfg.Logger, slog.New(slog.DiscardHandler))
	listener, err := listen(cfg.Socket)
	if err != nil {
		return fmt.Errorf("serve snapctl: %w", err)
	}
	stop := context.AfterFunc(ctx, func() { _ = listener.Close() })
	defer stop()
	var calls sync.WaitGroup
	defer calls.Wait()
	for {
		conn, err := listener.AcceptUnix()
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return fmt.Errorf("serve snapctl: %w", err)
		}
		calls.Go(func() {
			defer conn.Close() //nolint:errcheck // The answer is written, or nobody hears it.
			if err := cfg.serve(ctx, conn); err != nil {
				cfg.Logger.Debug("call of snapctl failed", slog.Any("error", err))
			}
		})
	}
}

// listen makes the socket in place of one that nobody listens at any more.
func listen(socket string) (*net.UnixListener, error) {
	if err := os.MkdirAll(filepath.Dir(socket), 0o755); err != nil {
		return nil, err
	}
	dir, err := os.Open(filepath.Dir(socket))
	if err != nil {
		return nil, err
	}
	defer dir.Close() //nolint:errcheck // Only looked at.
	if err := os.Remove(socket); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	// The path may be longer than a socket address has room for.
	short := fmt.Sprintf("/proc/self/fd/%d/%s", dir.Fd(), filepath.Base(socket))
	listener, err := net.ListenUnix("unix", &net.UnixAddr{Name: short, Net: "unix"})
	if err != nil {
		return nil, err
	}
	listener.SetUnlinkOnClose(false)
	// Every user of every unit may connect: the control group decides.
	return listener, os.Chmod(socket, 0o666) //nolint:gosec // See above.
}

func (cfg *ServeConfig) serve(ctx context.Context, conn *net.UnixConn) error {
	if err := conn.SetReadDeadline(time.Now().Add(callTime)); err != nil {
		return err
	}
	var call Call
	err := json.NewDecoder(io.LimitReader(conn, maxCall)).Decode(&call)
	if err != nil {
		return fmt.Errorf("read: %w", err)
	}
	reply := Reply{Status: 1}
	caller, err := cfg.caller(conn)
	if err != nil {
		reply.Stderr = "error: " + err.Error() + "\n"
	} else {
		reply = Execute(ctx, cfg.Host, caller, call.Args)
	}
	return json.NewEncoder(conn).Encode(reply)
}

// caller is who is at the other end.
func (cfg *ServeConfig) caller(conn *net.UnixConn) (Caller, error) {
	peer, err := proc.PeerOf(conn)
	if err != nil {
		return Caller{}, fmt.Errorf("see who calls: %w", err)
	}
	defer peer.Handle.Close()
	unit, err := cfg.Host.UnitOf(peer.Handle)
	return Caller{Unit: unit, UID: peer.UID}, err
}
