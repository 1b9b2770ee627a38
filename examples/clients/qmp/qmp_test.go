package qmp

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"net"
	"path/filepath"
	"testing"
	"time"
)

// machine plays QEMU on one connection: it answers each request with the lines
// that answer returns, and hangs up when that returns none.
func machine(t *testing.T, answer func(request) []any) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "qmp.sock")
	var listening net.ListenConfig
	listener, err := listening.Listen(t.Context(), "unix", path)
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		conn, err := listener.Accept()
		if err != nil {
			return
		}
		defer conn.Close() //nolint:errcheck // The client notices.
		out := json.NewEncoder(conn)
		out.Encode(map[string]any{"QMP": map[string]any{}}) //nolint:errcheck // The client notices.
		lines := bufio.NewScanner(conn)
		for lines.Scan() {
			var r request
			if json.Unmarshal(lines.Bytes(), &r) != nil {
				return
			}
			replies := []any{map[string]any{"return": map[string]any{}, "id": r.ID}}
			if r.Execute != "qmp_capabilities" {
				replies = answer(r)
			}
			if replies == nil {
				return
			}
			for _, reply := range replies {
				out.Encode(reply) //nolint:errcheck // The client notices.
			}
		}
	}()
	t.Cleanup(func() {
		listener.Close() //nolint:errcheck // The test ends with it.
		<-ended
	})
	return path
}

func dial(t *testing.T, path string) *Client {
	t.Helper()
	client, err := Dial(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := client.Close(); err != nil {
			t.Error(err)
		}
	})
	return client
}

func TestExecuteSkipsEventsAndReportsRefusals(t *testing.T) {
	t.Parallel()
	event := map[string]any{"event": "POWERDOWN", "data": map[string]any{}}
	client := dial(t, machine(t, func(r request) []any {
		if r.Execute == "query-uuid" {
			return []any{event, map[string]any{"return": map[string]any{"UUID": "u"}, "id": r.ID}, event}
		}
		return []any{map[string]any{"error": Error{Class: "CommandNotFound", Desc: "no " + r.Execute}, "id": r.ID}}
	}))
	for range 3 {
		if uuid, err := client.UUID(t.Context()); err != nil || uuid != "u" {
			t.Errorf("UUID = %q, %v", uuid, err)
		}
	}
	_, err := client.Status(t.Context())
	if refusal, ok := errors.AsType[*Error](err); !ok || refusal.Class != "CommandNotFound" || err.Error() != "query-status: no query-status" {
		t.Errorf("Status: %v, want QEMU's refusal", err)
	}
}

func TestALateAnswerIsNotTheNextOnes(t *testing.T) {
	t.Parallel()
	asked := make(chan struct{})
	var late uint64
	client := dial(t, machine(t, func(r request) []any {
		if r.Execute == "query-status" {
			late = r.ID
			close(asked)
			return []any{}
		}
		return []any{
			map[string]any{"return": map[string]any{"UUID": "late"}, "id": late},
			map[string]any{"return": map[string]any{"UUID": "mine"}, "id": r.ID},
		}
	}))
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		<-asked
		cancel()
	}()
	if _, err := client.Status(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("Status: %v, want that it was given up", err)
	}
	if uuid, err := client.UUID(t.Context()); err != nil || uuid != "mine" {
		t.Errorf("UUID = %q, %v, want its own answer", uuid, err)
	}
}

func TestEndPressesAgainAndThenQuits(t *testing.T) {
	t.Parallel()
	presses := 0
	client := dial(t, machine(t, func(r request) []any {
		if r.Execute == "quit" {
			return nil
		}
		presses++
		return []any{map[string]any{"return": map[string]any{}, "id": r.ID}}
	}))
	if err := client.End(t.Context(), pressAgain+pressAgain/2); err != nil {
		t.Fatal(err)
	}
	<-client.Done()
	if presses != 2 {
		t.Errorf("the button was pressed %d times, want 2", presses)
	}
	if _, err := client.UUID(t.Context()); !errors.Is(err, ErrClosed) {
		t.Errorf("UUID after the end: %v, want %v", err, ErrClosed)
	}
}

func TestDialGivesUp(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "qmp.sock")
	var listening net.ListenConfig
	listener, err := listening.Listen(t.Context(), "unix", path) // It never greets.
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close() //nolint:errcheck // The test ends with it.
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := Dial(ctx, path); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Dial: %v, want %v", err, context.DeadlineExceeded)
	}
}
