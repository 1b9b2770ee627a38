// Command hellod says which revision and process it is to whoever connects to
// its socket: the service of the example package.
//
// It is ready when its socket is, and says so to its supervisor. SIGTERM ends
// it at once: an answer takes less time than a grace period is worth.
//
//nolint:forbidigo // The whole program is its main: it reads and ends its own process.
package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"

	"tenure/examples/clients/hello"
	"tenure/examples/clients/notify"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	if err := serve(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "hellod:", err)
		os.Exit(1)
	}
}

func serve(ctx context.Context) error {
	path := os.Getenv("HELLO_SOCKET")
	if path == "" {
		path = filepath.Join(os.Getenv("SNAP_COMMON"), hello.Socket)
	}
	// Whoever listened here before has been killed, or left on purpose.
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("listen: %w", err)
	}
	listener, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return fmt.Errorf("listen: %w", err)
	}
	// The file may be a successor's by the time this process ends.
	listener.SetUnlinkOnClose(false)
	if err := notify.Send(ctx, os.Getenv("NOTIFY_SOCKET"), "READY=1"); err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() { listener.Close() }) //nolint:errcheck // The accept loop ends with it.
	defer stop()
	for {
		conn, err := listener.Accept()
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return fmt.Errorf("accept: %w", err)
		}
		answer(conn)
	}
}

// answer reads the version from the revision's own files each time: they must
// be there for as long as this process is.
func answer(conn net.Conn) {
	defer conn.Close() //nolint:errcheck // The client has read its answer or gone.
	version, err := os.ReadFile(filepath.Join(os.Getenv("SNAP"), "version"))
	if err != nil {
		fmt.Fprintln(os.Stderr, "hellod:", err)
		return
	}
	reply := hello.Answer{
		Revision: os.Getenv("SNAP_REVISION"),
		Version:  strings.TrimSpace(string(version)),
		PID:      os.Getpid(),
	}
	if _, err := conn.Write([]byte(reply.String())); err != nil {
		fmt.Fprintln(os.Stderr, "hellod:", err)
	}
}
