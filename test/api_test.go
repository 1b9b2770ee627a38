package test

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"mime/multipart"
	"net"
	"net/http"
	"os"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"tenure/test/rig"
)

// envelope is the answer of snapd's REST API v2, read without our own client.
type envelope struct {
	Type       string          `json:"type"`
	StatusCode int             `json:"status-code"`
	Status     string          `json:"status"`
	Result     json.RawMessage `json:"result"`
	Change     string          `json:"change"`

	header http.Header
}

// api speaks HTTP to the socket of an instance.
type api struct {
	t    *testing.T
	http *http.Client
}

// apiOf talks to i as a user: the kernel tells the daemon who connects.
func apiOf(t *testing.T, i *rig.Instance, uid int) *api {
	t.Helper()
	socket := i.Path("run", "tenure", "tenured.sock")
	transport := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return dialAs(ctx, socket, uid)
	}}
	t.Cleanup(transport.CloseIdleConnections)
	return &api{t: t, http: &http.Client{Transport: transport}}
}

// dialAs connects from a thread that has become uid, and ends with it.
func dialAs(ctx context.Context, socket string, uid int) (conn net.Conn, err error) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread()
		if uid != 0 {
			if _, _, errno := unix.RawSyscall(unix.SYS_SETRESUID, uintptr(uid), uintptr(uid), uintptr(uid)); errno != 0 {
				err = errno
				return
			}
		}
		conn, err = new(net.Dialer).DialContext(ctx, "unix", socket)
	}()
	<-done
	return conn, err
}

func (a *api) do(method, path, contentType string, body io.Reader) envelope {
	a.t.Helper()
	req, err := http.NewRequestWithContext(a.t.Context(), method, "http://localhost"+path, body)
	if err != nil {
		a.t.Fatal(err)
	}
	if contentType != "" {
		req.Header.Set("Content-Type", contentType)
	}
	resp, err := a.http.Do(req)
	if err != nil {
		a.t.Fatal(err)
	}
	defer resp.Body.Close() //nolint:errcheck // Read to its end.
	e := envelope{header: resp.Header}
	if err := json.NewDecoder(resp.Body).Decode(&e); err != nil {
		a.t.Fatalf("%s %s: %v", method, path, err)
	}
	if e.StatusCode != resp.StatusCode || e.Status != http.StatusText(resp.StatusCode) {
		a.t.Errorf("%s %s: status %d in the answer and %d before it", method, path, e.StatusCode, resp.StatusCode)
	}
	if media := resp.Header.Get("Content-Type"); media != "application/json" {
		a.t.Errorf("%s %s: content type %q", method, path, media)
	}
	return e
}

func (a *api) get(path string) envelope { a.t.Helper(); return a.do(http.MethodGet, path, "", nil) }

// failure is what an answer of type error says.
func (e envelope) failure(t *testing.T) (kind, message string) {
	t.Helper()
	var result struct{ Kind, Message string }
	if err := json.Unmarshal(e.Result, &result); err != nil || e.Type != "error" {
		t.Errorf("no error: %s %s (%v)", e.Type, e.Result, err)
	}
	return result.Kind, result.Message
}

// object is the result, the first of a list.
func (e envelope) object(t *testing.T) map[string]any {
	t.Helper()
	var list []map[string]any
	if json.Unmarshal(e.Result, &list) == nil && len(list) > 0 {
		return list[0]
	}
	var object map[string]any
	if err := json.Unmarshal(e.Result, &object); err != nil {
		t.Fatalf("no object: %s", e.Result)
	}
	return object
}

// form is a request to install a file, as snapd's clients send it.
func form(t *testing.T, fields map[string]string, file string) (contentType string, body io.Reader) {
	t.Helper()
	var buf bytes.Buffer
	w := multipart.NewWriter(&buf)
	for name, value := range fields {
		if err := w.WriteField(name, value); err != nil {
			t.Fatal(err)
		}
	}
	if file != "" {
		raw, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		part, err := w.CreateFormFile("snap", file)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := part.Write(raw); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return w.FormDataContentType(), &buf
}

func TestAPIHasTheShapesOfSnapd(t *testing.T) {
	t.Parallel()
	i := rig.New(t, rig.Config{})
	a := apiOf(t, i, 0)

	contentType, body := form(t, map[string]string{"action": "install", "dangerous": "true", "unaliased": "true"}, snap(t, "hello", "1"))
	begun := a.do(http.MethodPost, "/v2/snaps", contentType, body)
	if begun.Type != "async" || begun.StatusCode != http.StatusAccepted || begun.Change != "1" {
		t.Fatalf("an install is answered by %+v", begun)
	}
	if _, err := i.Client().Follow(t.Context(), begun.Change, 0); err != nil {
		t.Fatal(err)
	}
	i.Tenure("watch", begun.Change)

	change := a.get("/v2/changes/1").object(t)
	wantFields(t, change, map[string]any{"id": "1", "kind": "install-snap", "status": "Done", "ready": true})
	data, _ := change["data"].(map[string]any)
	wantFields(t, data, map[string]any{"snap-name": "hello"})
	if names, _ := data["snap-names"].([]any); len(names) != 1 || names[0] != "hello" {
		t.Errorf("the names of the snaps are %v", data["snap-names"])
	}
	tasks, _ := change["tasks"].([]any)
	task, _ := tasks[0].(map[string]any)
	wantFields(t, task, map[string]any{"status": "Done", "kind": "prepare-snap"})
	if progress, _ := task["progress"].(map[string]any); progress["total"] != 1.0 {
		t.Errorf("progress of a task: %v", task["progress"])
	}

	hello := a.get("/v2/snaps/hello").object(t)
	wantFields(t, hello, map[string]any{"name": "hello", "revision": "x1", "status": "active", "version": "1", "type": "app"})
	wantFields(t, a.get("/v2/apps?select=service").object(t), map[string]any{"snap": "hello", "name": "hellod", "active": true, "enabled": true})
	wantFields(t, a.get("/v2/system-info").object(t), map[string]any{"series": "16", "on-classic": true})
	if e := a.get("/v2/changes?select=in-progress"); e.Type != "sync" || string(e.Result) != "[]" {
		t.Errorf("no changes are %s", e.Result)
	}

	set := a.do(http.MethodPut, "/v2/snaps/core/conf", "application/json", strings.NewReader(`{"refresh.retain": "4"}`))
	if set.Type != "async" || set.Change == "" {
		t.Fatalf("a configuration is answered by %+v", set)
	}
	i.Tenure("watch", set.Change)
	wantFields(t, a.get("/v2/snaps/system/conf?keys=refresh.retain").object(t), map[string]any{"refresh.retain": 4.0})
	if kind, _ := a.get("/v2/snaps/system/conf?keys=no.such").failure(t); kind != "option-not-found" {
		t.Errorf("an option that is not there is %q", kind)
	}
}

func wantFields(t *testing.T, object, want map[string]any) {
	t.Helper()
	for name, value := range want {
		if object[name] != value {
			t.Errorf("%s is %v, want %v", name, object[name], value)
		}
	}
}

// TestAPIRefusesBadRequests sends what no client should. Each is told in one
// sentence what is wrong, and nothing is changed.
func TestAPIRefusesBadRequests(t *testing.T) {
	t.Parallel()
	i := rig.New(t, rig.Config{})
	i.Tenure("install", "--dangerous", snap(t, "hello", "1"))
	a := apiOf(t, i, 0)
	const asJSON = "application/json"
	for _, c := range []struct {
		name, method, path, contentType, body string
		status                                int
		kind, message                         string
	}{
		{"unknown path", "GET", "/v2/nosuch", "", "", 404, "", "there is no /v2/nosuch"},
		{"old version", "GET", "/v1/snaps", "", "", 404, "", "there is no /v1/snaps"},
		{"wrong method", "DELETE", "/v2/snaps", "", "", 405, "", `method "DELETE" not allowed on /v2/snaps; it takes GET, POST`},
		{"wrong method on a snap", "PATCH", "/v2/snaps/hello/conf", "", "", 405, "", "it takes GET, PUT"},
		{"no body", "POST", "/v2/snaps/hello", asJSON, "", 400, "", "cannot decode the body"},
		{"half a body", "POST", "/v2/snaps/hello", asJSON, `{"action":`, 400, "", "cannot decode the body"},
		{"two bodies", "POST", "/v2/snaps/hello", asJSON, `{"action":"disable"}{}`, 400, "", "cannot decode the body"},
		{"null", "POST", "/v2/snaps/hello", asJSON, `null`, 400, "", "it should be a JSON object"},
		{"a list", "POST", "/v2/snaps/hello", asJSON, `[]`, 400, "", "it should be a JSON object, and is a array"},
		{"unknown field", "POST", "/v2/snaps/hello", asJSON, `{"action":"revert","revison":"x1"}`, 400, "", `unknown field "revison"`},
		{"wrong type", "POST", "/v2/snaps/hello", asJSON, `{"action":"remove","purge":"yes"}`, 400, "", "purge cannot be a string"},
		{"no action", "POST", "/v2/snaps/hello", asJSON, `{}`, 400, "", `unsupported action ""`},
		{"unknown action", "POST", "/v2/snaps/hello", asJSON, `{"action":"frobnicate"}`, 400, "", `unsupported action "frobnicate"`},
		{"number as revision", "POST", "/v2/snaps/hello", asJSON, `{"action":"revert","revision":1}`, 400, "", "revision cannot be a number"},
		{"wrong revision", "POST", "/v2/snaps/hello", asJSON, `{"action":"revert","revision":"x0"}`, 400, "", `revision "x0"`},
		{"revision that is not there", "POST", "/v2/snaps/hello", asJSON, `{"action":"revert","revision":"x7"}`, 400, "snap-not-revertible", "no such revision"},
		{"channel", "POST", "/v2/snaps/hello", asJSON, `{"action":"refresh","channel":"edge"}`, 400, "snap-no-source", "no source of snaps is configured"},
		{"wrong name", "POST", "/v2/snaps/..%2F..%2Fetc", asJSON, `{"action":"remove"}`, 400, "", "invalid name"},
		{"no such snap", "POST", "/v2/snaps/nosuch", asJSON, `{"action":"remove"}`, 404, "snap-not-installed", "is not installed"},
		{"no such snap to look at", "GET", "/v2/snaps/nosuch", "", "", 404, "snap-not-found", "is not installed"},
		{"huge body", "POST", "/v2/snaps/hello", asJSON, `{"action":"` + strings.Repeat("x", 2<<20) + `"}`, 413, "", "the body is longer than"},
		{"text", "POST", "/v2/snaps/hello", "text/plain", `{"action":"disable"}`, 415, "", `unknown content type "text/plain"; send application/json`},
		{"curl's own type", "POST", "/v2/snaps", "application/x-www-form-urlencoded", `{"action":"remove","snaps":["hello"]}`, 415, "", "unknown content type"},
		{"a form that is none", "POST", "/v2/snaps", "multipart/form-data; boundary=x", "nothing", 400, "", "there is no snap file in the form"},
		{"no such change", "GET", "/v2/changes/99", "", "", 404, "not-found", `cannot find change with id "99"`},
		{"wrong change", "GET", "/v2/changes/x", "", "", 400, "", `change "x"`},
		{"ended change", "POST", "/v2/changes/1", asJSON, `{"action":"abort"}`, 400, "", "it has ended (Done)"},
		{"wrong change action", "POST", "/v2/changes/1", asJSON, `{"action":"pause"}`, 400, "", `"pause" is unsupported`},
		{"wrong selection", "GET", "/v2/changes?select=some", "", "", 400, "", "select should be one of: all, in-progress, ready"},
		{"no such service", "POST", "/v2/apps", asJSON, `{"action":"stop","names":["hello.nosuch"]}`, 404, "app-not-found", `has no service "nosuch"`},
		{"wrong combination", "POST", "/v2/apps", asJSON, `{"action":"stop","enable":true,"names":["hello"]}`, 400, "", "--enable goes with start"},
		{"two snaps and a revision", "POST", "/v2/snaps", asJSON, `{"action":"remove","snaps":["hello","b"],"revision":"x1"}`, 400, "", "a single snap name is needed"},
		{"wrong option", "PUT", "/v2/snaps/system/conf", asJSON, `{"refresh.retain":21}`, 400, "bad-request", "between 2 and 20"},
		{"wrong kind of option", "PUT", "/v2/snaps/system/conf", asJSON, `{"refresh.retain":{"a":1}}`, 400, "bad-request", "between 2 and 20"},
		{"hold without a time", "POST", "/v2/snaps/hello", asJSON, `{"action":"hold","hold-level":"general"}`, 400, "", "time should be"},
		{"hold on another level", "POST", "/v2/snaps", asJSON, `{"action":"hold","time":"forever","hold-level":"general"}`, 400, "", `hold-level should be "auto-refresh" here`},
		{"a time for nothing", "POST", "/v2/snaps/hello", asJSON, `{"action":"refresh","time":"forever"}`, 400, "", "time and hold-level go with hold"},
		{"a channel for all", "POST", "/v2/snaps", asJSON, `{"action":"refresh","channel":"edge"}`, 400, "", "go with the names of snaps"},
		{"wrong find", "GET", "/v2/find?select=all", "", "", 400, "", "select should be refresh"},
		{"nothing found", "GET", "/v2/find?name=nosuch", "", "", 404, "snap-not-found", `no source has a snap "nosuch"`},
		{"wrong source action", "POST", "/v2/sources", asJSON, `{"action":"move","name":"a"}`, 400, "", "there are add and remove"},
		{"wrong source", "POST", "/v2/sources", asJSON, `{"action":"add","kind":"dir","location":"relative"}`, 400, "bad-request", "want an absolute path"},
		{"no such source", "POST", "/v2/sources", asJSON, `{"action":"remove","name":"nosuch"}`, 404, "not-found", `there is no source "nosuch"`},
		{"switch to nothing", "POST", "/v2/snaps/hello", asJSON, `{"action":"switch"}`, 400, "bad-request", "there is nothing to switch to"},
		{"no option", "PUT", "/v2/snaps/system/conf", asJSON, `{}`, 400, "bad-request", "no option was named"},
	} {
		e := a.do(c.method, c.path, c.contentType, strings.NewReader(c.body))
		kind, message := e.failure(t)
		if e.StatusCode != c.status || kind != c.kind || !strings.Contains(message, c.message) {
			t.Errorf("%s: %d %q %q, want %d %q …%q…", c.name, e.StatusCode, kind, message, c.status, c.kind, c.message)
		}
		if c.status == http.StatusMethodNotAllowed && e.header.Get("Allow") == "" {
			t.Errorf("%s: does not say what is allowed", c.name)
		}
	}

	for name, fields := range map[string]map[string]string{
		"unknown field": {"action": "install", "dangerous-": "true"},
		"wrong value":   {"action": "install", "dangerous": "yes"},
		"long field":    {"action": strings.Repeat("x", 1<<20)},
	} {
		contentType, body := form(t, fields, snap(t, "hello", "2"))
		if e := a.do(http.MethodPost, "/v2/snaps", contentType, body); e.StatusCode != http.StatusBadRequest {
			t.Errorf("form with %s: %d", name, e.StatusCode)
		}
	}
	if left, err := os.ReadDir(i.Path("var", "lib", "tenure", "staging")); err != nil || len(left) > 0 {
		t.Errorf("files of refused requests are left: %v, %v", left, err)
	}
	if changes := a.get("/v2/changes?select=all"); strings.Count(string(changes.Result), `"spawn-time"`) == 0 || a.get("/v2/changes/2").StatusCode != http.StatusNotFound {
		t.Error("a refused request has made a change")
	}
	wantFields(t, a.get("/v2/snaps/hello").object(t), map[string]any{"revision": "x1", "status": "active"})
}

// TestAPIKnowsWhoAsks looks through the eyes of somebody who is not root: lists,
// versions and status are for all; changing, command lines, logs, configuration and
// what changes have logged are not.
func TestAPIKnowsWhoAsks(t *testing.T) {
	t.Parallel()
	i := rig.New(t, rig.Config{})
	i.Tenure("install", "--dangerous", snap(t, "hello", "1"))
	if err := os.Chmod(i.Root, 0o755); err != nil { //nolint:gosec // So that others reach the socket.
		t.Fatal(err)
	}
	const nobody = 65534
	root, other := apiOf(t, i, 0), apiOf(t, i, nobody)
	for _, path := range []string{
		"/v2/system-info", "/v2/snaps", "/v2/snaps/hello", "/v2/apps", "/v2/changes?select=all", "/v2/changes/1", "/v2/units",
	} {
		if e := other.get(path); e.Type != "sync" {
			t.Errorf("GET %s: %d %s", path, e.StatusCode, e.Result)
		}
	}
	for _, c := range []struct{ method, path, body string }{
		{"GET", "/v2/pins?ref=hello@x1", ""},
		{"GET", "/v2/timeline?for=hello", ""},
		{"GET", "/v2/logs?names=hello", ""},
		{"GET", "/v2/allowances", ""},
		{"POST", "/v2/allowances", `{"action":"allow","manager":"hello","app":"other.vm"}`},
		{"GET", "/v2/policy", ""},
		{"GET", "/v2/policy/explain?snap=hello", ""},
		{"POST", "/v2/policy/check", `{"name":"p","content":"[]"}`},
		{"GET", "/v2/snaps/system/conf", ""},
		{"PUT", "/v2/snaps/system/conf", `{"refresh.retain":3}`},
		{"POST", "/v2/snaps/hello", `{"action":"disable"}`},
		{"POST", "/v2/snaps", `{"action":"remove","snaps":["hello"]}`},
		{"POST", "/v2/apps", `{"action":"stop","names":["hello"]}`},
		{"POST", "/v2/changes/1", `{"action":"abort"}`},
		{"POST", "/v2/plan", `{"action":"remove","snaps":["hello"]}`},
	} {
		e := other.do(c.method, c.path, "", strings.NewReader(c.body))
		kind, message := e.failure(t)
		if e.StatusCode != http.StatusForbidden || kind != "login-required" || !strings.HasPrefix(message, "access denied") {
			t.Errorf("%s %s: %d %q %q", c.method, c.path, e.StatusCode, kind, message)
		}
	}
	for _, secret := range []string{`"log"`, `"plan"`} {
		if mine := root.get("/v2/changes/1"); !strings.Contains(string(mine.Result), secret) {
			t.Errorf("root does not see %s", secret)
		}
		if theirs := other.get("/v2/changes/1"); strings.Contains(string(theirs.Result), secret) {
			t.Errorf("others see %s", secret)
		}
	}
	wantFields(t, root.get("/v2/apps").object(t), map[string]any{"snap": "hello", "active": true})
}
