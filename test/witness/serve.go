package witness

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"tenure/examples/clients/notify"
)

// server answers questions until it is told to end.
type server struct {
	files map[int]string
	// mapped is a shared mapping of a file, for a last store that the kernel does
	// not hear of.
	mapped []byte
}

// Config is what a served witness was started with.
type Config struct {
	// Socket is where it answers, Supervisor where it says that it does.
	Socket, Supervisor string
	// Inherited are the descriptors that the process was started with.
	Inherited map[int]string
}

// Serve answers until ctx ends, and then stores into what it was asked to map.
func Serve(ctx context.Context, cfg Config) error {
	s, socket := &server{files: cfg.Inherited}, cfg.Socket
	if err := os.Remove(socket); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("listen: %w", err)
	}
	listener, err := net.ListenUnix("unix", &net.UnixAddr{Name: socket, Net: "unix"})
	if err != nil {
		return fmt.Errorf("listen: %w", err)
	}
	// The file may be a successor's by the time this process ends.
	listener.SetUnlinkOnClose(false)
	if err := notify.Send(ctx, cfg.Supervisor, "READY=1"); err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() { listener.Close() }) //nolint:errcheck // The accept loop ends with it.
	defer stop()
	for {
		conn, err := listener.Accept()
		if ctx.Err() != nil {
			copy(s.mapped, "stored at the end")
			return nil
		}
		if err != nil {
			return fmt.Errorf("accept: %w", err)
		}
		s.answer(conn)
	}
}

func (s *server) answer(conn net.Conn) {
	defer conn.Close() //nolint:errcheck // Whoever asked sees that it is cut off.
	var q Question
	if err := json.NewDecoder(conn).Decode(&q); err != nil {
		return
	}
	a, err := s.do(q)
	if err != nil {
		a.Err = err.Error()
	}
	_ = json.NewEncoder(conn).Encode(a)
}

func (s *server) do(q Question) (a Answer, err error) {
	switch q.Do {
	case "report":
		if a.Report, err = Take(); err == nil {
			a.Report.Files = s.files
		}
	case "list":
		var entries []os.DirEntry
		entries, err = os.ReadDir(q.Path)
		names := make([]string, 0, len(entries))
		for _, entry := range entries {
			names = append(names, entry.Name())
		}
		a.Text = strings.Join(names, " ")
	case "read":
		var text []byte
		text, err = os.ReadFile(q.Path)
		a.Text = string(text)
	case "link":
		a.Text, err = os.Readlink(q.Path)
	case "mode":
		var info os.FileInfo
		if info, err = os.Lstat(q.Path); err == nil {
			a.Text = info.Mode().String()
		}
	case "write":
		err = os.WriteFile(q.Path, []byte(q.Text), 0o644) //nolint:gosec // A test's own file.
	case "mount":
		err = errors.Join(os.MkdirAll(q.Path, 0o755), unix.Mount("witness", q.Path, "tmpfs", 0, ""))
	case "unmount":
		err = unix.Unmount(q.Path, 0)
	case "map":
		err = s.mapFile(q.Path)
	default:
		err = fmt.Errorf("%q is none of my words", q.Do) //nolint:err113 // It is told, not told apart.
	}
	return a, err
}

// mapFile maps the file that is made at path, and makes its page dirty, so that
// further stores need no help of the kernel.
func (s *server) mapFile(path string) error {
	const size = 4096
	if err := os.WriteFile(path, make([]byte, size), 0o600); err != nil {
		return fmt.Errorf("map: %w", err)
	}
	f, err := os.OpenFile(filepath.Clean(path), os.O_RDWR, 0)
	if err != nil {
		return fmt.Errorf("map: %w", err)
	}
	s.mapped, err = unix.Mmap(int(f.Fd()), 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err := errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("map: %w", err)
	}
	copy(s.mapped, "stored early")
	return nil
}
