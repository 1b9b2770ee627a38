package native

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"tenure"
	"tenure/internal/supervise"
	"tenure/internal/supervise/supervisetest"
)

// silentFile is a file that a process serves which answers nothing after it was opened: not what
// file system it is, nor that it may be closed.
func silentFile(t *testing.T) int {
	t.Helper()
	server, err := unix.Open("/dev/fuse", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "silent")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	options := fmt.Sprintf("fd=%d,rootmode=100000,user_id=0,group_id=0", server)
	if err := unix.Mount("tenure-test", path, "fuse", unix.MS_NOSUID|unix.MS_NODEV, options); err != nil {
		t.Fatal(err)
	}
	served := make(chan struct{})
	t.Cleanup(func() {
		_ = unix.Unmount(path, unix.MNT_FORCE) // Whoever waits is told that it is gone.
		if err := errors.Join(unix.Unmount(path, unix.MNT_DETACH), unix.Close(server)); err != nil {
			t.Error(err)
		}
		<-served
	})
	go func() {
		defer close(served)
		serveSilently(server)
	}()
	// Who waits for something to read there waits, too.
	file, err := unix.Open(path, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	return file
}

// serveSilently answers in the protocol of fuse(4): the numbers are those of linux/fuse.h.
func serveSilently(server int) {
	const initialize, getattr, open, access = 26, 3, 14, 34
	request := make([]byte, 1<<20)
	for {
		n, err := unix.Read(server, request)
		if err != nil || n < 40 {
			return
		}
		var body []byte
		failed := int32(0)
		switch binary.NativeEndian.Uint32(request[4:]) {
		case initialize:
			body = make([]byte, 64)
			binary.NativeEndian.PutUint32(body, 7)
			binary.NativeEndian.PutUint32(body[4:], 31)
			binary.NativeEndian.PutUint32(body[20:], 4096)
		case getattr:
			body = make([]byte, 104)
			binary.NativeEndian.PutUint64(body[16:], 1)
			binary.NativeEndian.PutUint32(body[76:], unix.S_IFREG|0o644)
			binary.NativeEndian.PutUint32(body[80:], 1)
		case open:
			body = make([]byte, 16)
		case access:
			failed = -int32(unix.ENOSYS)
		default:
			continue
		}
		answer := binary.NativeEndian.AppendUint32(nil, uint32(16+len(body))) //nolint:gosec // It is small.
		answer = binary.NativeEndian.AppendUint32(answer, uint32(failed))     //nolint:gosec // Its bits.
		answer = append(append(answer, request[8:16]...), body...)
		if _, err := unix.Write(server, answer); err != nil {
			return
		}
	}
}

// tellWith sends a datagram with a file to the socket of a unit, as a process: root may say so.
func tellWith(t *testing.T, u *unit, text string, file, pid int) {
	t.Helper()
	conn, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(conn)                                                                      //nolint:errcheck // What is sent is sent.
	oob := append(unix.UnixRights(file), unix.UnixCredentials(&unix.Ucred{Pid: int32(pid)})...) //nolint:gosec // A pid.
	to := &unix.SockaddrUnix{Name: filepath.Join(u.dir(), notifyName)}
	if err := unix.Sendmsg(conn, []byte(text), oob, to, 0); err != nil {
		t.Fatal(err)
	}
}

// Nobody makes the supervisor wait by files that do not answer, neither a stranger nor the service.
func TestFilesThatDoNotAnswer(t *testing.T) {
	t.Parallel()
	s := newRoot(t).supervisor(t)
	senders := map[*unit]int{}
	for _, name := range []string{"stranger", "own"} {
		spec := service(t, name, supervisetest.Program{Notify: true})
		if err := s.Start(t.Context(), spec); err != nil {
			t.Fatal(err)
		}
		u, _ := s.find(spec.Unit)
		senders[u] = os.Getpid()
		if name == "own" {
			senders[u] = statusOf(t, s, spec.Unit).Main.PID
		}
	}
	// A process that has it open cannot even execute a program.
	file := silentFile(t)
	for u, pid := range senders {
		for range maxLooks + 1 {
			tellWith(t, u, "FDSTORE=1\nFDNAME=silent", file, pid)
		}
	}
	go unix.Close(file) //nolint:errcheck // It ends with who serves it.
	for u := range senders {
		began := time.Now()
		if _, err := s.Stop(t.Context(), supervise.StopRequest{Units: []tenure.UnitID{u.id}}); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(began); took > 30*time.Second {
			t.Errorf("the stop of %s took %s", u.id, took)
		}
	}
}
