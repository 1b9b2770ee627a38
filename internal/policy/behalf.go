package policy

import (
	"fmt"
	"slices"

	"tenure"
)

// clientRule is about an instance of another snap that the one which changes has
// started there: the two have lifetimes of their own, but nothing of a snap that goes is
// left running.
func (d *decider) clientRule(s subject) ruled {
	name := fmt.Sprintf("default for what a snap has started in another on %s", d.Change.Reason)
	switch {
	case !d.leaves():
		text := fmt.Sprintf("it is of %s, which the %s of %s does not change", s.ID.Snap, d.Change.Reason, s.By)
		return ruled{tenure.Endure, Rule{Default, name, text}, ""}
	case d.Change.Leave:
		text := fmt.Sprintf("the administrator lets it live on without %s", s.By)
		return ruled{tenure.Endure, Rule{Administrator, "--leave", text}, ""}
	}
	return ruled{tenure.Stop, Rule{Default, name, "it ends with " + string(s.By) + ", which has started it"}, ""}
}

// servedRule is about an instance that another snap has started in the one which
// goes: the administrator is asked, unless that goes too.
func (d *decider) servedRule(s subject) (ruled, bool) {
	if s.By == "" || s.ID.Kind != tenure.Service || !d.leaves() || slices.Contains(d.Change.With, s.By) {
		return ruled{}, false
	}
	name := fmt.Sprintf("default for instances that another snap has started on %s", d.Change.Reason)
	remedy := fmt.Sprintf("stop it or %s %s first, or in the same command, or use --force to end it", d.Change.Reason, s.By)
	return ruled{tenure.Refuse, Rule{Default, name, "it runs for " + string(s.By)}, remedy}, true
}
