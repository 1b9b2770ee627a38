package fdstore_test

import (
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"tenure/internal/supervise/fdstore"
)

// event is a descriptor of its own.
func event(t *testing.T) *os.File {
	t.Helper()
	fd, err := unix.Eventfd(0, unix.EFD_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	return os.NewFile(uintptr(fd), "event")
}

// One snap does not take the room of others, nor that of the sockets of the supervisor.
func TestASnapLeavesRoom(t *testing.T) {
	t.Parallel()
	const enough = 1024
	c := newRoot(t).client(t)
	greedy, again, other := unit(t, "virt.virtd"), unit(t, "virt.vm@web1"), unit(t, "db.postgres")
	for i := range enough {
		f := event(t)
		put(t, c, greedy, fdstore.Stored, fmt.Sprint("x", i), f)
		f.Close()
	}
	f := event(t)
	defer f.Close()
	if err := c.Put(t.Context(), again, fdstore.Stored, "x", f); err == nil || !strings.Contains(err.Error(), fdstore.ErrFull.Error()) {
		t.Errorf("one more of the same snap: %v", err)
	}
	put(t, c, greedy, fdstore.Notify, "x", f)
	put(t, c, other, fdstore.Stored, "x", f)
	if err := c.Remove(t.Context(), greedy, fdstore.Stored, "x1"); err != nil {
		t.Error(err)
	}
	put(t, c, again, fdstore.Stored, "x", f)
	forget(t, c, greedy, again, other)
}

// A socket that its service has made to linger is waited for by nobody.
func TestASocketThatLingers(t *testing.T) {
	t.Parallel()
	c := newRoot(t).client(t)
	u := unit(t, "virt.virtd")
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	dialed, err := net.Dial("tcp", listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	conn, ok := dialed.(*net.TCPConn)
	if !ok {
		t.Fatalf("a %T", dialed)
	}
	// More than fits, so that there is something to wait for, and nobody reads.
	if err := errors.Join(conn.SetLinger(60), conn.SetWriteDeadline(time.Now().Add(time.Second))); err != nil {
		t.Fatal(err)
	}
	for err == nil {
		_, err = conn.Write(make([]byte, 1<<20))
	}
	file, err := conn.File()
	if err != nil {
		t.Fatal(err)
	}
	put(t, c, u, fdstore.Stored, "x", file)
	// What is left here does not linger: it is the same socket, and the last one is that of the holder.
	if err := errors.Join(conn.Close(), file.Close()); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	forget(t, c, u)
	if _, err := c.List(t.Context()); err != nil {
		t.Error(err)
	}
	if took := time.Since(began); took > 20*time.Second {
		t.Errorf("others had to wait for %s", took)
	}
}
