package policy

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"tenure"
)

// describe adds what follows from the verdict: the protocol, the pins, whether
// the unit is stale, and what a person should know.
func (d *decider) describe(s subject, item *Item) {
	if ends(item.Verdict) && len(s.Processes) > 0 {
		protocol := d.protocol(s, item.Verdict)
		item.Stop = &protocol
		item.Notes = append(item.Notes, protocol.notes()...)
		if note := d.beyondMain(s, protocol); note != "" {
			item.Notes = append(item.Notes, note)
		}
	}
	if item.Verdict == tenure.HandOver && item.Stop != nil {
		item.Drain = item.Stop.Timeout
		item.Notes = append(item.Notes, d.handOverNotes(s, item.Drain)...)
	}
	for _, p := range item.Awaits {
		item.Notes = append(item.Notes, fmt.Sprintf("waits for process %d: %s", p.PID, strings.Map(printable, p.CommandLine)))
	}
	if item.Verdict == tenure.Defer && s.ID.Kind != tenure.HookRun {
		limit := d.patience(s)
		item.Deferral = limit.time
		item.Notes = append(item.Notes, limit.notes()...)
	}
	if s.By != "" {
		item.Notes = append(item.Notes, fmt.Sprintf("%s has started it", s.By))
	}
	d.describeObservation(s, item)
	d.describeSurvivor(s, item)
	if s.decl == nil && s.ID.Kind != tenure.HookRun {
		item.Notes = append(item.Notes, fmt.Sprintf("what revision %s declares is not known, so that the defaults hold", s.Revision))
	}
	for _, r := range d.Rulings[s.ID] {
		if r.Aspect == AspectFailed {
			item.Notes = append(item.Notes, fmt.Sprintf("rule %s does not match: %s", r.Rule, r.Value))
		}
	}
	if ruling, ok := d.ruling(s, AspectVerdict); ok && !slices.Contains(tenure.Verdicts(), tenure.Verdict(ruling.Value)) {
		item.Notes = append(item.Notes, fmt.Sprintf("rule %s is passed over: %q is no verdict", ruling.Rule, ruling.Value))
	}
}

// describeObservation says for how long a service that goes on with the new revision
// can still bring the change back. One that endures has nothing to prove. One that hands over
// has proved beside its predecessor that it gets ready; when it fails later, that has gone.
func (d *decider) describeObservation(s subject, item *Item) {
	moves := renews(item.Verdict)
	target := d.target()
	if !moves || s.user || s.ID.Kind != tenure.Service || target == nil {
		return
	}
	item.Observe = target.Apps[s.ID.App].Observe
	if item.Observe > 0 {
		note := fmt.Sprintf("observed for %s: if it fails in that time, the %s is undone", formatDuration(item.Observe), d.Change.Reason)
		if item.Verdict == tenure.HandOver {
			note += "; the old one has drained by then, so that its clients notice"
		}
		item.Notes = append(item.Notes, note)
	}
}

// handOverNotes tell what becomes of the old process, and of what it writes
// (DESIGN.md section 9, 6).
func (d *decider) handOverNotes(s subject, drain time.Duration) []string {
	notes := []string{fmt.Sprintf("the new one starts beside it; when that is ready it is told, and drains for at most %s", formatDuration(drain))}
	if !s.app.KeepsNoData {
		notes = append(notes, "what it writes to its own $SNAP_DATA from the start of the new one on is not carried over")
	}
	return notes
}

func (d *decider) describeSurvivor(s subject, item *Item) {
	if item.Verdict == tenure.Refuse || ends(item.Verdict) && item.Verdict != tenure.HandOver || len(s.Processes) == 0 {
		return
	}
	item.Pins = append([]tenure.Ref{{Snap: s.ID.Snap, Revision: s.Revision}}, s.Uses...)
	if item.Verdict != tenure.Endure && item.Signal == "" {
		return
	}
	item.Stale = d.stale(s)
	if item.Signal != "" {
		item.Notes = append(item.Notes, fmt.Sprintf("told by %s when revision %s is current, and lives on", item.Signal, d.Change.To))
	}
	if note := d.endureNote(s); item.Stale && note != "" {
		item.Notes = append(item.Notes, note)
	}
	if s.user && item.Stale {
		item.Notes = append(item.Notes, d.userNote(s))
	}
	if item.Stale && s.decl != nil && s.decl.Classic {
		item.Notes = append(item.Notes, "classic: it sees the host's files, so that nothing keeps it from opening those of another revision")
	}
	foreign := slices.IndexFunc(s.Processes, func(p Process) bool { return p.Foreign })
	if foreign >= 0 && s.ID.Kind == tenure.Workload {
		item.Notes = append(item.Notes, "processes in control groups that the service made stay in them")
	}
}

// userNote says which revision of the snap that changes a unit of another stays on.
func (d *decider) userNote(s subject) string {
	text, end := "", "it ends"
	if s.ID.Kind == tenure.Service {
		end = "it is restarted"
	}
	for _, used := range s.Uses {
		if used.Snap == d.Change.Snap {
			text = fmt.Sprintf("it stays on %s until %s", used, end)
		}
	}
	if s.Since.IsZero() {
		return text
	}
	return text + ", and has run since " + s.Since.UTC().Format(time.RFC3339)
}

// stale reports whether s will run on another revision than the one that is
// current after the change.
func (d *decider) stale(s subject) bool {
	current := d.Change.From
	if d.switches() {
		current = d.Change.To
	}
	if d.Change.Reason == tenure.ReasonRemove && (!s.user || s.By != d.Change.Snap) {
		return true
	}
	if !s.user {
		return !current.IsZero() && s.Revision != current
	}
	return slices.ContainsFunc(s.Uses, func(r tenure.Ref) bool {
		return r.Snap == d.Change.Snap && !current.IsZero() && r.Revision != current
	})
}

// beyondMain tells what becomes of a service's other processes when the main
// process alone is signalled.
func (d *decider) beyondMain(s subject, protocol Protocol) string {
	if protocol.Target != TargetMain || s.ID.Kind != tenure.Service || len(s.Processes) < 2 {
		return ""
	}
	fate := "lives on as leftover"
	if d.leaves() || d.Change.Reason == tenure.ReasonShutdown {
		fate = "is stopped as leftover"
	}
	return fmt.Sprintf("the main process alone is signalled; what does not end with it %s", fate)
}

// protocol is how s is ended. A workload without a protocol of its own
// has its service's signal, grace and kill, for all its processes, without the
// service's command, which knows nothing of it. The grace of a hand-over is the
// time to drain.
func (d *decider) protocol(s subject, verdict tenure.Verdict) Protocol {
	p := Protocol{Source: "default"}
	switch {
	case s.service.IsZero():
	case s.ID.Kind == tenure.Service:
		p.Stop = s.app.Stop
		if verdict == tenure.HandOver {
			p.Timeout = cmp.Or(s.app.DrainTimeout, p.Timeout)
		}
	default:
		p.Stop = s.app.Stop
		p.Command, p.Target = false, TargetGroup
		if s.workload != nil && s.workload.Stop != nil {
			p.Stop = s.workload.Stop.or(p.Stop)
		}
	}
	switch {
	case s.decl == nil || s.service.IsZero():
	case s.ownStop():
		p.Source = workloadKey(s, "stop")
	default:
		p.Source = appKey(s, "stop")
	}
	if p.Timeout <= 0 {
		p.Timeout = DefaultStopTimeout
	}
	given := p.Timeout
	d.applyRulings(s, &p)
	p.Signal = cmp.Or(p.Signal, "SIGTERM")
	p.Target = cmp.Or(p.Target, TargetGroup)
	p.Kill = cmp.Or(p.Kill, KillAfterTimeout)
	if limit := d.Limits.MaxStopTimeout; limit > 0 && p.Timeout > limit {
		p.Asked, p.Timeout = p.Timeout, limit
	}
	if p.Timeout != given {
		p.Given = given
	}
	if d.Change.Kill && p.Kill == KillNever {
		p.Kill, p.Forced = KillAfterTimeout, true
	}
	return p
}

func (s subject) ownStop() bool { return s.workload != nil && s.workload.Stop != nil }

// or fills what s does not say from other.
func (s Stop) or(other Stop) Stop {
	return Stop{
		Command: s.Command,
		Signal:  cmp.Or(s.Signal, other.Signal),
		Target:  cmp.Or(s.Target, other.Target),
		Timeout: cmp.Or(s.Timeout, other.Timeout),
		Kill:    cmp.Or(s.Kill, other.Kill),
	}
}

// applyRulings lets the administrator's rules change a protocol. A value that
// cannot be read changes nothing.
func (d *decider) applyRulings(s subject, p *Protocol) {
	if r, ok := d.ruling(s, AspectStopTimeout); ok {
		if timeout, err := time.ParseDuration(r.Value); err == nil && timeout > 0 {
			p.Timeout, p.GraceRule, p.Source = timeout, r.Rule, "rule "+r.Rule
		}
	}
	if r, ok := d.ruling(s, AspectKill); ok {
		if kill := Kill(r.Value); kill == KillNever || kill == KillAfterTimeout {
			p.Kill, p.KillRule, p.Source = kill, r.Rule, "rule "+r.Rule
		}
	}
}

func (p Protocol) notes() []string {
	var notes []string
	if p.GraceRule != "" {
		notes = append(notes, fmt.Sprintf("has %s to end, by rule %s", formatDuration(cmp.Or(p.Asked, p.Timeout)), p.GraceRule))
	}
	if p.Asked > 0 {
		notes = append(notes, fmt.Sprintf("the grace period of %s is cut to the administrator's limit of %s", formatDuration(p.Asked), formatDuration(p.Timeout)))
	}
	if p.Forced {
		whose := "the package"
		if p.KillRule != "" {
			whose = "rule " + p.KillRule
		}
		notes = append(notes, fmt.Sprintf("SIGKILL is allowed by the administrator's word (--kill) although %s forbids it", whose))
	}
	by := ""
	if p.KillRule != "" {
		by = ", by rule " + p.KillRule
	}
	if p.Kill == KillAfterTimeout && !p.Forced && by != "" {
		notes = append(notes, "SIGKILL may follow"+by)
	}
	if p.Kill == KillNever {
		notes = append(notes, fmt.Sprintf("never killed%s: if it does not end in %s the change waits for it", by, formatDuration(p.Timeout)))
	}
	return notes
}
