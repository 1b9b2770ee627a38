package test

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"tenure/examples/clients/snaps"
	webclient "tenure/examples/clients/web"
	"tenure/test/rig"
)

// crowd are clients that ask as fast as they are answered and never try again: of ours
// one that keeps its connection and one that does not for each door, and as many of wrk,
// which has nothing in common with them.
type crowd struct {
	stop    context.CancelFunc
	asking  sync.WaitGroup
	others  []*exec.Cmd
	outputs []*bytes.Buffer

	mu       sync.Mutex
	asked    int
	failures []error
	took     []time.Duration
	// kept is how many requests were made by those that keep their connections, and
	// opened how many connections these needed.
	kept, opened int
}

func startCrowd(t *testing.T, tcp string, doors ...webclient.Client) *crowd {
	t.Helper()
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	c := &crowd{stop: cancel}
	for _, door := range doors {
		for _, keep := range []bool{true, false} {
			c.asking.Go(func() { c.ask(ctx, door, keep) })
		}
	}
	for _, header := range []string{"Connection: keep-alive", "Connection: close"} {
		out := &bytes.Buffer{}
		cmd := exec.CommandContext(context.WithoutCancel(ctx), "wrk", "-t1", "-c4", "-d20m", "--timeout", "30s", "-H", header, "http://"+tcp+"/version")
		cmd.Stdout, cmd.Stderr = out, out
		if err := cmd.Start(); err != nil {
			t.Fatalf("wrk is needed (make deps): %v", err)
		}
		c.others, c.outputs = append(c.others, cmd), append(c.outputs, out)
	}
	t.Cleanup(func() {
		cancel()
		c.asking.Wait()
		for _, cmd := range c.others {
			_ = cmd.Process.Kill() // It has ended, if all went well.
		}
	})
	return c
}

func (c *crowd) ask(ctx context.Context, door webclient.Client, keep bool) {
	door.Keep = keep
	asked := 0
	defer func() {
		door.Close()
		c.mu.Lock()
		defer c.mu.Unlock()
		if keep {
			c.kept, c.opened = c.kept+asked, c.opened+door.Opened
		}
	}()
	for ctx.Err() == nil {
		begun := time.Now()
		_, err := door.Get(context.WithoutCancel(ctx), "/version")
		took := time.Since(begun)
		asked++
		c.mu.Lock()
		c.asked++
		c.took = append(c.took, took)
		if err != nil {
			c.failures = append(c.failures, err)
		}
		c.mu.Unlock()
	}
}

// end stops everybody, and says what they have met.
func (c *crowd) end(t *testing.T) {
	t.Helper()
	c.stop()
	c.asking.Wait()
	slices.Sort(c.took)
	at := func(part float64) time.Duration { return c.took[int(part*float64(len(c.took)-1))] }
	t.Logf("our clients: %d requests, %d failed; median %s, 99%% %s, slowest %s", c.asked, len(c.failures), at(0.5), at(0.99), at(1))
	t.Logf("our clients that keep their connections: %d requests on %d of them", c.kept, c.opened)
	if c.opened > c.kept/2 {
		t.Error("the server does not keep connections")
	}
	if len(c.failures) > 0 {
		t.Errorf("failures begin with %v", c.failures[:min(len(c.failures), 5)])
	}
	bad := regexp.MustCompile(`Socket errors:.*|Non-2xx.*`)
	count := regexp.MustCompile(`[0-9]+ requests in .*`)
	for n, cmd := range c.others {
		err := errors.Join(cmd.Process.Signal(os.Interrupt), cmd.Wait())
		out := c.outputs[n].String()
		t.Logf("wrk (%s): %s", cmd.Args[7], count.FindString(out))
		if failed := bad.FindString(out); failed != "" || err != nil || !count.MatchString(out) {
			t.Errorf("wrk (%s): %s, %v\n%s", cmd.Args[7], failed, err, out)
		}
	}
}

// swap refreshes a server n times between two versions under the crowd, once in the
// middle to what never gets ready.
func (c *crowd) swap(t *testing.T, i *rig.Instance, n int, version func(string) string, broken string, says func() string) {
	t.Helper()
	begun := time.Now()
	now := "1"
	for turn := range n {
		if turn == n/2 {
			if result := i.Try("refresh", "--dangerous", version(broken)); result.Status == 0 {
				t.Error("a refresh to what never gets ready has gone well")
			}
		} else {
			now = map[string]string{"1": "2", "2": "1"}[now]
			i.Tenure("refresh", "--dangerous", version(now))
		}
		// The old generation may still accept in the moment in which it is told.
		for patience := time.Now().Add(rig.Patience); ; {
			got := says()
			if got == now {
				break
			}
			if time.Now().After(patience) {
				t.Fatalf("after refresh %d the server is %q, want %q", turn, got, now)
			}
		}
	}
	t.Logf("%d refreshes in %s", n, time.Since(begun).Round(100*time.Millisecond))
	c.end(t)
}

// handsOver is the web example, which hands over, refreshed n times under a crowd.
func handsOver(t *testing.T, n int) {
	t.Helper()
	i := rig.New(t, rig.Config{})
	w := newWebScene(t, i)
	for _, version := range []string{"1", "2", "broken-ready"} {
		w.version(version)
	}
	i.Tenure("install", "--dangerous", w.version("1"))
	local := webclient.Client{Socket: filepath.Join(i.Common("web"), webclient.Socket)}
	fresh(t, w.tcp)
	c := startCrowd(t, w.tcp.Addr, local, w.tcp)
	c.swap(t, i, n, w.version, "broken-ready", func() string { return fresh(t, local).Version })
}

// reloads is nginx, which reloads, refreshed n times under a crowd.
func reloads(t *testing.T, n int) {
	t.Helper()
	i := rig.New(t, rig.Config{})
	i.Tenure("install", "--dangerous", snap(t, "debian14", "1"))
	address := freeAddress(t)
	files := map[string]string{}
	for _, version := range []string{"1", "2", "broken"} {
		files[version] = nginxOn(t, i, address, version)
	}
	version := func(version string) string { return files[version] }
	i.Tenure("install", "--dangerous", version("1"))
	local := webclient.Client{Socket: filepath.Join(i.Common("nginx"), "run", "http.sock")}
	c := startCrowd(t, address, local, webclient.Client{Addr: address})
	c.swap(t, i, n, version, "broken", func() string {
		c := local
		got, err := c.Get(t.Context(), "/version")
		if err != nil {
			t.Fatal(err)
		}
		return strings.TrimSpace(got)
	})
}

// shortly is how many refreshes show in seconds what make soak-web shows in minutes.
const shortly = 4

func TestHandOverAtFullSpeed(t *testing.T) {
	t.Parallel()
	handsOver(t, often(shortly, 3))
}

func TestReloadAtFullSpeed(t *testing.T) {
	t.Parallel()
	reloads(t, often(shortly, 3))
}

// nginxOn is a version of the nginx example that listens at an address too, for clients
// that know nothing of other sockets.
func nginxOn(t *testing.T, i *rig.Instance, address, version string) string {
	t.Helper()
	tree, err := snaps.Tree(t.Context(), "nginx")
	if err != nil {
		t.Fatal(err)
	}
	root, err := snaps.Checkout()
	if err != nil {
		t.Fatal(err)
	}
	dir, file := t.TempDir(), filepath.Join(t.TempDir(), "nginx_"+version+".snap")
	yaml, yamlErr := os.ReadFile(filepath.Join(root, "examples/nginx/snap.yaml"))
	conf, confErr := os.ReadFile(filepath.Join(root, "examples/nginx/etc/nginx.conf"))
	fill := strings.NewReplacer("@VERSION@", version, "\t\tlisten unix:", "\t\tlisten "+address+";\n\t\tlisten unix:")
	if version == "broken" {
		conf = append(conf, "no_such_directive;\n"...)
	}
	err = errors.Join(yamlErr, confErr, os.CopyFS(dir, os.DirFS(tree)), os.MkdirAll(filepath.Join(dir, "meta"), 0o755),
		os.WriteFile(filepath.Join(dir, "meta/snap.yaml"), []byte(fill.Replace(string(yaml))), 0o644),
		os.WriteFile(filepath.Join(dir, "etc/nginx.conf"), []byte(fill.Replace(string(conf))), 0o644))
	if err != nil {
		t.Fatal(err)
	}
	if result := i.Try("pack", "--compression=lz4", dir, file); result.Status != 0 {
		t.Fatalf("pack: %s", result.Stderr)
	}
	return file
}
