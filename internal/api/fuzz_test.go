package api

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"tenure"
	"tenure/client"
	"tenure/internal/change"
	"tenure/internal/journal"
	"tenure/internal/mount"
	"tenure/internal/refresh"
	"tenure/internal/revision"
	"tenure/internal/snapfile"
	"tenure/internal/squash"
	"tenure/internal/supervise/supervisetest"
)

const attackedYAML = `name: virt
version: "1"
confinement: strict
apps:
  virtd: {command: bin/virtd, daemon: simple, lifecycle: {workloads: {vm: {match: ^qemu}}}}
  vm: {command: bin/vm, daemon: simple, lifecycle: {instances: true}}
  tool: {command: bin/tool, completer: bin/complete}
`

// attacked is a server with all that is behind it, but for processes, which are in memory.
type attacked struct {
	handler http.Handler
	manager *refresh.Manager
	dir     string
	log     *bytes.Buffer
	// snaps is what the journal has of snaps, and virt what it is to have of one.
	snaps *journal.Collection[any]
	virt  any
}

// newAttacked has a snap, which is nowhere but in the journal.
func newAttacked(f *testing.F) *attacked {
	f.Helper()
	dir := f.TempDir()
	paths := refresh.Paths{Root: filepath.Join(dir, "root")}
	for _, path := range []string{paths.Staging(), paths.Run(), paths.Bin()} {
		if err := os.MkdirAll(path, 0o755); err != nil { //nolint:gosec // As the daemon makes it.
			f.Fatal(err)
		}
	}
	db, err := journal.Open(journal.Config{Path: filepath.Join(paths.State(), "state.db")})
	if err != nil {
		f.Fatal(err)
	}
	virt, err := snapfile.Parse([]byte(attackedYAML), []string{"configure"})
	if err != nil {
		f.Fatal(err)
	}
	line, _, err := revision.Install(revision.State{}, tenure.LocalRevision(1))
	if err != nil {
		f.Fatal(err)
	}
	a := &attacked{dir: dir, log: &bytes.Buffer{}, snaps: journal.NewCollection[any](db, "snaps"), virt: map[string]any{
		"instance": "virt", "line": line, "options": refresh.Options{},
		"kept": map[tenure.Revision]any{tenure.LocalRevision(1): map[string]any{"info": virt}},
	}}
	a.manager = refresh.New(refresh.Config{
		Paths: paths, Journal: db, Supervisor: supervisetest.NewTwin(), Mounts: mount.New(mount.Config{Root: paths.Root}),
		Reader: squash.Open(squash.Config{}),
	})
	registry := change.NewRegistry()
	a.manager.Register(registry)
	engine := change.New(change.Config{Store: db.Changes(), Registry: registry})
	a.manager.Use(engine)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- engine.Run(ctx) }()
	f.Cleanup(func() {
		cancel()
		if err := errors.Join(<-ended, db.Close()); err != nil {
			f.Error(err)
		}
	})
	<-engine.Ready()
	logger := slog.New(slog.NewTextHandler(a.log, &slog.HandlerOptions{Level: slog.LevelError}))
	s := &server{admins: -1, turn: refresh.NewTurn(), cfg: Config{Manager: a.manager, Logger: logger, Logs: supervisetest.NewTwin(), Version: "1"}}
	a.handler = s.handler()
	return a
}

// FuzzRequest sends requests of root and of a user to the whole API. None is answered with
// a panic, by the word of the log, or with an error of the daemon's own; every answer is of
// the one shape; a user changes nothing; and no name in a request becomes one of a file
// where nobody expects it.
func FuzzRequest(f *testing.F) {
	for _, s := range requests() {
		f.Add(s.root, s.snapd, s.method, s.target, s.media, []byte(s.body))
	}
	a := newAttacked(f)
	f.Fuzz(func(t *testing.T, root, snapd bool, method, target, media string, body []byte) {
		r, err := http.NewRequest(method, "http://localhost/", bytes.NewReader(body))
		if err != nil || bytes.Contains(body, []byte("snap-path")) { // It would pack what is there.
			return
		}
		if r.URL, err = r.URL.Parse(target); err != nil {
			return
		}
		p := peer{uid: 1000, gid: 1000, snapd: snapd}
		if root {
			p.uid, p.gid = 0, 0
		}
		ctx, cancel := context.WithTimeout(context.WithValue(t.Context(), peerKey{}, p), time.Second)
		defer cancel()
		r.Header.Set("Content-Type", media)
		a.install(t)
		before := a.manager.Engine().List(change.Filter{Select: change.All})
		w := httptest.NewRecorder()
		a.handler.ServeHTTP(w, r.WithContext(ctx))
		a.check(ctx, t, w)
		if root {
			return
		}
		if after := a.manager.Engine().List(change.Filter{Select: change.All}); len(after) != len(before) {
			t.Errorf("a user has begun %s", after[len(after)-1].Summary)
		}
		reading := r.Method == http.MethodGet || r.Method == http.MethodHead
		if !reading && w.Code < http.StatusMultipleChoices && r.URL.Path != "/v2/notices" {
			t.Errorf("a user is let in: %d", w.Code)
		}
	})
}

// install has the snap be there, unless it is.
func (a *attacked) install(t *testing.T) {
	t.Helper()
	if _, found, err := a.snaps.Get("virt"); err != nil {
		t.Fatal(err)
	} else if found {
		return
	}
	if err := a.snaps.Put("virt", a.virt); err != nil {
		t.Fatal(err)
	}
}

func (a *attacked) check(ctx context.Context, t *testing.T, w *httptest.ResponseRecorder) {
	t.Helper()
	if a.log.Len() > 0 {
		t.Fatalf("the log says %s", a.log)
	}
	meant := w.Code == http.StatusNotImplemented || w.Code == http.StatusServiceUnavailable && ctx.Err() != nil
	if w.Code >= http.StatusInternalServerError && !meant {
		t.Errorf("%d: %s", w.Code, w.Body)
	}
	var envelope client.Response
	stream := w.Header().Get("Content-Type") == "application/json-seq"
	redirect := w.Code == http.StatusMovedPermanently || w.Code == http.StatusPermanentRedirect || w.Code == http.StatusTemporaryRedirect
	if !stream && !redirect && (json.Unmarshal(w.Body.Bytes(), &envelope) != nil || envelope.StatusCode != w.Code) {
		t.Errorf("%d: the answer is %.300q", w.Code, w.Body)
	}
	for dir, allowed := range map[string][]string{
		"":                    {"root"},
		"root":                {"run", "snap", "var", "usr", "home", "root", "etc"},
		"root/snap":           {"bin", "virt"},
		"root/var/lib/tenure": {"staging", "state.db", "snapshots", "snaps", "state.db.backup"},
		"root/run/tenure":     {"tmp", "etc", "units", "unmended"}, // A request that ran out of its time may leave something to be mended.
		"root/var/snap":       {"virt"},
	} {
		entries, err := os.ReadDir(filepath.Join(a.dir, dir))
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			t.Fatal(err)
		}
		for _, entry := range entries {
			if !slices.Contains(allowed, entry.Name()) {
				t.Errorf("there is %q in %q", entry.Name(), dir)
			}
		}
	}
}
