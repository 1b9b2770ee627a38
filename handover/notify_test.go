package handover

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// ear is where a supervisor hears of its services.
func ear(t *testing.T) (address string, conn *net.UnixConn) {
	t.Helper()
	address = filepath.Join(t.TempDir(), "notify")
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: address, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return address, conn
}

// hear is the next datagram, and the descriptors that came with it.
func hear(t *testing.T, conn *net.UnixConn) (said string, descriptors []int) {
	t.Helper()
	data, control := make([]byte, 4096), make([]byte, 4096)
	size, controlSize, _, _, err := conn.ReadMsgUnix(data, control)
	if err != nil {
		t.Fatal(err)
	}
	messages, err := syscall.ParseSocketControlMessage(control[:controlSize])
	if err != nil {
		t.Fatal(err)
	}
	for i := range messages {
		if descriptors, err = syscall.ParseUnixRights(&messages[i]); err != nil {
			t.Fatal(err)
		}
	}
	return string(data[:size]), descriptors
}

// What is sent with a descriptor is the file itself.
func TestDescriptorsAreSent(t *testing.T) {
	t.Parallel()
	address, conn := ear(t)
	file, err := os.CreateTemp(t.TempDir(), "")
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close() //nolint:errcheck // Nothing was written.
	if err := send(t.Context(), address, "FDSTORE=1\nFDNAME=cache", file); err != nil {
		t.Fatal(err)
	}
	said, descriptors := hear(t, conn)
	if diff := cmp.Diff("FDSTORE=1\nFDNAME=cache", said); diff != "" || len(descriptors) != 1 {
		t.Fatalf("heard with %d descriptors (-want +got):\n%s", len(descriptors), diff)
	}
	got := os.NewFile(uintptr(descriptors[0]), "") //nolint:gosec // A descriptor.
	defer got.Close()                              //nolint:errcheck // Nothing was written.
	want, wantErr := file.Stat()
	info, err := got.Stat()
	if err := errors.Join(wantErr, err); err != nil || !os.SameFile(want, info) {
		t.Errorf("another file was heard: %v, %v", info, err)
	}
}

// Who passes a barrier goes on when all before it has been heard, and not sooner.
func TestABarrierIsPassedWhenAllIsHeard(t *testing.T) {
	t.Parallel()
	address, conn := ear(t)
	if err := send(t.Context(), address, "MAINPID=7", nil); err != nil {
		t.Fatal(err)
	}
	passed := make(chan error, 1)
	go func() { passed <- pass(t.Context(), address) }()
	if said, _ := hear(t, conn); said != "MAINPID=7" {
		t.Errorf("heard %q", said)
	}
	said, descriptors := hear(t, conn)
	if said != "BARRIER=1" || len(descriptors) != 1 {
		t.Fatalf("heard %q with %d descriptors", said, len(descriptors))
	}
	select {
	case err := <-passed:
		t.Errorf("the barrier was passed before its descriptor was closed: %v", err)
	default:
	}
	if err := syscall.Close(descriptors[0]); err != nil {
		t.Fatal(err)
	}
	if err := <-passed; err != nil {
		t.Error(err)
	}
}

// Nobody waits at a barrier for longer than it may, nor where nobody listens.
func TestABarrierThatNobodyHears(t *testing.T) {
	t.Parallel()
	address, _ := ear(t)
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if err := pass(ctx, address); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a barrier that nobody hears: %v", err)
	}
	if err := pass(t.Context(), ""); err != nil {
		t.Errorf("a barrier of nobody: %v", err)
	}
}
