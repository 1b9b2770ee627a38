package bench

import (
	"context"
	"path/filepath"
	"strconv"
	"sync"
	"testing"
	"time"

	"tenure/examples/clients/snaps"
	webclient "tenure/examples/clients/web"
)

// The pace of the client of benchServe, and what the requests during switches may take of
// what those at rest take.
const (
	servePace   = time.Millisecond
	serveFactor = 2
	// serveRest is for how long requests are at rest between two refreshes.
	serveRest = 300 * time.Millisecond
)

// benchServe is what clients of a web server notice of refreshes that hand over: no request
// fails, and this is how long the slow ones take, during the commands and between them.
func benchServe(b *testing.B, t *table, n int) {
	i := newInstance(b)
	files := []string{webSnap(b, 1), webSnap(b, 2)}
	i.Tenure("install", "--dangerous", files[0])
	c := newClients(b, webclient.Client{Socket: filepath.Join(i.Path("var/snap/web/common"), webclient.Socket)})
	var commands series
	for k := range n {
		c.phase(&c.rest)
		time.Sleep(serveRest)
		c.phase(&c.switching)
		commands.add(timed(i, "refresh", "--dangerous", files[(k+1)%len(files)]))
	}
	c.end(b)
	t.row("request at rest, one every ms", c.rest)
	t.row("request while a refresh hands over", c.switching)
	t.row("refresh web, whole command", commands)
	t.aimTime("requests while a refresh hands over, 99 %, against 2 x that at rest", c.switching.percentile(99), serveFactor*c.rest.percentile(99))
}

func webSnap(b *testing.B, version int) string {
	b.Helper()
	file, err := snaps.Build(b.Context(), "web", strconv.Itoa(version))
	if err != nil {
		b.Fatal(err)
	}
	return file
}

// clients ask a server at their pace, each time on a new connection, and never try again.
type clients struct {
	stop   context.CancelFunc
	asking sync.WaitGroup

	mu              sync.Mutex
	rest, switching series
	now             *series
	failure         error
}

func newClients(b *testing.B, door webclient.Client) *clients {
	b.Helper()
	ctx, cancel := context.WithCancel(b.Context())
	c := &clients{stop: cancel}
	c.now = &c.rest
	c.asking.Go(func() {
		defer door.Close()
		pace := time.NewTicker(servePace)
		defer pace.Stop()
		for ctx.Err() == nil {
			<-pace.C
			c.mu.Lock()
			now := c.now
			c.mu.Unlock()
			begun := time.Now()
			_, err := door.Ask(context.WithoutCancel(ctx), "/")
			took := time.Since(begun)
			c.mu.Lock()
			now.add(took)
			if err != nil && c.failure == nil {
				c.failure = err
			}
			c.mu.Unlock()
		}
	})
	return c
}

// phase is what requests that begin from now on belong to.
func (c *clients) phase(s *series) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = s
}

func (c *clients) end(b *testing.B) {
	b.Helper()
	c.stop()
	c.asking.Wait()
	if c.failure != nil {
		b.Errorf("a request failed: %v", c.failure)
	}
}
