package relay_test

import (
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"tenure/internal/relay"
)

// pair are both ends of a connection.
func pair(t *testing.T) (here *relay.Conn, there *net.UnixConn) {
	t.Helper()
	at := &net.UnixAddr{Name: filepath.Join(t.TempDir(), "s"), Net: "unix"}
	listener, err := net.ListenUnix("unix", at)
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close() //nolint:errcheck // Only listened at.
	there, err = net.DialUnix("unix", nil, at)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { there.Close() })
	accepted, err := listener.AcceptUnix()
	if err != nil {
		t.Fatal(err)
	}
	here = relay.New(accepted, nil)
	t.Cleanup(func() { here.Close() })
	return here, there
}

func say(t *testing.T, to io.Writer, text string) {
	t.Helper()
	if _, err := io.WriteString(to, text); err != nil {
		t.Fatal(err)
	}
}

func hear(t *testing.T, from io.Reader, n int) string {
	t.Helper()
	text := make([]byte, n)
	if _, err := io.ReadFull(from, text); err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// next is the one connection in the box, as the next program has it.
func next(t *testing.T, box *relay.Box) *relay.Conn {
	t.Helper()
	kept := box.Kept()
	if len(kept) != 1 {
		t.Fatalf("the box has %d connections, want 1", len(kept))
	}
	conn, err := kept[0].Conn()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

// A connection on which nothing is asked is passed from under its reader, which sees the end; the other end sees nothing.
func TestQuiet(t *testing.T) {
	t.Parallel()
	here, there := pair(t)
	var box relay.Box
	if box.Quiet(here, "door") {
		t.Fatal("a closed box has taken a connection")
	}
	box.Open()
	say(t, there, "one")
	if got := hear(t, here, 3); got != "one" {
		t.Fatalf("read %q", got)
	}
	if box.Quiet(here, "door") {
		t.Fatal("one on which something is asked was taken")
	}
	say(t, here, "two")
	if got := hear(t, there, 3); got != "two" {
		t.Fatalf("the answer is %q", got)
	}
	read := make(chan error, 1)
	go func() {
		_, err := here.Read(make([]byte, 1))
		read <- err
	}()
	if !box.Quiet(here, "door") || box.Quiet(here, "door") {
		t.Fatal("one that was answered is not taken, or is twice")
	}
	say(t, there, "three")
	if err := <-read; !errors.Is(err, io.EOF) {
		t.Fatalf("who read it sees %v, want the end", err)
	}
	if err := here.Close(); err != nil {
		t.Fatal(err)
	}
	conn := next(t, &box)
	if got := hear(t, conn, 5); got != "three" {
		t.Errorf("the next program reads %q", got)
	}
	say(t, conn, "four")
	if got := hear(t, there, 4); got != "four" {
		t.Errorf("the other end reads %q", got)
	}
}

// What was read is passed, and what was to be read once more, and comes before what follows.
func TestAsked(t *testing.T) {
	t.Parallel()
	here, there := pair(t)
	var box relay.Box
	box.Open()
	say(t, there, "question")
	if got := hear(t, here, 8); got != "question" {
		t.Fatalf("read %q", got)
	}
	if !box.Asked(here, relay.Passed{Door: "door", Said: []byte("question"), Change: 7}) {
		t.Fatal("it is not taken")
	}
	kept := box.Kept()[0]
	if kept.File = nil; !cmp.Equal(kept, relay.Passed{Door: "door", Said: []byte("question"), Change: 7}) {
		t.Errorf("what is passed is %+v", kept)
	}
	say(t, there, " and more")
	second := next(t, &box)
	if box.Quiet(second, "door") || !second.Again() {
		t.Error("what is to be read again is no question")
	}
	if got := hear(t, second, 3); got != "que" {
		t.Errorf("the second program reads %q", got)
	}
	var further relay.Box
	further.Open()
	if !further.Asked(second, relay.Passed{Said: []byte("que")}) {
		t.Fatal("it is not taken by the third")
	}
	third := next(t, &further)
	if got := hear(t, third, 17); got != "question and more" || third.Again() {
		t.Errorf("the third program reads %q", got)
	}
}

// The gate keeps what net.Conn promises: deadlines, the end, and errors of its own.
func TestRead(t *testing.T) {
	t.Parallel()
	here, there := pair(t)
	if err := here.SetReadDeadline(time.Unix(1, 0)); err != nil {
		t.Fatal(err)
	}
	_, err := here.Read(make([]byte, 1))
	if failed, is := errors.AsType[net.Error](err); !is || !failed.Timeout() || !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("after the deadline: %v", err)
	}
	if err := errors.Join(here.SetReadDeadline(time.Time{}), there.Close()); err != nil {
		t.Fatal(err)
	}
	if n, err := here.Read(make([]byte, 1)); n != 0 || !errors.Is(err, io.EOF) {
		t.Errorf("at the end: %d, %v", n, err)
	}
	if err := here.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := here.Read(make([]byte, 1)); !errors.Is(err, net.ErrClosed) {
		t.Errorf("when closed: %v", err)
	}
}

// What was read from many connections takes no more room than there is; who finds none is not passed.
func TestThereIsABoundOnWhatWasSaid(t *testing.T) {
	t.Parallel()
	var box relay.Box
	box.Open()
	half := make([]byte, 2<<20)
	for i, want := range []bool{true, true, false} {
		here, _ := pair(t)
		if got := box.Asked(here, relay.Passed{Said: half}); got != want {
			t.Errorf("connection %d is taken: %v, want %v", i, got, want)
		}
	}
	here, _ := pair(t)
	if !box.Quiet(here, "door") {
		t.Error("one on which nothing was said is not taken")
	}
	for _, p := range box.Kept() {
		if err := p.File.Close(); err != nil {
			t.Error(err)
		}
	}
}
