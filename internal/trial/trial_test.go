package trial

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"tenure/internal/squash"
)

func TestParseAnswer(t *testing.T) {
	t.Parallel()
	at := time.Unix(1, 0)
	for line, want := range map[string]answer{
		"ok 1.5":            {at: at, took: 1500 * time.Microsecond},
		"ok 0":              {at: at},
		"failed reset":      {at: at, failed: "reset"},
		"  ok   20  ":       {at: at, took: 20 * time.Millisecond},
		"failed by a \x1bx": {at: at, failed: "by a \x1bx"},
	} {
		if got := parseAnswer(line, at); got != want {
			t.Errorf("%q is %+v, want %+v", line, got, want)
		}
	}
	for _, line := range []string{"", "ok", "ok -1", "ok soon", "ok NaN", "ok +Inf", "ok 1e300", "OK 1", "failed"} {
		if got := parseAnswer(line, at); line != "failed" && got.failed == "" {
			t.Errorf("%q is an answer: %+v", line, got)
		}
	}
}

func TestParseTarget(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]target{
		"http://localhost:80/a?b": {"tcp", "localhost:80", "localhost:80", "/a?b"},
		"http://[::1]:8080":       {"tcp", "[::1]:8080", "[::1]:8080", "/"},
		"unix:web.sock":           {"unix", "/common/web.sock", "localhost", "/"},
	} {
		if got, err := parseTarget(text, "/common"); err != nil || got != want {
			t.Errorf("%q is %+v, %v, want %+v", text, got, err, want)
		}
	}
	for _, text := range []string{"", "unix:", "https://localhost:443/", "http://localhost/", "localhost:80", "http://:80/", "http://a b:80/"} {
		if got, err := parseTarget(text, "/common"); err == nil {
			t.Errorf("%q is %+v", text, got)
		}
	}
}

func TestBetween(t *testing.T) {
	t.Parallel()
	l := newLoad()
	for n := range 200 {
		a := answer{at: time.Unix(int64(n), 0), took: time.Duration(n) * time.Millisecond}
		if n%50 == 0 {
			a = answer{at: a.at, failed: fmt.Sprint("failure ", n)}
		}
		l.note(a)
	}
	got := l.between(time.Unix(100, 0), time.Unix(199, 0))
	if got.Requests != 100 || got.Failed != 2 || got.Slowest != 199 || got.Median < 140 || got.Median > 160 || got.P99 < 195 || strings.Join(got.Failures, ", ") != "failure 100, failure 150" {
		t.Errorf("%+v", got)
	}
	if got := l.between(time.Unix(1000, 0), time.Unix(2000, 0)); got.Requests != 0 || got.Failed != 0 {
		t.Errorf("%+v", got)
	}
}

// The built-in client counts what others would try again in silence.
func TestAskIsNotTriedAgain(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "s")
	var config net.ListenConfig
	listener, err := config.Listen(t.Context(), "unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	answers := []string{"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", "", "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nok", "HTTP/1.1 503 No\r\nContent-Length: 0\r\n\r\n"}
	go func() {
		for _, text := range answers {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			_, _ = http.ReadRequest(bufio.NewReader(conn))
			_, _ = conn.Write([]byte(text))
			_ = conn.Close()
		}
	}()
	to := target{"unix", path, "localhost", "/"}
	for n, text := range answers {
		if err := to.ask(context.WithoutCancel(t.Context())); (err == nil) != (n == 0) {
			t.Errorf("to %q: %v", text, err)
		}
	}
}

// A snap whose hooks are a link to a directory of the machine changes nothing there.
func TestBreakSnapWritesNowhereElse(t *testing.T) {
	t.Parallel()
	dir, programs, victim := t.TempDir(), t.TempDir(), t.TempDir()
	file, kept := filepath.Join(t.TempDir(), "a.snap"), filepath.Join(victim, "configure")
	err := errors.Join(
		os.Mkdir(filepath.Join(dir, "meta"), 0o755),
		os.WriteFile(filepath.Join(dir, "meta/snap.yaml"), []byte("name: a\nversion: '1'\n"), 0o600),
		os.WriteFile(filepath.Join(programs, "snapctl"), []byte("snapctl"), 0o600),
		os.WriteFile(kept, []byte("kept"), 0o600),
		squash.Build(t.Context(), dir, file, squash.BuildOptions{}),
	)
	if err != nil {
		t.Fatal(err)
	}
	broken, cleanUp, err := breakSnap(t.Context(), file, programs)
	if err != nil {
		t.Fatal(err)
	}
	defer cleanUp()
	if text, err := squash.Open(squash.Config{}).ReadFile(t.Context(), broken, "meta/hooks/configure", 100); string(text) != "snapctl" {
		t.Errorf("the hook is %q, %v", text, err)
	}
	err = errors.Join(os.Symlink(victim, filepath.Join(dir, "meta/hooks")), squash.Build(t.Context(), dir, file, squash.BuildOptions{}))
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := breakSnap(t.Context(), file, programs); !errors.Is(err, squash.ErrForbidden) {
		t.Errorf("hooks elsewhere: %v", err)
	}
	if text, err := os.ReadFile(kept); string(text) != "kept" {
		t.Errorf("elsewhere is %q, %v", text, err)
	}
}

func TestProblem(t *testing.T) {
	t.Parallel()
	old, other, next := &Process{PID: 1, Revision: "x1"}, &Process{PID: 2, Revision: "x1"}, &Process{PID: 2, Revision: "x2"}
	for _, test := range []struct {
		verdict       string
		before, after *Process
		current       string
		fails, bad    bool
	}{
		{"endure", old, old, "x2", false, false},
		{"endure", old, next, "x2", false, true},
		{"endure", old, nil, "x2", true, true},
		{"restart", old, next, "x2", false, false},
		{"restart", old, old, "x2", false, true},
		{"restart", old, other, "x2", false, true},
		{"restart", old, nil, "x2", false, true},
		{"restart", old, other, "x1", true, false},
		{"handover", old, old, "x1", true, false},
		{"reload", old, &Process{PID: 1, Revision: "x2"}, "x2", false, false},
		{"stop", old, nil, "x2", false, false},
		{"stop", old, old, "x2", false, true},
		{"restart", nil, nil, "x2", false, false},
	} {
		u := Unit{Verdict: test.verdict, Before: test.before, After: test.after}
		u.Survived = u.Before != nil && u.After != nil && u.Before.PID == u.After.PID
		if problem := u.problem(test.current, test.fails); (problem != "") != test.bad {
			t.Errorf("%+v: %q", test, problem)
		}
	}
}
