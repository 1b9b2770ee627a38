package proc_test

import (
	"bytes"
	"errors"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"tenure/internal/proc"
)

// accepted is the listening end of a connection that connect makes.
func accepted(t *testing.T, connect func(path string)) *net.UnixConn {
	t.Helper()
	path := filepath.Join(t.TempDir(), "s")
	listener, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = listener.Close() })
	connect(path)
	conn, err := listener.AcceptUnix()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

func TestPeerIsWhoConnected(t *testing.T) {
	t.Parallel()
	conn := accepted(t, func(path string) {
		client, err := net.Dial("unix", path)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = client.Close() })
	})
	peer, err := proc.PeerOf(conn)
	if err != nil {
		t.Fatal(err)
	}
	defer peer.Handle.Close()
	self, err := proc.Read(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	if peer.Handle.Process() != self.Process || int(peer.UID) != os.Getuid() || int(peer.GID) != os.Getgid() {
		t.Errorf("peer %+v is %v, want %v", peer, peer.Handle.Process(), self.Process)
	}
}

// A peer that has ended is nobody, even if the pid is somebody's again.
func TestPeerThatHasEnded(t *testing.T) {
	t.Parallel()
	conn := accepted(t, func(path string) {
		// Perl is essential in Debian.
		out, err := exec.CommandContext(t.Context(), "perl", "-MSocket", "-e",
			`socket(S, AF_UNIX, SOCK_STREAM, 0); connect(S, pack_sockaddr_un($ARGV[0])) or die $!; print "connected"`, path).CombinedOutput()
		if err != nil || !bytes.Contains(out, []byte("connected")) {
			t.Fatalf("connect: %s, %v", out, err)
		}
	})
	if peer, err := proc.PeerOf(conn); !errors.Is(err, proc.ErrGone) {
		t.Errorf("peer %+v, %v; want an error of kind ErrGone", peer, err)
	}
}
