package policy

import (
	"fmt"
	"slices"

	"tenure"
)

// ruled is a verdict with the rule that gave it.
type ruled struct {
	verdict tenure.Verdict
	rule    Rule
	remedy  string
}

// rule gives the verdict on s before anything is adjusted: by name, by a rule of
// the administrator, by the package, by default.
func (d *decider) rule(s subject) ruled {
	switch {
	case s.user && s.By == d.Change.Snap:
		return d.clientRule(s)
	case s.user:
		return d.userRule(s)
	}
	switch named := d.named(s); {
	case named && d.Change.Overdue:
		return d.overdueRule(s)
	case named:
		return d.namedRule(s)
	}
	if r, ok := d.rulingRule(s); ok {
		return r
	}
	if r, ok := d.servedRule(s); ok {
		return r
	}
	if r, ok := d.packageRule(s); ok {
		return r
	}
	return d.defaultRule(s)
}

// namedRule is about a unit that the administrator named: it does not endure.
func (d *decider) namedRule(s subject) ruled {
	r := ruled{verdict: tenure.Stop, rule: Rule{Administrator, "named in the request", "a unit that the administrator names does not endure"}}
	switch d.Change.Reason {
	case tenure.ReasonRefresh, tenure.ReasonRevert:
		if s.ID.Kind == tenure.Service {
			r.verdict = tenure.Restart
		}
	case tenure.ReasonRestart:
		r.verdict = tenure.Restart
		if s.ID.Kind != tenure.Service {
			r.verdict = tenure.Refuse
			r.rule.Text = "only a service can be restarted"
			r.remedy = "stop it instead"
		}
	case tenure.ReasonStop, tenure.ReasonDisable, tenure.ReasonRemove, tenure.ReasonShutdown:
	}
	return r
}

// vetoRule is a rule that does not want the change.
func (d *decider) vetoRule(s subject) (ruled, bool) {
	veto, ok := d.ruling(s, AspectRefuse)
	if !ok {
		return ruled{}, false
	}
	text := fmt.Sprintf("rule %s of the administrator says: %s", veto.Rule, veto.Value)
	return ruled{tenure.Refuse, Rule{Administrator, veto.Rule, text}, "change the rule, or use --force"}, true
}

func (d *decider) rulingRule(s subject) (ruled, bool) {
	if veto, ok := d.vetoRule(s); ok {
		return veto, true
	}
	ruling, ok := d.ruling(s, AspectVerdict)
	if !ok {
		return ruled{}, false
	}
	verdict := tenure.Verdict(ruling.Value)
	if !slices.Contains(tenure.Verdicts(), verdict) {
		return ruled{}, false
	}
	text := fmt.Sprintf("rule %s of the administrator says %s", ruling.Rule, verdict)
	return ruled{verdict, Rule{Administrator, ruling.Rule, text}, "change the rule, or use --force"}, true
}

func (d *decider) ruling(s subject, aspect Aspect) (Ruling, bool) {
	return rulingOn(d.Rulings[s.ID], aspect)
}

func rulingOn(rulings []Ruling, aspect Aspect) (Ruling, bool) {
	at := slices.IndexFunc(rulings, func(r Ruling) bool { return r.Aspect == aspect })
	if at < 0 {
		return Ruling{}, false
	}
	return rulings[at], true
}

// packageRule is what the revision that s was started from declares.
func (d *decider) packageRule(s subject) (ruled, bool) {
	switch s.ID.Kind {
	case tenure.Service:
		return d.serviceRule(s)
	case tenure.Workload:
		if s.workload == nil || s.workload.Verdicts[d.Change.Reason] == "" {
			return ruled{}, false
		}
		verdict := s.workload.Verdicts[d.Change.Reason]
		return declared(verdict, workloadKey(s, string(d.Change.Reason)), "the workload "+s.ID.Name), true
	case tenure.AppRun:
		if d.switches() && s.app.RefreshMode == RefreshIgnoreRunning {
			return declared(tenure.Endure, appKey(s, "refresh-mode"), "the app"), true
		}
	case tenure.HookRun:
	}
	return ruled{}, false
}

func (d *decider) serviceRule(s subject) (ruled, bool) {
	switch {
	case !d.switches():
		return ruled{}, false
	case s.app.Refresh != "":
		return declared(s.app.Refresh, appKey(s, "lifecycle.refresh"), "the service"), true
	case s.app.RefreshMode == RefreshRestart:
		return declared(tenure.Restart, appKey(s, "refresh-mode"), "the service"), true
	case s.app.RefreshMode != "":
		return declared(tenure.Endure, appKey(s, "refresh-mode"), "the service"), true
	}
	return ruled{}, false
}

func declared(verdict tenure.Verdict, key, what string) ruled {
	text := "the package says that " + what + " " + declaration(verdict)
	return ruled{verdict, Rule{Package, key, text}, "stop it first, or use --force"}
}

func declaration(verdict tenure.Verdict) string {
	switch verdict {
	case tenure.Restart:
		return "is to be restarted"
	case tenure.Reload:
		return "is to be reloaded"
	case tenure.HandOver:
		return "hands over to the new one"
	case tenure.Endure:
		return "is to live on"
	case tenure.Defer:
		return "is waited for"
	case tenure.Stop:
		return "is to end"
	case tenure.Refuse:
		return "must not be interrupted"
	}
	return ""
}

func appKey(s subject, key string) string { return "apps." + string(s.ID.App) + "." + key }

func workloadKey(s subject, key string) string {
	return appKey(s, "lifecycle.workloads."+s.ID.Name+"."+key)
}

// defaultRule is the table of DESIGN.md section 3.
func (d *decider) defaultRule(s subject) ruled {
	reason := d.Change.Reason
	switch s.ID.Kind {
	case tenure.Service:
		if s.ID.At != "" && d.switches() {
			name := fmt.Sprintf("default for instances on %s", reason)
			return ruled{tenure.Endure, Rule{Default, name, "an instance of a template stays on the revision that it was started from"}, ""}
		}
		name := fmt.Sprintf("default for services on %s", reason)
		if d.switches() || reason == tenure.ReasonRestart {
			return ruled{tenure.Restart, Rule{Default, name, "a service is restarted unless its package says otherwise"}, ""}
		}
		return ruled{tenure.Stop, Rule{Default, name, "a service ends by its stop protocol"}, ""}
	case tenure.Workload:
		return d.defaultForWorkload(s)
	case tenure.AppRun:
		return d.defaultForApp(s)
	case tenure.HookRun:
	}
	name := fmt.Sprintf("default for hooks on %s", reason)
	return ruled{tenure.Defer, Rule{Default, name, "a hook that runs is waited for"}, "try again when the hook has ended"}
}

func (d *decider) defaultForWorkload(s subject) ruled {
	what, plural := "a workload", "workloads"
	if s.ID.Name == tenure.Leftover {
		what, plural = "what a service left behind without naming it", "leftovers"
	}
	if s.ID.Overlaps() {
		what, plural = "another generation of a service", "generations beside a service"
	}
	name := fmt.Sprintf("default for %s on %s", plural, d.Change.Reason)
	if d.leaves() || d.Change.Reason == tenure.ReasonShutdown {
		return ruled{tenure.Stop, Rule{Default, name, what + " ends with its snap"}, ""}
	}
	return ruled{tenure.Endure, Rule{Default, name, what + " lives on when its service is stopped or restarted"}, ""}
}

func (d *decider) defaultForApp(s subject) ruled {
	name := fmt.Sprintf("default for apps on %s", d.Change.Reason)
	switch {
	case !d.switches():
		return ruled{tenure.Stop, Rule{Default, name, "a run of an app ends with its snap"}, ""}
	case d.Change.IgnoreRunning:
		return ruled{tenure.Endure, Rule{Administrator, "--ignore-running", "the administrator lets running apps live on"}, ""}
	case d.Change.Auto:
		name = fmt.Sprintf("default for apps on automatic %s", d.Change.Reason)
		return ruled{tenure.Defer, Rule{Default, name, "an automatic refresh waits for people"}, "close it"}
	}
	text := fmt.Sprintf("a %s by hand does not take an app away from a person", d.Change.Reason)
	return ruled{tenure.Refuse, Rule{Default, name, text}, "close it, or use --ignore-running to let it live on at revision " + s.Revision.String()}
}

// userRule is about a unit of another snap that has the changing one mounted.
func (d *decider) userRule(s subject) ruled {
	reason := d.Change.Reason
	name := fmt.Sprintf("default for users of another snap on %s", reason)
	if !d.leaves() {
		return ruled{tenure.Endure, Rule{Default, name, "a unit keeps for life the base that it was started on"}, ""}
	}
	text := fmt.Sprintf("it runs on %s", d.Change.Snap)
	return ruled{tenure.Refuse, Rule{Default, name, text}, fmt.Sprintf("stop it or remove %s first, or use --force to end it", s.ID.Snap)}
}
