package refresh

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"os"
	"runtime"
	"slices"

	"tenure"
	"tenure/internal/policy"
	"tenure/internal/proc"
	"tenure/internal/rules"
	"tenure/internal/rules/rulefile"
	"tenure/internal/snapfile"
	"tenure/internal/supervise"
)

// rules are the administrator's rules that hold now; nil if there are none. Warning is
// about a file that is broken.
func (m *Manager) rules() (set *rules.Set, warning string) {
	if m.cfg.Rules == nil {
		return nil, ""
	}
	set, status := m.cfg.Rules.Rules()
	return set, status.Warning()
}

// rule adds what the administrator's rules say to facts. Known are the revisions of which
// facts speak.
func (m *Manager) rule(facts *policy.Facts, known revisions) {
	set, warning := m.rules()
	if warning != "" {
		facts.Warnings = append(facts.Warnings, warning)
	}
	if set == nil {
		return
	}
	for _, snap := range snapsOf(facts) {
		about := m.ruleFacts(facts, snap, known)
		result := set.Evaluate(about)
		if snap != facts.Change.Snap || facts.Change.From.IsZero() {
			// What is installed for the first time, or only uses what changes, is not refused.
			result.Snap.Refuse = nil
		}
		result.AddTo(facts)
		if set.Dates() {
			dates := set.Endurance(factsAfter(facts, snap, known))
			dates.AddTo(facts)
		}
	}
}

// snapsOf are the snaps that facts have units of, and the one that changes.
func snapsOf(facts *policy.Facts) []tenure.Instance {
	snaps := []tenure.Instance{facts.Change.Snap}
	for i := range facts.Units {
		snaps = append(snaps, facts.Units[i].ID.Snap)
	}
	slices.Sort(snaps)
	return slices.Compact(snaps)
}

// revisions are what is known of snaps: their current revisions, and those that a change
// leads to.
type revisions struct {
	states []snapState
	more   []installed
}

func (r *revisions) current(snap tenure.Instance) tenure.Revision {
	at := slices.IndexFunc(r.states, func(s snapState) bool { return s.Instance == snap })
	if at < 0 {
		return tenure.Revision{}
	}
	return r.states[at].Line.Current
}

func (r *revisions) get(ref tenure.Ref) (installed, bool) {
	for i := range r.more {
		if r.more[i].Ref == ref {
			return r.more[i], true
		}
	}
	for i := range r.states {
		if state := &r.states[i]; state.Instance == ref.Snap && state.Kept[ref.Revision].Info != nil {
			return state.revision(ref.Revision), true
		}
	}
	return installed{}, false
}

// ruleFacts are the facts for rules about one of the snaps that facts are about.
func (m *Manager) ruleFacts(facts *policy.Facts, snap tenure.Instance, known revisions) *rules.Facts {
	current := known.current(snap)
	c := facts.Change
	about, found := known.describe(tenure.Ref{Snap: snap, Revision: current})
	if !found && snap == c.Snap {
		about, _ = known.describe(tenure.Ref{Snap: snap, Revision: c.To})
		about.Revision = current
	}
	var update *rules.Update
	if switches(c) && snap == c.Snap {
		update = &rules.Update{From: current, To: c.To, FromVersion: about.Version}
		if to, found := known.get(tenure.Ref{Snap: snap, Revision: c.To}); found {
			update.ToVersion, update.BaseChange = to.Info.Version, baseFacts(&to) != about.Base
			m.release(&to, update)
		}
	}
	return rules.About(facts, about, node(), update)
}

// factsAfter are the facts for rules about one of the snaps that facts are about, as they
// will be when the change has ended.
func factsAfter(facts *policy.Facts, snap tenure.Instance, known revisions) *rules.Facts {
	ref := tenure.Ref{Snap: snap, Revision: known.current(snap)}
	if c := facts.Change; switches(c) && snap == c.Snap {
		ref.Revision = c.To
	}
	about, _ := known.describe(ref)
	return rules.About(facts, about, node(), nil)
}

func switches(c policy.Change) bool {
	return c.Reason == tenure.ReasonRefresh || c.Reason == tenure.ReasonRevert
}

// describe is what is known of a revision, for rules; of one that is not known its name.
func (r *revisions) describe(ref tenure.Ref) (about rules.Snap, found bool) {
	about = rules.Snap{Name: ref.Snap, Revision: ref.Revision}
	known, found := r.get(ref)
	if found {
		about.Version, about.Base, about.Type = known.Info.Version, baseFacts(&known), snapType(known.Info)
		about.Confinement = confinementOf(&known)
	}
	return about, found
}

// release adds what the source of a revision says of it. A file has no source.
func (*Manager) release(to *installed, update *rules.Update) {
	if to.Origin != nil {
		update.Released, update.Urgency = to.Origin.Release.Released, string(to.Origin.Release.Urgency)
	}
}

func snapType(info *snapfile.Snap) string {
	if info.Type == snapfile.TypeApp {
		return "app"
	}
	return "base"
}

func confinementOf(r *installed) string {
	switch {
	case r.classic():
		return "classic"
	case r.Options.DevMode || r.Info.Confinement == snapfile.Devmode && !r.Options.JailMode:
		return "devmode"
	}
	return "strict"
}

// node is this machine.
func node() rules.Node {
	n := rules.Node{Arch: runtime.GOARCH, CPUs: runtime.NumCPU(), Memory: proc.MachineMemory()}
	n.Name, _ = os.Hostname() // A machine need not have a name.
	return n
}

// termsOf are the terms on which the units of a plan are stopped, where there are rules. There
// are terms for every unit of it: what the plan says is what is done, and nobody asks the
// rules again in the gap.
func (m *Manager) termsOf(plan policy.Plan) map[tenure.UnitID]supervise.Terms {
	if set, _ := m.rules(); set == nil {
		return nil
	}
	terms := make(map[tenure.UnitID]supervise.Terms, len(plan.Items))
	for i := range plan.Items {
		item := &plan.Items[i]
		var t supervise.Terms
		if stop := item.Stop; stop != nil && stop.GraceRule != "" {
			t.Timeout = stop.Timeout
		}
		if stop := item.Stop; stop != nil && stop.KillRule != "" {
			t.Kill = supervise.Kill(stop.Kill)
			if stop.Forced {
				t.Kill = supervise.KillNever // The order is the request's, and goes before this.
			}
		}
		terms[item.Unit] = t
	}
	return terms
}

// halt stops units on the terms that the administrator's rules give. Every stop goes
// through here: one that no plan was made for asks the rules now.
func (m *Manager) halt(ctx context.Context, req supervise.StopRequest) (supervise.Ended, error) {
	req, err := m.onTerms(ctx, req)
	if err != nil {
		return supervise.Ended{}, err
	}
	return m.cfg.Supervisor.Stop(ctx, req)
}

func (m *Manager) onTerms(ctx context.Context, req supervise.StopRequest) (supervise.StopRequest, error) {
	set, _ := m.rules()
	open := slices.DeleteFunc(slices.Clone(req.Units), func(unit tenure.UnitID) bool {
		_, decided := req.Terms[unit]
		return decided
	})
	if set == nil || len(open) == 0 {
		return req, nil
	}
	result, err := m.rulesOn(ctx, set, open, req.Reason)
	if err != nil {
		return req, fmt.Errorf("stop by the rules: %w", err)
	}
	terms := maps.Clone(req.Terms)
	if terms == nil {
		terms = map[tenure.UnitID]supervise.Terms{}
	}
	for _, unit := range open {
		terms[unit] = termsIn(result[unit])
	}
	req.Terms = terms
	return req, nil
}

// termsIn are those that rules give to a unit.
func termsIn(given rules.Outcome) (t supervise.Terms) {
	if given.Grace != nil {
		t.Timeout = given.Grace.Value
	}
	if given.Kill != nil {
		t.Kill = supervise.Kill(given.Kill.Value)
	}
	return t
}

// Terms are those on which a unit ends that nobody has asked to end: what the rules
// give to it now, outside of a change, and no more time than the administrator's limit.
// What they give to a service is for all its generations.
func (m *Manager) Terms(ctx context.Context, unit tenure.UnitID) (supervise.Terms, error) {
	known, err := m.statuses(ctx)
	if err != nil {
		return supervise.Terms{}, fmt.Errorf("terms for the end of %s: %w", unit, err)
	}
	status, found := known[unit]
	if !found {
		return supervise.Terms{}, fmt.Errorf("terms for the end of %s: %w", unit, supervise.ErrUnknown)
	}
	var t supervise.Terms
	if set, _ := m.rules(); set != nil {
		asked := []tenure.UnitID{unit}
		if unit.Overlaps() {
			asked = append(asked, unit.Service())
		}
		result, err := m.rulesOn(ctx, set, asked, "")
		if err != nil {
			return supervise.Terms{}, fmt.Errorf("terms for the end of %s: %w", unit, err)
		}
		t = termsIn(result[unit])
		if unit.Overlaps() {
			of := termsIn(result[unit.Service()])
			t.Timeout, t.Kill = cmp.Or(t.Timeout, of.Timeout), cmp.Or(t.Kill, of.Kill)
		}
	}
	if limit := m.limits().MaxStopTimeout; limit > 0 && status.Spec != nil {
		t.Timeout = t.Grace(status.Spec.Stop, limit)
	}
	return t, nil
}

// rulesOn is what the rules give to units, as they are.
func (m *Manager) rulesOn(ctx context.Context, set *rules.Set, units []tenure.UnitID, reason tenure.Reason) (map[tenure.UnitID]rules.Outcome, error) {
	known, err := m.statuses(ctx)
	if err != nil {
		return nil, err
	}
	states, err := m.snaps.All()
	if err != nil {
		return nil, err
	}
	facts := policy.Facts{Now: m.cfg.Now(), Change: policy.Change{Reason: reason}}
	for _, unit := range units {
		status, found := known[unit]
		if !found {
			continue
		}
		u, err := m.unitFacts(ctx, status)
		if err != nil {
			return nil, err
		}
		facts.Units = append(facts.Units, u)
	}
	all := map[tenure.UnitID]rules.Outcome{}
	revs := revisions{states: states}
	m.declare(&facts, revs)
	for _, snap := range snapsOf(&facts) {
		if snap == "" {
			continue
		}
		result := set.Evaluate(m.ruleFacts(&facts, snap, revs))
		maps.Copy(all, result.Units)
	}
	return all, nil
}

// mayForbidKill reports whether a rule may say that something must not be killed.
func (m *Manager) mayForbidKill() bool {
	set, _ := m.rules()
	return set != nil && set.MayForbidKill()
}

// retainOf is how many revisions of a snap are kept to be reverted to: what a rule says, or
// refresh.retain.
func (m *Manager) retainOf(snap tenure.Instance) int {
	set, _ := m.rules()
	if set == nil || !set.Retains() {
		return m.retain()
	}
	state, err := m.snaps.Get(snap)
	if err != nil || state == nil {
		return m.retain()
	}
	facts := policy.Facts{Now: m.cfg.Now(), Change: policy.Change{Snap: snap, From: state.Line.Current}}
	result := set.Evaluate(m.ruleFacts(&facts, snap, revisions{states: []snapState{*state}}))
	if given := result.Snap.Retain; given != nil {
		return given.Value
	}
	return m.retain()
}

// RulesStatus is how it stands with the file of the administrator's rules.
func (m *Manager) RulesStatus() rulefile.Status {
	if m.cfg.Rules == nil {
		return rulefile.Status{}
	}
	_, status := m.cfg.Rules.Rules()
	return status
}

// RulesFor is what the administrator's rules say about a refresh of a snap, to a revision that
// need not be here yet: whether it is held or refused, how old it must be, and when it
// may begin. Update says what is known of the revision; where it comes from is filled in.
func (m *Manager) RulesFor(ctx context.Context, snap tenure.Instance, update rules.Update, automatic bool) (rules.Result, error) {
	set, _ := m.rules()
	if set == nil {
		return rules.Result{}, nil
	}
	facts, known, err := m.gather(ctx, policy.Change{Reason: tenure.ReasonRefresh, Snap: snap, Auto: automatic})
	if err != nil {
		return rules.Result{}, err
	}
	about := m.ruleFacts(&facts, snap, known)
	update.From, update.FromVersion = about.Snap.Revision, about.Snap.Version
	about.Update = &update
	return set.Evaluate(about), nil
}

// ExplainRules is what every rule says about a snap and its units, for a reason. For a
// refresh the revision is the one that is staged, if there is one.
func (m *Manager) ExplainRules(ctx context.Context, snap tenure.Instance, reason tenure.Reason) ([]rules.Explanation, error) {
	state, err := m.installedSnap("explain the rules for", snap)
	if err != nil {
		return nil, err
	}
	set, _ := m.rules()
	if set == nil {
		return nil, nil
	}
	question := policy.Change{Reason: reason, Snap: snap, From: state.Line.Current}
	if reason == tenure.ReasonRefresh {
		for ref := range m.staged() {
			if ref.Snap == snap {
				question.To = ref.Revision
			}
		}
	}
	facts, known, err := m.gather(ctx, question)
	if err != nil {
		return nil, err
	}
	return set.Explain(m.ruleFacts(&facts, snap, known)), nil
}
