package test

import (
	"context"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	webclient "tenure/examples/clients/web"
	"tenure/test/rig"
)

// webVersion is what a server says of itself on a connection that is opened now, or on
// the one that the client keeps.
func webVersion(ctx context.Context, client *webclient.Client) (string, error) {
	text, err := client.Get(ctx, "/version")
	return strings.TrimSpace(text), err
}

// awaitVersion asks until a server says that it is v: in the moment in which it is told
// to finish, the generation before may still accept.
func awaitVersion(t *testing.T, socket, v string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), rig.Patience)
	defer cancel()
	for {
		got, err := webVersion(ctx, &webclient.Client{Socket: socket})
		switch {
		case err != nil:
			t.Fatal(err)
		case got == v:
			return
		case ctx.Err() != nil:
			t.Fatalf("the server says %q, and not %q", got, v)
		}
	}
}

// webLoad asks at a pace, every other client on a connection that it keeps, until it is
// stopped. Nothing is tried again. TestReloadAtFullSpeed has who asks without a pause.
type webLoad struct {
	stop     context.CancelFunc
	wg       sync.WaitGroup
	asked    atomic.Int64
	mu       sync.Mutex
	versions map[string]int
	failures []error
	// kept is how many requests were made by those that keep their connections, and
	// opened how many connections these needed.
	kept, opened int
}

func startWebLoad(t *testing.T, socket string, clients int) *webLoad {
	t.Helper()
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	l := &webLoad{stop: cancel, versions: map[string]int{}}
	for n := range clients {
		l.wg.Go(func() {
			client := webclient.Client{Socket: socket, Keep: n%2 == 0}
			defer client.Close()
			asked := 0
			at := time.NewTicker(pace)
			defer at.Stop()
			for ; ctx.Err() == nil; asked++ {
				<-at.C
				v, err := webVersion(context.WithoutCancel(ctx), &client)
				l.note(v, err)
			}
			l.mu.Lock()
			defer l.mu.Unlock()
			if client.Keep {
				l.kept, l.opened = l.kept+asked, l.opened+client.Opened
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
	i.Tenure("install", "--dangerous", snap(t, "debian14", "1"), snap(t, "nginx", "1"))
	socket := i.Common("nginx") + "/run/http.sock"
	before := i.Main("nginx.nginx")
	l := startWebLoad(t, socket, 4)
	for _, v := range []string{"2", "1", "3"} {
		i.Tenure("refresh", "--dangerous", snap(t, "nginx", v))
		awaitVersion(t, socket, v)
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
	if got, err := webVersion(t.Context(), &webclient.Client{Socket: socket}); err != nil || got != "3" {
		t.Errorf("after the failed refresh the server says %q, %v", got, err)
	}
	if unit := i.Units()["nginx.nginx"]; unit.Revision != "x4" {
		t.Errorf("after the failed refresh: %+v", unit)
	}
	l.end()
	if len(l.failures) > 0 || l.asked.Load() == asked {
		t.Errorf("%d of %d requests failed: %v", len(l.failures), l.asked.Load(), l.failures)
	}
	if l.opened > l.kept/2 {
		t.Errorf("%d requests needed %d connections, though their clients keep them", l.kept, l.opened)
	}
	t.Logf("%d requests, by version %v; %d of them on %d kept connections", l.asked.Load(), l.versions, l.kept, l.opened)
	i.Tenure("revert", "nginx")
	awaitVersion(t, socket, "1")
	i.Tenure("remove", "nginx")
}
