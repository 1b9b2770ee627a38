// Package client is the Go client of Tenure's API: HTTP and JSON on a unix
// socket, with the paths and shapes of snapd's REST API v2
// (https://snapcraft.io/docs/snapd-rest-api) and some additions.
//
// A Client holds no state but its connections; all its methods may be called
// concurrently.
package client

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime/multipart"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// Config says which daemon a Client talks to.
type Config struct {
	// Root is the directory below which the daemon's instance is; empty is the
	// machine's own.
	Root string
	// Socket is the path of the socket, by default that of Root.
	Socket string
	// Interactive is that somebody is there who can be asked for a password, where the
	// machine lets those do something who know one.
	Interactive bool
}

// Client talks to a daemon.
type Client struct {
	http         *http.Client
	root, socket string
	interactive  bool
}

// New makes a client. It connects when it is first used.
func New(cfg Config) *Client {
	socket := cfg.Socket
	if socket == "" {
		socket = filepath.Join("/", cfg.Root, "run/tenure/tenured.sock")
	}
	transport := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return dial(ctx, socket)
	}}
	return &Client{http: &http.Client{Transport: transport}, root: cfg.Root, socket: socket, interactive: cfg.Interactive}
}

// maxSunPath is the longest path that a socket address has room for (unix(7)).
const maxSunPath = 107

// dial connects to a socket whose path may be longer than a socket address.
func dial(ctx context.Context, socket string) (net.Conn, error) {
	var d net.Dialer
	if len(socket) <= maxSunPath {
		return d.DialContext(ctx, "unix", socket)
	}
	dir, err := os.Open(filepath.Dir(socket))
	if err != nil {
		return nil, &net.OpError{Op: "dial", Net: "unix", Err: err}
	}
	defer dir.Close() //nolint:errcheck // Only looked at.
	return d.DialContext(ctx, "unix", fmt.Sprintf("/proc/self/fd/%d/%s", dir.Fd(), filepath.Base(socket)))
}

// ErrNoDaemon is the kind of errors that say that nothing answers at the socket.
var ErrNoDaemon = errors.New("tenured is not running")

// away words an error of a request that got no answer, with what to do about it.
func (c *Client) away(r call, err error) error {
	failed, dialling := errors.AsType[*net.OpError](err)
	if !dialling || failed.Op != "dial" {
		return fmt.Errorf("%s %s: %w", r.method, r.path, err)
	}
	start := "tenured"
	if c.root != "" {
		start += " --root " + c.root
	}
	if _, err := os.Stat(filepath.Join("/", c.root)); err != nil {
		return fmt.Errorf("%w: there is no directory %s, so check --root and TENURE_ROOT", ErrNoDaemon, c.root)
	}
	if errors.Is(err, syscall.EACCES) {
		return fmt.Errorf("cannot reach tenured at %s: %w; try with sudo", c.socket, syscall.EACCES)
	}
	return fmt.Errorf("%w: nothing answers at %s; start it with %q", ErrNoDaemon, c.socket, "sudo "+start)
}

// Error is an error that the daemon answered with.
type Error struct {
	// Kind tells errors apart, in snapd's words where it has one; it may be empty.
	Kind string `json:"kind,omitempty"`
	// Message is a sentence for people.
	Message string `json:"message"`
	// Value has details that depend on the kind.
	Value json.RawMessage `json:"value,omitempty"`
	// Status is the HTTP status.
	Status int `json:"-"`
}

// Error is the sentence.
func (e *Error) Error() string { return e.Message }

// Response is the envelope of every answer.
type Response struct {
	Type       string          `json:"type"`
	StatusCode int             `json:"status-code"`
	Status     string          `json:"status"`
	Result     json.RawMessage `json:"result,omitempty"`
	// Change is the id of the change that an asynchronous answer is about.
	Change string `json:"change,omitempty"`
	// WarningCount is how many warnings an administrator is still to see, and
	// WarningTimestamp since when the last of them is; snapd's clients are told.
	WarningCount     int       `json:"warning-count,omitempty"`
	WarningTimestamp time.Time `json:"warning-timestamp,omitzero"`
}

// call is one request: Body and its type may be missing.
type call struct {
	method, path string
	query        url.Values
	body         io.Reader
	// length is that of body, in bytes; 0 if that is not known.
	length      int64
	contentType string
}

func (c *Client) request(ctx context.Context, r call) (*http.Response, error) {
	target := "http://localhost" + r.path
	if len(r.query) > 0 {
		target += "?" + r.query.Encode()
	}
	req, err := http.NewRequestWithContext(ctx, r.method, target, r.body)
	if err != nil {
		return nil, fmt.Errorf("%s %s: %w", r.method, r.path, err)
	}
	if r.length > 0 {
		req.ContentLength = r.length
	}
	if r.contentType != "" {
		req.Header.Set("Content-Type", r.contentType)
	}
	if c.interactive {
		req.Header.Set("X-Allow-Interaction", "true")
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, c.away(r, err)
	}
	return resp, nil
}

// post sends body and decodes the envelope; result may be nil.
func (c *Client) post(ctx context.Context, path string, body, result any) (*Response, error) {
	return c.sendJSON(ctx, http.MethodPost, path, body, result)
}

func (c *Client) sendJSON(ctx context.Context, method, path string, body, result any) (*Response, error) {
	raw, err := json.Marshal(body)
	if err != nil {
		return nil, fmt.Errorf("%s %s: %w", method, path, err)
	}
	resp, err := c.request(ctx, call{method: method, path: path, body: bytes.NewReader(raw), contentType: "application/json"})
	if err != nil {
		return nil, err
	}
	return decode(resp, result)
}

// decode reads an answer in one pass: the result as what it is to become, or as what went wrong.
func decode(resp *http.Response, result any) (*Response, error) {
	defer resp.Body.Close() //nolint:errcheck // Read to its end.
	var failure *Error
	switch {
	case resp.StatusCode >= http.StatusBadRequest:
		failure = &Error{Status: resp.StatusCode}
		result = failure
	case result == nil:
		result = new(json.RawMessage)
	}
	envelope := struct {
		Response

		Result any `json:"result"` // It hides the other one.
	}{Result: result}
	if err := json.NewDecoder(resp.Body).Decode(&envelope); err != nil {
		return nil, fmt.Errorf("read answer (%s): %w", resp.Status, err)
	}
	if failure != nil {
		return nil, failure
	}
	return &envelope.Response, nil
}

// get reads a synchronous answer of type T.
func get[T any](ctx context.Context, c *Client, path string, query url.Values) (T, error) {
	var result T
	resp, err := c.request(ctx, call{method: http.MethodGet, path: path, query: query})
	if err == nil {
		_, err = decode(resp, &result)
	}
	return result, err
}

// SystemInfo is what the daemon says of itself.
func (c *Client) SystemInfo(ctx context.Context) (SystemInfo, error) {
	return get[SystemInfo](ctx, c, "/v2/system-info", nil)
}

// Snaps are the installed snaps, or, with all, every revision that is kept.
func (c *Client) Snaps(ctx context.Context, all bool) ([]Snap, error) {
	query := url.Values{}
	if all {
		query.Set("select", "all")
	}
	return get[[]Snap](ctx, c, "/v2/snaps", query)
}

// Snap is one installed snap.
func (c *Client) Snap(ctx context.Context, name string) (Snap, error) {
	return get[Snap](ctx, c, "/v2/snaps/"+url.PathEscape(name), nil)
}

// Changes are the changes that select picks ("all", "in-progress", "ready"), of
// one snap if name is not empty.
func (c *Client) Changes(ctx context.Context, selected, name string) ([]Change, error) {
	query := url.Values{"select": {selected}}
	if name != "" {
		query.Set("for", name)
	}
	return get[[]Change](ctx, c, "/v2/changes", query)
}

// Change is one change, with its tasks.
func (c *Client) Change(ctx context.Context, id string) (Change, error) {
	return get[Change](ctx, c, "/v2/changes/"+url.PathEscape(id), nil)
}

// Follow waits until a change differs from the revision that the caller has
// seen (0 for none), and gives it as it is then.
func (c *Client) Follow(ctx context.Context, id string, seen uint64) (Change, error) {
	query := url.Values{"after": {strconv.FormatUint(seen, 10)}}
	return get[Change](ctx, c, "/v2/changes/"+url.PathEscape(id)+"/watch", query)
}

// Abort asks for a change to be undone.
func (c *Client) Abort(ctx context.Context, id string) (Change, error) {
	var change Change
	_, err := c.post(ctx, "/v2/changes/"+url.PathEscape(id), map[string]string{"action": "abort"}, &change)
	return change, err
}

// Services are the services of the named snaps or services, of all if there is none.
func (c *Client) Services(ctx context.Context, names []string) ([]Service, error) {
	query := url.Values{"select": {"service"}}
	if len(names) > 0 {
		query.Set("names", strings.Join(names, ","))
	}
	return get[[]Service](ctx, c, "/v2/apps", query)
}

// Units are the units that are alive or armed, with their processes.
func (c *Client) Units(ctx context.Context) ([]Unit, error) {
	return get[[]Unit](ctx, c, "/v2/units", nil)
}

// Pins are the reasons to keep a revision like "virt@x1".
func (c *Client) Pins(ctx context.Context, ref string) ([]Pin, error) {
	return get[[]Pin](ctx, c, "/v2/pins", url.Values{"ref": {ref}})
}

// Conf are configuration options: the named ones by their dotted names, or all as
// one document. Those of the system itself are the snap "system".
func (c *Client) Conf(ctx context.Context, snap string, keys []string) (map[string]any, error) {
	query := url.Values{}
	if len(keys) > 0 {
		query.Set("keys", strings.Join(keys, ","))
	}
	return get[map[string]any](ctx, c, "/v2/snaps/"+url.PathEscape(snap)+"/conf", query)
}

// SetConf changes configuration options by their dotted names, and gives the id of
// the change that does it; nil unsets one.
func (c *Client) SetConf(ctx context.Context, snap string, patch map[string]any) (string, error) {
	envelope, err := c.sendJSON(ctx, http.MethodPut, "/v2/snaps/"+url.PathEscape(snap)+"/conf", patch, nil)
	if err != nil {
		return "", err
	}
	return envelope.Change, nil
}

// Allowances are what snaps may start of others.
func (c *Client) Allowances(ctx context.Context) ([]Allowance, error) {
	return get[[]Allowance](ctx, c, "/v2/allowances", nil)
}

// Allow lets a snap start instances of a template of another; with allowed unset it
// may not any more.
func (c *Client) Allow(ctx context.Context, a Allowance, allowed bool) error {
	action := "disallow"
	if allowed {
		action = "allow"
	}
	body := struct {
		Action string `json:"action"`
		Allowance
	}{action, a}
	_, err := c.sendJSON(ctx, http.MethodPost, "/v2/allowances", body, nil)
	return err
}

// Do asks for an action and gives the id of the change that carries it out.
func (c *Client) Do(ctx context.Context, action Action) (string, error) {
	envelope, err := c.send(ctx, action, nil)
	if err != nil {
		return "", err
	}
	return envelope.Change, nil
}

// Plan asks what an action would do.
func (c *Client) Plan(ctx context.Context, action Action) ([]Plan, error) {
	action.DryRun = true
	var plans []Plan
	_, err := c.send(ctx, action, &plans)
	return plans, err
}

// send sends an action, with its files if it has any, which are streamed.
func (c *Client) send(ctx context.Context, action Action, result any) (*Response, error) {
	path := "/v2/snaps"
	if action.OnServices() {
		path = "/v2/apps"
	}
	if action.DryRun {
		path = "/v2/plan"
	}
	if len(action.Files) == 0 {
		return c.post(ctx, path, action, result)
	}
	reader, writer := io.Pipe()
	form := multipart.NewWriter(writer)
	go func() { _ = writer.CloseWithError(writeForm(form, action, sendFile)) }()
	defer reader.Close() //nolint:errcheck // It ends the writer.
	resp, err := c.request(ctx, call{method: http.MethodPost, path: path, body: reader, length: formLength(action), contentType: form.FormDataContentType()})
	if err != nil {
		return nil, err
	}
	return decode(resp, result)
}

// writeForm writes an action, with its files, each by send.
func writeForm(form *multipart.Writer, action Action, send func(to io.Writer, path string) error) error {
	for name, value := range action.form() {
		if err := form.WriteField(name, value); err != nil {
			return err
		}
	}
	for _, path := range action.Files {
		part, err := form.CreateFormFile("snap", path)
		if err != nil {
			return err
		}
		if err := send(part, path); err != nil {
			return err
		}
	}
	return form.Close()
}

func sendFile(to io.Writer, path string) error {
	file, err := os.Open(path)
	if err != nil {
		return err
	}
	defer file.Close() //nolint:errcheck // Opened for reading.
	_, err = io.Copy(to, file)
	return err
}

// formLength is how long the form of an action is, so that it need not be sent in chunks, which costs three system calls for one;
// 0 if a file tells no length, as a pipe does.
func formLength(action Action) int64 {
	var length count
	err := writeForm(multipart.NewWriter(&length), action, func(_ io.Writer, path string) error {
		info, err := os.Stat(path)
		if err == nil && !info.Mode().IsRegular() {
			err = errNoLength
		}
		if err == nil {
			length += count(info.Size())
		}
		return err
	})
	if err != nil {
		return 0
	}
	return int64(length)
}

var errNoLength = errors.New("it is no regular file")

// count counts what is written, in bytes.
type count int64

func (c *count) Write(b []byte) (int, error) {
	*c += count(len(b))
	return len(b), nil
}
