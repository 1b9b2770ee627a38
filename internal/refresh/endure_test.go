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
	"tenure/internal/policy"
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
		if u := units[0]; !u.Stale || !u.StaleSince.Equal(begun) || !u.EnduresUntil.Equal(begun.Add(366*24*time.Hour)) || u.Endurance.Ends {
			t.Errorf("stale %t since %s, endures until %s, ends %t", u.Stale, u.StaleSince, u.EnduresUntil, u.Endurance.Ends)
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

// dateOf is the only unit of the house, which is stale.
func (h *house) dateOf(t *testing.T) UnitInfo {
	t.Helper()
	units, err := h.Units(t.Context())
	if err != nil || len(units) != 1 || !units[0].Stale {
		t.Fatalf("units %+v, %v", units, err)
	}
	return units[0]
}

// rule replaces the rules of the house, and lets everybody hear of it who would.
func (h *house) rule(t *testing.T, text string) {
	t.Helper()
	h.ruled(t, text)
	h.RulesChanged(t.Context())
	synctest.Wait()
}

// A rule sets the date, without any limit of the machine; it is warned of, until a rule says
// that what is past its date is ended: then it is, when the date has come, on the terms of
// rules, and the plan, the change and the history say by which.
func TestRulesSetDates(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var said bytes.Buffer
		begun := time.Now()
		h := stale(t, &said)
		h.rule(t, "- {name: week, when: unit.kind == 'service', do: {endure: 1w}}")
		if u := h.dateOf(t); !u.EnduresUntil.Equal(begun.Add(7*24*time.Hour)) || u.Endurance.Rule != "week" || u.Endurance.Ends {
			t.Errorf("until %s by %+v", u.EnduresUntil, u.Endurance)
		}
		pass(7*24*time.Hour - time.Second)
		const warning = `because="rule week gives it 7d"`
		if strings.Contains(said.String(), warning) {
			t.Errorf("warned before the date: %s", said.String())
		}
		pass(time.Hour)
		if n := strings.Count(said.String(), warning); n != 1 {
			t.Errorf("warned %d times: %s", n, said.String())
		}
		h.rule(t, `
- {name: longer, when: 'unit.stale', do: {endure: 10d, grace: 3s}}
- {name: stopped, when: 'snap.name == "db"', do: {endure-action: end}}
`)
		if u := h.dateOf(t); !u.EnduresUntil.Equal(begun.Add(10*24*time.Hour)) || u.Endurance.Rule != "longer" || u.Endurance.EndRule != "stopped" {
			t.Errorf("until %s by %+v", u.EnduresUntil, u.Endurance)
		}
		pass(3*24*time.Hour - time.Hour)
		h.wantRevision(t, tenure.LocalRevision(1))
		pass(time.Second)
		h.wantRevision(t, tenure.LocalRevision(2))
		all := h.engine.List(change.Filter{Snap: "db"})
		c := all[len(all)-1]
		if !strings.HasSuffix(c.Summary, "and rule longer gives it 10d, after which rule stopped ends it") {
			t.Errorf("the change: %s", c.Summary)
		}
		item := plansOf(c)[0].Items[0]
		if item.Rule.Source != policy.Administrator || item.Rule.Name != "stopped" || item.Stop.Timeout != 3*time.Second || item.Stop.GraceRule != "longer" {
			t.Errorf("the plan: %+v, %+v", item.Rule, item.Stop)
		}
	})
}

// A rule that speaks of ages is asked again as time passes, though nothing else happens.
func TestDatesByAge(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var said bytes.Buffer
		h := stale(t, &said)
		h.rule(t, "- {name: old, when: unit.age > days(9), do: {endure: 1d, endure-action: end}}")
		pass(9*24*time.Hour - time.Second)
		h.wantRevision(t, tenure.LocalRevision(1))
		if u := h.dateOf(t); !u.EnduresUntil.IsZero() {
			t.Errorf("before its age: until %s by %+v", u.EnduresUntil, u.Endurance)
		}
		pass(time.Second + enduredAgain)
		h.wantRevision(t, tenure.LocalRevision(2))
	})
}

// What a rule does not let end now is warned of, and ended when the rule lets it.
func TestRulesKeepTheOverdue(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var said bytes.Buffer
		h := stale(t, &said)
		const week = "- {name: week, when: true, do: {endure: 1w, endure-action: end}}\n"
		h.rule(t, week+"- {name: not-now, when: 'change.automatic && app.name == \"db\"', do: {refuse: not now}}")
		pass(8 * 24 * time.Hour)
		h.wantRevision(t, tenure.LocalRevision(1))
		if n := strings.Count(said.String(), "level=WARN"); n != 1 || strings.Contains(said.String(), "level=ERROR") {
			t.Errorf("warned %d times:\n%s", n, said.String())
		}
		h.rule(t, week)
		h.wantRevision(t, tenure.LocalRevision(2))
	})
}
