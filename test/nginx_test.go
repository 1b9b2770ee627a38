package test

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"tenure/test/rig"
)

// web asks a server on a unix socket.
func web(socket string, keep bool) *http.Client {
	return &http.Client{Transport: &http.Transport{
		DisableKeepAlives: !keep,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			var dialer net.Dialer
			return dialer.DialContext(ctx, "unix", socket)
		},
	}}
}

func webVersion(ctx context.Context, client *http.Client) (string, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://nginx/version", http.NoBody)
	if err != nil {
		return "", err
	}
	resp, err := client.Do(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close() //nolint:errcheck // Only read.
	body, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("status %s", resp.Status)
	}
	return strings.TrimSpace(string(body)), err
}

// webLoad asks all the time, each client on new connections, until it is stopped.
type webLoad struct {
	stop     context.CancelFunc
	wg       sync.WaitGroup
	asked    atomic.Int64
	mu       sync.Mutex
	versions map[string]int
	failures []error
}

func startWebLoad(t *testing.T, socket string, clients int) *webLoad {
	t.Helper()
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	l := &webLoad{stop: cancel, versions: map[string]int{}}
	for n := range clients {
		l.wg.Go(func() {
			client := web(socket, n%2 == 0)
			defer client.CloseIdleConnections()
			for ctx.Err() == nil {
				v, err := webVersion(context.WithoutCancel(ctx), client)
				l.note(v, err)
			}
		})
	}
	t.Cleanup(l.end)
	return l
}

func (l *webLoad) note(v string, err error) {
	l.asked.Add(1)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.versions[v]++
	if err != nil {
		l.failures = append(l.failures, err)
	}
}

func (l *webLoad) end() {
	l.stop()
	l.wg.Wait()
}

// TestNginxReloads is case 5: a server that upgrades itself is told of the new
// revision and goes on, under load, without one request failing.
func TestNginxReloads(t *testing.T) {
	t.Parallel()
	i := rig.New(t, rig.Config{})
	i.Tenure("install", "--dangerous", snap(t, "debian12", "1"))
	i.Tenure("install", "--dangerous", snap(t, "nginx", "1"))
	socket := i.Common("nginx") + "/run/http.sock"
	before := i.Main("nginx.nginx")
	l := startWebLoad(t, socket, 4)
	for _, v := range []string{"2", "1", "3"} {
		i.Tenure("refresh", "--dangerous", snap(t, "nginx", v))
		if got, err := webVersion(t.Context(), web(socket, false)); err != nil || got != v {
			t.Fatalf("after the refresh to %s the server says %q, %v", v, got, err)
		}
	}
	unit := i.Units()["nginx.nginx"]
	if after := i.Main("nginx.nginx"); after == before || unit.Revision != "x4" || unit.Stale {
		t.Errorf("main process %v, before %v; unit %+v", after, before, unit)
	}
	asked := l.asked.Load()
	result := i.Try("refresh", "--dangerous", snap(t, "nginx", "broken-config"))
	if result.Status == 0 || !strings.Contains(result.Stderr, "nginx.nginx") {
		t.Errorf("a refresh to a server that cannot start: %+v", result)
	}
	if got, err := webVersion(t.Context(), web(socket, false)); err != nil || got != "3" {
		t.Errorf("after the failed refresh the server says %q, %v", got, err)
	}
	if unit := i.Units()["nginx.nginx"]; unit.Revision != "x4" {
		t.Errorf("after the failed refresh: %+v", unit)
	}
	l.end()
	if len(l.failures) > 0 || l.asked.Load() == asked {
		t.Errorf("%d of %d requests failed: %v", len(l.failures), l.asked.Load(), l.failures)
	}
	t.Logf("%d requests, by version %v", l.asked.Load(), l.versions)
	i.Tenure("revert", "nginx")
	if got, err := webVersion(t.Context(), web(socket, false)); err != nil || got != "1" {
		t.Errorf("after the revert the server says %q, %v", got, err)
	}
	i.Tenure("remove", "nginx")
}
