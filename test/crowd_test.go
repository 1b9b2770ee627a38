package test

import (
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"tenure/test/rig"
)

// A user who takes all connections that there are for one takes them from nobody else.
func TestAUserDoesNotTakeTheConnectionsOfOthers(t *testing.T) {
	t.Parallel()
	const most, nobody, other = 64, 65534, 65533
	i := rig.New(t, rig.Config{})
	for n := range most + 1 {
		conn, err := dialAs(t.Context(), i.Path("run/tenure/tenured.sock"), nobody)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		if n < most {
			continue
		}
		if err := conn.SetReadDeadline(time.Now().Add(rig.Patience)); err != nil {
			t.Fatal(err)
		}
		if _, err := conn.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
			t.Errorf("one connection more: %v", err)
		}
	}
	for _, uid := range []int{0, other} {
		if answer := apiOf(t, i, uid).get("/v2/system-info"); answer.StatusCode != http.StatusOK {
			t.Errorf("user %d: %+v", uid, answer)
		}
	}
}

// A daemon that may open no file more lives on, and answers when it may again.
func TestCallsOfSnapctlWaitForDescriptors(t *testing.T) {
	t.Parallel()
	i := rig.New(t, rig.Config{})
	socket := i.Path("run/tenure/snapctl/snapctl.sock")
	// This waits until it is listened at.
	i.Exec("/usr/bin/env", "TENURE_SNAPCTL_SOCKET="+socket, filepath.Join(i.Bin, "snapctl"), "version")
	var before unix.Rlimit
	if err := unix.Prlimit(i.PID(), unix.RLIMIT_NOFILE, nil, &before); err != nil {
		t.Fatal(err)
	}
	if err := unix.Prlimit(i.PID(), unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: 1, Max: before.Max}, nil); err != nil {
		t.Fatal(err)
	}
	conn, err := dialAs(t.Context(), socket, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := io.WriteString(conn, `{"args": ["version"]}`); err != nil {
		t.Fatal(err)
	}
	for !strings.Contains(i.Said(), "calls of snapctl have to wait") {
		select {
		case <-i.Ended():
			t.Fatalf("the daemon has ended: %s", i.Said())
		case <-time.After(10 * time.Millisecond):
		}
	}
	if err := unix.Prlimit(i.PID(), unix.RLIMIT_NOFILE, &before, nil); err != nil {
		t.Fatal(err)
	}
	var reply struct{ Stderr string }
	if err := json.NewDecoder(conn).Decode(&reply); err != nil || !strings.Contains(reply.Stderr, "of no unit") {
		t.Errorf("%+v, %v", reply, err)
	}
}
