package test

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/fsnotify/fsnotify"

	"tenure"
	"tenure/client"
	"tenure/examples/clients/snaps"
	webclient "tenure/examples/clients/web"
	"tenure/test/rig"
)

// webLine is a load on the web example: clients that never try again, on each of its
// sockets, that keep their connections and that do not.
type webLine struct {
	stop  context.CancelFunc
	wg    sync.WaitGroup
	asked atomic.Int64

	mu       sync.Mutex
	versions map[string]int
	failures []error
}

func startWebLine(t *testing.T, doors ...webclient.Client) *webLine {
	t.Helper()
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	l := &webLine{stop: cancel, versions: map[string]int{}}
	for _, door := range doors {
		for _, keep := range []bool{true, false} {
			l.wg.Go(func() {
				c := door
				c.Keep = keep
				defer c.Close()
				at := time.NewTicker(2 * pace) // There are many of them.
				defer at.Stop()
				for ctx.Err() == nil {
					<-at.C
					answer, err := c.Ask(context.WithoutCancel(ctx), "/")
					l.note(answer, err)
				}
			})
		}
	}
	t.Cleanup(l.end)
	return l
}

func (l *webLine) note(answer webclient.Answer, err error) {
	l.asked.Add(1)
	l.mu.Lock()
	defer l.mu.Unlock()
	if err != nil {
		l.failures = append(l.failures, err)
		return
	}
	l.versions[answer.Version]++
}

func (l *webLine) end() {
	l.stop()
	l.wg.Wait()
}

// unbroken ends the load, and checks that nothing of it was lost.
func (l *webLine) unbroken(t *testing.T) {
	t.Helper()
	l.end()
	if len(l.failures) > 0 || l.asked.Load() == 0 {
		t.Errorf("%d of %d requests failed, at first: %v", len(l.failures), l.asked.Load(), l.failures[:min(3, len(l.failures))])
	}
	t.Logf("%d requests, none failed, by version %v", l.asked.Load(), l.versions)
}

// fresh is who answers a connection that is opened now.
func fresh(t *testing.T, door webclient.Client) webclient.Answer {
	t.Helper()
	answer, err := door.Ask(t.Context(), "/")
	if err != nil {
		t.Fatal(err)
	}
	return answer
}

// refreshing asks for a refresh and returns while it goes on.
func refreshing(t *testing.T, i *rig.Instance, file string) string {
	t.Helper()
	id, err := i.Client().Do(t.Context(), client.Action{Action: "refresh", Files: []string{file}, Dangerous: true})
	if err != nil {
		t.Fatal(err)
	}
	return id
}

// awaitTurn follows a change until it is as wanted.
func awaitTurn(t *testing.T, i *rig.Instance, id string, want func(client.Change) bool) client.Change {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), rig.Patience)
	defer cancel()
	var seen uint64
	for {
		c, err := i.Client().Follow(ctx, id, seen)
		if err != nil {
			t.Fatalf("follow change %s: %v", id, err)
		}
		if want(c) {
			return c
		}
		if c.Ready {
			t.Fatalf("change %s has ended before it was as wanted: %s %s", id, c.Status, c.Err)
		}
		seen = c.Revision
	}
}

func ready(c client.Change) bool { return c.Ready }

// logged reports whether a task of a change has said something.
func logged(text string) func(client.Change) bool {
	return func(c client.Change) bool {
		return slices.ContainsFunc(c.Tasks, func(task client.Task) bool {
			return slices.ContainsFunc(task.Log, func(line string) bool { return strings.Contains(line, text) })
		})
	}
}

// beside are the units of a name beside the web service.
func beside(i *rig.Instance, name string) (found []client.Unit) {
	for id, unit := range i.Units() {
		if parsed, err := tenure.ParseUnit(id); err == nil && parsed.Overlaps() && parsed.Name == name {
			found = append(found, unit)
		}
	}
	return found
}

// webScene makes versions of the web example that listen on a port of their own: that
// of the example is there once on a machine.
type webScene struct {
	t     *testing.T
	pack  *rig.Instance
	tcp   webclient.Client
	files map[string]string
}

func newWebScene(t *testing.T, pack *rig.Instance) *webScene {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0") //nolint:noctx // Binding does not wait.
	if err != nil {
		t.Fatal(err)
	}
	if err := listener.Close(); err != nil {
		t.Fatal(err)
	}
	return &webScene{t, pack, webclient.Client{Addr: listener.Addr().String()}, map[string]string{}}
}

// version is the file of a version.
func (w *webScene) version(version string) string {
	w.t.Helper()
	if file := w.files[version]; file != "" {
		return file
	}
	tree, err := snaps.Tree(w.t.Context(), "web")
	if err != nil {
		w.t.Fatal(err)
	}
	root, err := snaps.Checkout()
	if err != nil {
		w.t.Fatal(err)
	}
	dir, file := w.t.TempDir(), filepath.Join(w.t.TempDir(), "web_"+version+".snap")
	yaml, err := os.ReadFile(filepath.Join(root, "examples/web/snap.yaml"))
	err = errors.Join(err, os.CopyFS(dir, os.DirFS(tree)), os.Mkdir(filepath.Join(dir, "meta"), 0o755))
	text := strings.NewReplacer("@VERSION@", version, webclient.Address, w.tcp.Addr).Replace(string(yaml))
	err = errors.Join(err,
		os.WriteFile(filepath.Join(dir, "meta/snap.yaml"), []byte(text), 0o644),
		os.WriteFile(filepath.Join(dir, "version"), []byte(version+"\n"), 0o644))
	if version == "broken-configure" {
		// The server itself, which nobody has passed a socket.
		err = errors.Join(err, os.Mkdir(filepath.Join(dir, "meta/hooks"), 0o755),
			os.Link(filepath.Join(dir, "bin/web"), filepath.Join(dir, "meta/hooks/configure")))
	}
	if err != nil {
		w.t.Fatal(err)
	}
	if result := w.pack.Try("pack", "--compression", "lz4", dir, file); result.Status != 0 {
		w.t.Fatalf("pack: %s", result.Stderr)
	}
	w.files[version] = file
	return file
}

// TestHandOver is the second half of case 6: generations overlap, nothing is lost,
// and of one that never gets ready nobody hears.
func TestHandOver(t *testing.T) {
	t.Parallel()
	i := rig.New(t, rig.Config{})
	w := newWebScene(t, i)
	i.Tenure("install", "--dangerous", w.version("1"))
	local := webclient.Client{Socket: filepath.Join(i.Common("web"), webclient.Socket)}
	if first := fresh(t, local); first.Version != "1" {
		t.Fatalf("the first answer is %+v", first)
	}
	l := startWebLine(t, local, w.tcp)
	plan := i.Tenure("refresh", "--dry-run", "--dangerous", w.version("2"))
	if !strings.Contains(plan, "hand over") || !strings.Contains(plan, "drains for at most 30s") || strings.Contains(plan, "not carried over") {
		t.Errorf("plan:\n%s", plan)
	}
	for n := range often(10, 4) {
		before, version := i.Main("web.web"), []string{"2", "3"}[n%2]
		i.Tenure("refresh", "--dangerous", w.version(version))
		after := i.Main("web.web")
		if unix, tcp := fresh(t, local), fresh(t, w.tcp); unix.Version != version || unix != tcp || unix.PID != after.PID {
			t.Fatalf("after the refresh to %s %+v and %+v answer, and the main process is %v", version, unix, tcp, after)
		}
		if err := rig.Gone(t.Context(), before); err != nil {
			t.Error(err)
		}
		if units := i.Units(); len(units) != 1 || units["web.web"].Stale {
			t.Fatalf("after the refresh to %s: %+v", version, units)
		}
	}
	neverReady(t, i, w, local)
	handsBack(t, i, w, local)
	i.Tenure("revert", "web")
	if got := fresh(t, local); got.Version != "2" {
		t.Errorf("after the revert %+v answers", got)
	}
	drains(t, i, w, local)
	l.unbroken(t)
	i.Tenure("remove", "web")
}

// neverReady refreshes to a server that does not get ready.
func neverReady(t *testing.T, i *rig.Instance, w *webScene, local webclient.Client) {
	t.Helper()
	before := i.Main("web.web")
	result := i.Try("refresh", "--dangerous", w.version("broken-ready"))
	if result.Status == 0 || !strings.Contains(result.Stderr, "did not get ready") {
		t.Errorf("a refresh to a server that is never ready: %+v", result)
	}
	after, answer := i.Main("web.web"), fresh(t, local)
	if after != before || answer.PID != before.PID || len(i.Units()) != 1 {
		t.Errorf("the main process was %v and is %v; %+v answers; units %+v", before, after, answer, i.Units())
	}
}

// handsBack refreshes to a revision whose hook fails when it has taken over.
func handsBack(t *testing.T, i *rig.Instance, w *webScene, local webclient.Client) {
	t.Helper()
	before := fresh(t, local)
	result := i.Try("refresh", "--dangerous", w.version("broken-configure"))
	if result.Status == 0 || !strings.Contains(result.Stderr, "no listener was given") {
		t.Errorf("a refresh whose hook fails: %+v", result)
	}
	after := fresh(t, local)
	if after.Revision != before.Revision || after.PID == before.PID || len(i.Units()) != 1 {
		t.Errorf("before the refresh that was undone %+v answered, after it %+v; units %+v", before, after, i.Units())
	}
}

// drains refreshes under a request that takes longer, and kills the daemon meanwhile.
func drains(t *testing.T, i *rig.Instance, w *webScene, local webclient.Client) {
	t.Helper()
	before := i.Main("web.web")
	c := w.tcp
	rest, err := c.Begin(t.Context(), "/slow?for=3s")
	if err != nil {
		t.Fatal(err)
	}
	id := refreshing(t, i, w.version("1"))
	awaitTurn(t, i, id, logged("drains as"))
	i.Kill()
	i.Start()
	old := beside(i, tenure.Draining)
	if len(old) != 1 || len(old[0].Processes) != 1 || old[0].Processes[0].PID != before.PID || old[0].State != "stopping" {
		t.Errorf("what drains: %+v", old)
	}
	if answer := fresh(t, local); answer.Version != "1" || answer.PID == before.PID {
		t.Errorf("while the old one drains %+v answers", answer)
	}
	slow, err := rest()
	if err != nil || slow.PID != before.PID {
		t.Errorf("the slow answer is %+v, %v; want that of %d", slow, err, before.PID)
	}
	if end := awaitTurn(t, i, id, ready); end.Status != "Done" {
		t.Errorf("the refresh is %s: %s", end.Status, end.Err)
	}
	if err := rig.Gone(t.Context(), before); err != nil {
		t.Error(err)
	}
}

// TestHandOverSurvivesKills kills the daemon at every boundary of what is a hand-over's
// own in a refresh, under a load that must not notice.
func TestHandOverSurvivesKills(t *testing.T) {
	t.Parallel()
	w := newWebScene(t, rig.New(t, rig.Config{}))
	files := []string{w.version("1"), w.version("2")}
	s := newScene(t, "web", "web", nil, files[0])
	local := webclient.Client{Socket: filepath.Join(s.Common("web"), webclient.Socket)}
	s.answer = func(ctx context.Context, revision int) error {
		door := local
		got, err := door.Ask(ctx, "/")
		if err == nil && got.Revision != x(revision) {
			err = errors.New("it is " + got.Revision + ", want " + x(revision))
		}
		return err
	}
	if err := s.answer(t.Context(), 1); err != nil {
		t.Fatal(err)
	}
	l := startWebLine(t, local, w.tcp)
	good := &refresh{name: "web", files: files}
	s.count(t.Context(), good)
	kills := &tally{}
	own := []string{"start-next-snap-services", "link-snap", "hand-over-snap-services"}
	for n, point := range good.points {
		if slices.Contains(own, point.TaskKind) {
			s.strike(t.Context(), good, death{at: n + 1}, kills)
		}
	}
	for _, of := range []*sight{
		{name: "the successor", dir: "run/tenure/units", base: besideRecord(tenure.Successor), op: fsnotify.Create, nth: 1},
		{name: "what drains", dir: "run/tenure/units", base: besideRecord(tenure.Draining), op: fsnotify.Create, nth: 1},
	} {
		s.strike(t.Context(), good, death{of: of}, kills)
	}
	l.unbroken(t)
	t.Logf("\n%s", kills)
}

func besideRecord(name string) func(*scene, string) bool {
	return func(_ *scene, base string) bool { return strings.HasPrefix(base, "web.web+"+name) }
}
