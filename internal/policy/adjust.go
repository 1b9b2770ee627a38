package policy

import (
	"fmt"
	"regexp"
	"slices"
	"time"

	"tenure"
)

// item decides about one subject.
func (d *decider) item(s subject) Item {
	r := d.rule(s)
	item := Item{
		Unit: s.ID, Revision: s.Revision, Main: s.Main, Since: s.Since,
		Verdict: r.verdict, Rule: r.rule, Remedy: r.remedy,
	}
	if len(s.Processes) > 0 {
		item.Processes = make([]tenure.Process, 0, len(s.Processes))
		for i := range s.Processes {
			item.Processes = append(item.Processes, s.Processes[i].Process)
		}
		item.Command = s.Processes[0].CommandLine
	}
	d.adjustToKind(s, &item)
	d.adjustToTarget(s, &item)
	d.adjustToWork(s, &item)
	d.adjustToDeferral(s, &item)
	d.adjustToCompatibility(s, &item)
	d.adjustToConsent(s, &item)
	d.adjustToForce(s, &item)
	d.adjustToEngine(s, &item)
	if item.Verdict != tenure.Refuse {
		item.Remedy = ""
	}
	d.describe(s, &item)
	return item
}

// replace changes the verdict and says why.
func (i *Item) replace(verdict tenure.Verdict, format string, args ...any) {
	i.Awaits, i.While, i.Signal = nil, "", ""
	if i.Wanted == "" {
		i.Wanted = i.Verdict
	}
	i.Verdict = verdict
	i.Notes = append(i.Notes, fmt.Sprintf("instead of %s: %s", i.Wanted, fmt.Sprintf(format, args...)))
}

// refuse makes the item refuse by a rule of its own, which hides the one before.
func (i *Item) refuse(rule Rule, remedy string) {
	i.Wanted, i.Signal = i.Verdict, ""
	i.Verdict, i.Rule, i.Remedy = tenure.Refuse, rule, remedy
}

// ends reports whether v ends the processes that it is about.
func ends(v tenure.Verdict) bool {
	return v == tenure.Restart || v == tenure.Stop || v == tenure.HandOver
}

// renews reports whether v means that the unit runs the new revision afterwards.
func renews(v tenure.Verdict) bool {
	return v == tenure.Restart || v == tenure.Reload || v == tenure.HandOver
}

// adjustToKind replaces verdicts that a unit of this kind, or any unit for this
// reason, cannot have.
func (d *decider) adjustToKind(s subject, item *Item) {
	service, reason := s.ID.Kind == tenure.Service, d.Change.Reason
	restarts := d.switches() || reason == tenure.ReasonRestart
	switch {
	case reason == tenure.ReasonShutdown && item.Verdict != tenure.Stop && s.ID.Kind != tenure.HookRun:
		item.replace(tenure.Stop, "nothing outlives a shutdown")
	case !restarts && renews(item.Verdict):
		item.replace(tenure.Stop, "nothing is started again on %s", reason)
	case service && len(s.Processes) == 0 && !endsOrRefuses(item.Verdict):
		item.replace(d.undeferred(s), "it is not running, so that nothing is interrupted")
	case service:
	case item.Verdict == tenure.Restart:
		item.replace(tenure.Stop, "only a service can be started again")
	case item.Verdict == tenure.HandOver, item.Verdict == tenure.Reload && s.ID.Kind != tenure.Workload:
		item.replace(tenure.Endure, "only a service can do that")
	case item.Verdict == tenure.Reload:
		d.adjustToReload(s, item)
	}
}

// adjustToReload lets a workload live on untold unless its own revision and the new one
// both say that it can be reloaded: who writes the new one knows what has changed.
func (d *decider) adjustToReload(s subject, item *Item) {
	var next *Workload
	if target := d.target(); target != nil {
		next = findWorkload(target.Apps[s.ID.App], s.ID.Name)
	}
	switch {
	case s.workload == nil || s.workload.ReloadSignal == "":
		item.replace(tenure.Endure, "its package does not say that it can be reloaded")
	case next == nil || next.Verdicts[d.Change.Reason] != tenure.Reload:
		item.replace(tenure.Endure, "revision %s does not reload it", d.Change.To)
	default:
		item.Signal = s.workload.ReloadSignal
	}
}

func endsOrRefuses(v tenure.Verdict) bool {
	return v == tenure.Restart || v == tenure.Stop || v == tenure.Refuse
}

// adjustToTarget stops what the new revision no longer has.
func (d *decider) adjustToTarget(s subject, item *Item) {
	target := d.target()
	if target == nil || s.user || s.ID.Kind != tenure.Service || !renews(item.Verdict) {
		return
	}
	switch app := target.Apps[s.ID.App]; {
	case !app.Daemon:
		item.replace(tenure.Stop, "revision %s has no service %s", d.Change.To, s.ID.App)
	case app.Instances != (s.ID.At != ""):
		item.replace(tenure.Stop, "%s is a template for instances in one of the revisions, and not in the other", s.ID.App)
	}
}

// adjustToWork narrows the deferral of a service that says what it must not be
// interrupted in: a database in a transaction. At rest it is dealt with like any other.
func (d *decider) adjustToWork(s subject, item *Item) {
	if item.Verdict != tenure.Defer || item.Rule.Source != Package || s.ID.Kind != tenure.Service || s.app.DeferWhile == "" {
		return
	}
	pattern, err := regexp.Compile(s.app.DeferWhile)
	if err != nil {
		item.Notes = append(item.Notes, fmt.Sprintf("%s is passed over: %v", appKey(s, "lifecycle.defer-while"), err))
		return
	}
	for _, p := range s.Processes {
		if pattern.MatchString(p.CommandLine) {
			item.Awaits = append(item.Awaits, p)
		}
	}
	if len(item.Awaits) == 0 {
		item.replace(d.undeferred(s), "no process of it matches %s", appKey(s, "lifecycle.defer-while"))
		return
	}
	item.While = s.app.DeferWhile
}

// adjustToDeferral ends the patience of a change. Hooks are waited for in any
// case: their time is bounded.
func (d *decider) adjustToDeferral(s subject, item *Item) {
	if item.Verdict != tenure.Defer || s.ID.Kind == tenure.HookRun {
		return
	}
	limit := d.patience(s)
	switch {
	case slices.Contains(d.Lapsed, s.ID):
		item.replace(d.undeferred(s), "what was waited for has ended, and was started again since")
	case d.Change.Now:
		item.replace(d.undeferred(s), "the administrator said now (--now)")
	case limit.none():
		item.replace(d.undeferred(s), "rule %s lets nobody wait for it", limit.rule)
	case limit.time > 0 && !d.Change.Since.IsZero() && d.Now.Sub(d.Change.Since) >= limit.time:
		item.replace(d.undeferred(s), "the change has waited since %s, and %s is the limit%s", d.Change.Since.UTC().Format("2006-01-02"), formatDuration(limit.time), limit.by())
	}
}

// patience is how long a unit may make the change wait: what a rule allows, and
// nobody longer than the limits.
func (d *decider) patience(s subject) patience {
	var p patience
	if r, ok := d.ruling(s, AspectDeferral); ok {
		if span, err := time.ParseDuration(r.Value); err == nil && span >= 0 {
			p = patience{time: span, rule: r.Rule}
		}
	}
	limits := []time.Duration{d.Limits.MaxDeferral}
	if d.Change.Auto {
		limits = append(limits, d.Limits.MaxInhibition)
	}
	for _, limit := range limits {
		if limit <= 0 || p.none() || p.time > 0 && p.time <= limit {
			continue
		}
		if p.rule != "" && p.asked == 0 {
			p.asked = p.time
		}
		p.time = limit
	}
	return p
}

// patience is a limit for waiting: 0 is without a limit, but for a rule, whose 0 is not
// to wait.
type patience struct {
	time time.Duration
	rule string
	// asked is what the rule asked for, where the limits cut it.
	asked time.Duration
}

func (p patience) none() bool { return p.rule != "" && p.time == 0 }

// by names the rule that gave the limit.
func (p patience) by() string {
	if p.rule == "" || p.asked > 0 {
		return ""
	}
	return " by rule " + p.rule
}

func (p patience) notes() []string {
	switch {
	case p.asked > 0:
		return []string{fmt.Sprintf("rule %s lets the change wait for %s, which is cut to the administrator's limit of %s", p.rule, formatDuration(p.asked), formatDuration(p.time))}
	case p.rule != "":
		return []string{fmt.Sprintf("the change waits for %s at most, by rule %s", formatDuration(p.time), p.rule)}
	}
	return nil
}

// undeferred is what happens to a unit that is no longer waited for: a service is
// dealt with as if it had not asked, and what people or services started lives on.
func (d *decider) undeferred(s subject) tenure.Verdict {
	switch {
	case s.ID.Kind == tenure.Service && (d.switches() || d.Change.Reason == tenure.ReasonRestart):
		return tenure.Restart
	case s.ID.Kind == tenure.HookRun, s.ID.Kind == tenure.Service, d.leaves():
		return tenure.Stop
	}
	return tenure.Endure
}

// adjustToCompatibility refuses to leave a workload to a manager that cannot
// handle it (DESIGN.md section 9, 18).
func (d *decider) adjustToCompatibility(s subject, item *Item) {
	target := d.target()
	if item.Verdict != tenure.Endure && item.Verdict != tenure.Reload || s.ID.Kind != tenure.Workload || s.user || target == nil {
		return
	}
	if s.ID.Name == tenure.Leftover || s.ID.Overlaps() {
		return
	}
	w := findWorkload(target.Apps[s.ID.App], s.ID.Name)
	if w == nil {
		item.Notes = append(item.Notes, fmt.Sprintf("revision %s does not declare the workload %s", d.Change.To, s.ID.Name))
		return
	}
	version := ""
	if s.decl != nil {
		version = s.decl.Version
	}
	if w.CompatibleFrom == "" {
		return
	}
	verb := ""
	switch compatible(w.CompatibleFrom, s.Revision, version) {
	case ageFine:
		return
	case ageTooOld:
		verb = "is older"
	case ageUnknown:
		verb = "cannot be compared"
	}
	item.refuse(Rule{Package, workloadKey(s, "compatible-from"), fmt.Sprintf(
		"revision %s can manage workloads from %s on, and %s %s", d.Change.To, w.CompatibleFrom, s.Revision, verb)},
		"end it first, refresh to a revision in between, or use --force to end it")
}

// adjustToConsent holds a package to N12: what it wants to leave behind on disable
// or remove needs the administrator's word.
func (d *decider) adjustToConsent(s subject, item *Item) {
	if item.Verdict != tenure.Endure || !d.leaves() || s.user {
		return
	}
	switch {
	case item.Rule.Source != Package:
	case d.Change.Leave:
		item.Notes = append(item.Notes, "the administrator agreed")
	default:
		rule := item.Rule
		rule.Text += fmt.Sprintf(", and nothing is left running on %s unless you agree", d.Change.Reason)
		item.refuse(rule, "agree with --leave, or use --force to end it")
	}
}

// adjustToForce carries out what would be refused or deferred.
func (d *decider) adjustToForce(s subject, item *Item) {
	if !d.Change.Force {
		return
	}
	switch item.Verdict {
	case tenure.Defer:
		item.replace(d.undeferred(s), "the administrator said now (--force)")
	case tenure.Refuse:
		item.replace(d.forced(s), "the administrator said now (--force)")
	case tenure.Restart, tenure.Reload, tenure.HandOver, tenure.Endure, tenure.Stop:
	}
}

// forced is what happens to a unit whose refusal does not count. What people run is
// left alone by a refresh, since that is in nobody's way.
func (d *decider) forced(s subject) tenure.Verdict {
	if s.ID.Kind == tenure.Workload {
		return tenure.Stop
	}
	return d.undeferred(s)
}

// adjustToEngine replaces what the engine cannot carry out by what is safest.
func (d *decider) adjustToEngine(s subject, item *Item) {
	can := func(v tenure.Verdict) bool {
		return v == tenure.Refuse || len(d.Supported) == 0 || slices.Contains(d.Supported, v)
	}
	if can(item.Verdict) {
		return
	}
	missing := item.Verdict
	instead := tenure.Refuse
	switch {
	case missing == tenure.Defer && d.Change.Reason == tenure.ReasonShutdown:
		instead = tenure.Stop
	case missing != tenure.Reload && missing != tenure.HandOver:
	case s.ID.Kind == tenure.Service && can(tenure.Restart):
		instead = tenure.Restart
	case s.ID.Kind == tenure.Workload && can(tenure.Endure):
		instead = tenure.Endure
	}
	item.replace(instead, "this version of Tenure cannot %s yet", missing)
	if instead == tenure.Refuse && item.Remedy == "" {
		item.Remedy = "end it first, or use --force"
	}
}
