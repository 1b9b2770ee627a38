package refresh

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"tenure"
	"tenure/internal/change"
	"tenure/internal/policy"
	"tenure/internal/rules"
	"tenure/internal/supervise"
	"tenure/internal/supervise/supervisetest"
)

// ruled replaces the rules of a house.
func (h *house) ruled(t *testing.T, text string) {
	t.Helper()
	path := h.cfg.Paths.Policy()
	if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o700), os.WriteFile(path+".new", []byte(text), 0o600), os.Rename(path+".new", path)); err != nil {
		t.Fatal(err)
	}
}

// A stop that no plan was made for asks the rules; one that a plan was made for keeps to
// the plan, whatever the rules say by now.
func TestStopsAreOnTerms(t *testing.T) {
	t.Parallel()
	h := newHouse(t, supervisetest.Program{IgnoreTerm: true})
	unit := tenure.ServiceUnit("db", "db")
	h.ruled(t, "- {name: must, when: 'app.name == \"db\" && change.reason == \"stop\"', do: {kill: after-timeout}}")
	planned := map[tenure.UnitID]supervise.Terms{unit: {Kill: supervise.KillNever, Timeout: time.Millisecond}}
	req := supervise.StopRequest{Units: []tenure.UnitID{unit}, Reason: tenure.ReasonStop, Terms: planned}
	if _, err := h.halt(t.Context(), req); !errors.Is(err, supervise.ErrStopTimeout) {
		t.Fatalf("a stop that was planned without SIGKILL: %v", err)
	}
	req.Terms = nil
	ended, err := h.halt(t.Context(), req)
	if err != nil || !slices.Equal(ended.Killed, []tenure.UnitID{unit}) {
		t.Errorf("a stop that a rule lets kill: %+v, %v", ended, err)
	}
}

// A unit that nobody has asked to end does so on the terms of the rules, too, and within
// the administrator's limit.
func TestEndsAreOnTerms(t *testing.T) {
	t.Parallel()
	h := newHouse(t, supervisetest.Program{IgnoreTerm: true})
	unit := tenure.ServiceUnit("db", "db")
	want := func(want supervise.Terms) {
		t.Helper()
		if terms, err := h.Terms(t.Context(), unit); err != nil || terms != want {
			t.Errorf("terms %+v, %v, want %+v", terms, err, want)
		}
	}
	want(supervise.Terms{})
	h.ruled(t, `
- {name: never, when: 'unit.id == "db.db" && change.reason == "" && process.main', do: {kill: never}}
- {name: patient, when: 'snap.name == "db"', do: {grace: 2h}}
`)
	want(supervise.Terms{Kill: supervise.KillNever, Timeout: 2 * time.Hour})
	if err := h.settings.Put(optionStopTimeout, json.RawMessage(`"1h"`)); err != nil {
		t.Fatal(err)
	}
	want(supervise.Terms{Kill: supervise.KillNever, Timeout: time.Hour})
	if terms, err := h.Terms(t.Context(), tenure.ServiceUnit("db", "other")); !errors.Is(err, supervise.ErrUnknown) {
		t.Errorf("terms of what there is not: %+v, %v", terms, err)
	}
}

// What a rule says of a service holds for the generation that it hands over from.
func TestTermsOfGenerations(t *testing.T) {
	t.Parallel()
	unit := tenure.ServiceUnit("web", "web")
	draining := unit.Workload(tenure.Draining, 4711)
	p := handOverParams{Terms: map[tenure.UnitID]supervise.Terms{unit: {Kill: supervise.KillNever}}}
	if terms := p.termsBeside([]tenure.UnitID{draining}); terms[draining].Kill != supervise.KillNever {
		t.Errorf("terms of %s: %+v", draining, terms)
	}
}

// Whoever asks when a revision may come hears of the rules on it, and on the units that
// run, though the revision is not there yet.
func TestRulesForAnUpdate(t *testing.T) {
	t.Parallel()
	h := newHouse(t, supervisetest.Program{})
	if result, err := h.RulesFor(t.Context(), "db", rules.Update{}, true); err != nil || result.Snap.Hold != nil {
		t.Errorf("without rules: %+v, %v", result, err)
	}
	h.ruled(t, `
- {name: urgent, when: 'has(update.urgency) && update.urgency == "high"', do: {minimum-age: 1h}}
- {name: week, when: 'change.automatic', do: {minimum-age: 1w, window: 'sun,02:00-05:00'}}
- {name: bench, when: 'update.from_version == "1" && update.step == "major"', do: {refuse: not here}}
- {name: running, when: 'unit.kind == "service" && process.age < days(1)', do: {hold: it has just begun}}
`)
	update := rules.Update{To: tenure.SourceRevision(7), ToVersion: "2", Urgency: "low", Released: time.Now()}
	result, err := h.RulesFor(t.Context(), "db", update, true)
	if err != nil {
		t.Fatal(err)
	}
	snap := result.Snap
	if snap.MinimumAge == nil || snap.MinimumAge.Rule != "week" || snap.MinimumAge.Value != 7*24*time.Hour || snap.Window == nil ||
		snap.Refuse == nil || snap.Refuse.Value != "not here" || snap.Hold == nil || snap.Hold.Rule != "running" {
		t.Errorf("given: %+v, failures %+v", snap, result.Failures)
	}
	update.Urgency = "high"
	if result, err = h.RulesFor(t.Context(), "db", update, false); err != nil || result.Snap.MinimumAge.Rule != "urgent" || result.Snap.Window != nil {
		t.Errorf("given for what is urgent, by hand: %+v, %v", result.Snap, err)
	}
}

// A change waits as long as a rule allows, and is decided anew by other rules.
func TestRulesChangeWhatWaits(t *testing.T) {
	t.Parallel()
	h := newHouse(t, supervisetest.Program{})
	h.ruled(t, "- {name: patience, when: true, do: {verdict: defer, deferral: 1d}}")
	c := h.revert(t)
	plan := plansOf(c)[0]
	if c.Status != change.Wait || plan.Items[0].Rule != (policy.Rule{Source: policy.Administrator, Name: "patience", Text: "rule patience of the administrator says defer"}) {
		t.Fatalf("the change is %s by %+v", c.Status, plan.Items[0].Rule)
	}
	h.ruled(t, "- {name: now, when: true, do: {verdict: restart, kill: after-timeout}}")
	h.RulesChanged(t.Context())
	if c = h.until(t, c.ID, func(c change.Change) bool { return c.Status.Ready() }); c.Status != change.Done {
		t.Errorf("the change is %s: %s", c.Status, c.Err)
	}
	h.wantRevision(t, tenure.LocalRevision(1))
}
