package api

import (
	"bytes"
	"encoding/json"
	"errors"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"tenure/client"
)

// caughtServer answers by handle, and logs errors alone.
func caughtServer(t *testing.T, handle http.HandlerFunc) (url string, log *bytes.Buffer) {
	t.Helper()
	log = &bytes.Buffer{}
	s := &server{admins: -1, cfg: Config{Logger: slog.New(slog.NewTextHandler(log, &slog.HandlerOptions{Level: slog.LevelError}))}}
	server := httptest.NewUnstartedServer(s.caught(handle))
	server.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelDebug)
	server.Start()
	t.Cleanup(server.Close)
	return server.URL, log
}

func caughtGet(t *testing.T, url string) (client.Response, int, error) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url+"/v2/snaps", nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := new(http.Client).Do(req)
	if err != nil {
		return client.Response{}, 0, err
	}
	defer resp.Body.Close() //nolint:errcheck // Read to its end.
	var envelope client.Response
	err = json.NewDecoder(resp.Body).Decode(&envelope)
	return envelope, resp.StatusCode, err
}

func TestAPanicIsAnsweredAndLogged(t *testing.T) {
	t.Parallel()
	url, log := caughtServer(t, func(http.ResponseWriter, *http.Request) {
		panic("a map is missing")
	})
	answer, status, err := caughtGet(t, url)
	if err != nil || status != http.StatusInternalServerError || answer.Type != "error" || !strings.Contains(string(answer.Result), "GET /v2/snaps") {
		t.Errorf("the answer is %d, %+v, %v", status, answer, err)
	}
	if said := log.String(); !strings.Contains(said, "level=ERROR") || !strings.Contains(said, "a map is missing") || !strings.Contains(said, "caught_test.go") {
		t.Errorf("the log says %s", said)
	}
}

func TestAPanicCutsOffWhatHasBegun(t *testing.T) {
	t.Parallel()
	url, log := caughtServer(t, func(w http.ResponseWriter, _ *http.Request) {
		_, _ = w.Write([]byte(`{"type": "sync", "result": []}`))
		_ = http.NewResponseController(w).Flush()
		panic(errors.New("too late"))
	})
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := new(http.Client).Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close() //nolint:errcheck // Read to its end.
	if _, err := new(bytes.Buffer).ReadFrom(resp.Body); err == nil {
		t.Error("the answer looks whole")
	}
	if said := log.String(); !strings.Contains(said, "too late") {
		t.Errorf("the log says %s", said)
	}
}
