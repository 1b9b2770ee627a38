package refresh

import (
	"bytes"
	"context"
	"encoding/json"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"tenure"
	"tenure/internal/change"
	"tenure/internal/supervise"
	"tenure/internal/supervise/supervisetest"
)

// stale is a house whose service endures on x1 since now, while x2 is current.
func stale(t *testing.T, said *bytes.Buffer) *house {
	t.Helper()
	h := newHouse(t, supervisetest.Program{})
	h.cfg.Logger = slog.New(slog.NewTextHandler(said, nil))
	state, err := h.snaps.Get("db")
	if err != nil {
		t.Fatal(err)
	}
	before := state.with(state.Line)
	before.Line.Current = tenure.LocalRevision(1)
	state.left(before, h.cfg.Now())
	r := state.revision(tenure.LocalRevision(1))
	unit := tenure.ServiceUnit("db", "db")
	if _, err := h.twin.Stop(t.Context(), supervise.StopRequest{Units: []tenure.UnitID{unit}}); err != nil {
		t.Fatal(err)
	}
	if err := h.twin.Start(t.Context(), h.launch.service(&r, &r.Info.Apps[0])); err != nil {
		t.Fatal(err)
	}
	if err := h.snaps.Put("db", state); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = h.Converge(ctx)
	}()
	t.Cleanup(func() {
		cancel()
		<-done
	})
	return h
}

func (h *house) configure(t *testing.T, patch map[string]json.RawMessage) {
	t.Helper()
	id, err := h.Configure(t.Context(), System, patch)
	if err != nil {
		t.Fatal(err)
	}
	if c, err := h.engine.WaitFor(t.Context(), id); err != nil || c.Status != change.Done {
		t.Fatalf("configure: %+v, %v", c, err)
	}
	synctest.Wait()
}

func pass(d time.Duration) {
	time.Sleep(d) //nolint:forbidigo // In the bubble this is the clock.
	synctest.Wait()
}

// What endures is shown with its date, warned of when that has come, and left alone; when
// the administrator then wants it ended, it is, and starts again on the current revision.
func TestWhatEnduresConverges(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var said bytes.Buffer
		begun := time.Now()
		h := stale(t, &said)
		const warning = "endures on an old revision for longer"
		pass(365 * 24 * time.Hour)
		h.wantRevision(t, tenure.LocalRevision(1))
		if said.Len() > 0 {
			t.Errorf("without a limit: %s", said.String())
		}
		h.configure(t, map[string]json.RawMessage{optionEndure: json.RawMessage(`"366d"`)})
		units, err := h.Units(t.Context())
		if err != nil || len(units) != 1 {
			t.Fatalf("units %+v, %v", units, err)
		}
		if u := units[0]; !u.Stale || !u.StaleSince.Equal(begun) || !u.EnduresUntil.Equal(begun.Add(366*24*time.Hour)) || u.EnduredEnds {
			t.Errorf("stale %t since %s, endures until %s, ends %t", u.Stale, u.StaleSince, u.EnduresUntil, u.EnduredEnds)
		}
		pass(24*time.Hour - time.Second)
		if strings.Contains(said.String(), warning) {
			t.Errorf("warned before the date: %s", said.String())
		}
		pass(time.Second)
		pass(48 * time.Hour)
		if n := strings.Count(said.String(), warning); n != 1 {
			t.Errorf("warned %d times: %s", n, said.String())
		}
		h.wantRevision(t, tenure.LocalRevision(1))
		h.configure(t, map[string]json.RawMessage{optionEndured: json.RawMessage(`"end"`)})
		h.wantRevision(t, tenure.LocalRevision(2))
		last := h.engine.List(change.Filter{Snap: "db"})
		if c := last[len(last)-1]; c.Status != change.Done || !strings.Contains(c.Summary, "Restart db.db: on an old revision since ") {
			t.Errorf("the change is %s: %s", c.Status, c.Summary)
		}
		if sent := h.sent(); len(sent) != 2 || sent[1] != "SIGTERM" { // The first was that of the test.
			t.Errorf("signals %v", sent)
		}
	})
}

// The date is kept to when it comes, and once.
func TestWhatEnduresIsEndedAtItsDate(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var said bytes.Buffer
		h := stale(t, &said)
		h.configure(t, map[string]json.RawMessage{optionEndure: json.RawMessage(`"7d"`), optionEndured: json.RawMessage(`"end"`)})
		pass(7*24*time.Hour - time.Second)
		h.wantRevision(t, tenure.LocalRevision(1))
		pass(time.Second)
		h.wantRevision(t, tenure.LocalRevision(2))
		pass(time.Hour)
		if n := strings.Count(said.String(), "is ended"); n != 1 {
			t.Errorf("ended %d times: %s", n, said.String())
		}
	})
}
