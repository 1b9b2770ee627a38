package systemd

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"testing"

	"tenure/internal/supervise"
)

const unitDir = "/run/systemd/system"

// TestKilledInALaunch: the supervisor was killed when the next generation ran, and before the service was
// that for systemd.
func TestKilledInALaunch(t *testing.T) {
	t.Parallel()
	sc := newScene(t)
	sc.start(sc.revision(supervise.Notify, 1))
	old := sc.show("web", "Id")
	before := map[string][]byte{filepath.Join(unitDir, old): nil, sc.path("specs/" + old + specSuffix): nil}
	for path := range before {
		before[path] = sc.read(path)
	}
	running := sc.switchTo(sc.revision(supervise.Notify, 2))
	now := filepath.Base(running.Group)
	sc.end()
	for path, text := range before {
		if err := os.WriteFile(path, text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	alias := filepath.Join(unitDir, sc.alias("web")+service)
	if _, err := sc.s.host.files.pointTo(alias, old); err != nil {
		t.Fatal(err)
	}
	sc.rewrite(filepath.Join(sc.path("units"), unitOf("web").String()+".json"), func(rec map[string]any) {
		rec["launching"], rec["state"] = true, supervise.Starting
		delete(rec, "main")
		delete(rec, "ready")
	})
	sc.another()
	if target, err := os.Readlink(alias); err != nil || target != now {
		t.Errorf("the alias is %s, %v, and %s runs", target, err, now)
	}
	sc.await("systemd knows what runs", func() bool { return sc.show("web", "Id") == now })
	if status := sc.status(unitOf("web")); status.Main != running.Main {
		t.Errorf("the service is %+v, before it was %+v", status, running)
	}
}

// TestKilledBeforeAReload: systemd is told by the next supervisor which unit the service is.
func TestKilledBeforeAReload(t *testing.T) {
	t.Parallel()
	sc := newScene(t)
	sc.start(sc.revision(supervise.Notify, 1))
	sc.s.Gap(true)
	now := ""
	for n := 2; now == "" || sc.show("web", "Id") == now; n++ { // The other tests have systemd read all units, too.
		now = filepath.Base(sc.switchTo(sc.revision(supervise.Notify, n)).Group)
	}
	sc.end()
	sc.another()
	sc.await("systemd knows what runs", func() bool { return sc.show("web", "Id") == now })
}

func (sc *scene) read(path string) []byte {
	sc.t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		sc.t.Fatal(err)
	}
	return text
}

// rewrite changes a record.
func (sc *scene) rewrite(path string, change func(rec map[string]any)) {
	sc.t.Helper()
	rec := make(map[string]any)
	decoder := json.NewDecoder(bytes.NewReader(sc.read(path)))
	decoder.UseNumber()
	if err := decoder.Decode(&rec); err != nil {
		sc.t.Fatal(err)
	}
	change(rec)
	text, err := json.Marshal(rec)
	if err == nil {
		err = os.WriteFile(path, text, 0o600)
	}
	if err != nil {
		sc.t.Fatal(err)
	}
}
