package revision_test

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/cockroachdb/datadriven"

	"tenure"
	"tenure/internal/revision"
)

// TestScripts runs the transcripts in testdata. go test -rewrite writes them anew.
func TestScripts(t *testing.T) {
	t.Parallel()
	l := line{facts: revision.Facts{
		Units: map[tenure.Revision][]tenure.UnitID{}, Changes: map[tenure.Revision][]string{},
		Admin: map[tenure.Revision][]string{}, Users: map[tenure.Revision][]tenure.Process{},
	}}
	datadriven.RunTest(t, "testdata/lines.txt", func(t *testing.T, d *datadriven.TestData) string {
		t.Helper()
		var rev tenure.Revision
		if len(d.CmdArgs) > 0 {
			var err error
			if rev, err = tenure.ParseRevision(d.CmdArgs[0].Key); err != nil {
				d.Fatalf(t, "%v", err)
			}
		}
		return l.run(t, d, rev)
	})
}

type line struct {
	state revision.State
	facts revision.Facts
}

func (l *line) run(t *testing.T, d *datadriven.TestData, rev tenure.Revision) string {
	t.Helper()
	var err error
	pins := revision.Pins(l.state, l.facts)
	switch d.Cmd {
	case "install":
		l.state, _, err = revision.Install(l.state, rev)
	case "refresh":
		l.state, _, err = revision.Refresh(l.state, rev)
	case "revert":
		l.state, _, err = revision.Revert(l.state, rev)
	case "stage":
		l.state, _, err = revision.Stage(l.state, rev)
	case "enable":
		l.state, _, err = revision.Enable(l.state)
	case "disable":
		l.state, _, err = revision.Disable(l.state)
	case "remove":
		l.state, _, err = revision.Remove(l.state)
	case "remove-revision":
		l.state, _, err = revision.RemoveRevision(l.state, rev, pins)
	case "collect":
		for _, gone := range revision.Unreachable(l.state, pins) {
			if l.state, _, err = revision.Forget(l.state, gone); err != nil {
				d.Fatalf(t, "%v", err)
			}
		}
	case "retain":
		l.facts.Retain = rev.Number()
	case "pin", "unpin":
		l.pin(t, d, rev)
	case "next-local":
		return l.state.NextLocal().String() + "\n"
	case "pins":
		return l.pins()
	default:
		d.Fatalf(t, "unknown directive %s", d.Cmd)
	}
	if err != nil {
		return "error: " + err.Error() + "\n"
	}
	return l.String()
}

func (l *line) pin(t *testing.T, d *datadriven.TestData, rev tenure.Revision) {
	t.Helper()
	if d.Cmd == "unpin" {
		delete(l.facts.Units, rev)
		delete(l.facts.Changes, rev)
		delete(l.facts.Admin, rev)
		delete(l.facts.Users, rev)
		return
	}
	by := d.CmdArgs[1].Vals[0]
	switch d.CmdArgs[1].Key {
	case "unit":
		unit, err := tenure.ParseUnit(by)
		if err != nil {
			d.Fatalf(t, "%v", err)
		}
		l.facts.Units[rev] = append(l.facts.Units[rev], unit)
	case "change":
		l.facts.Changes[rev] = append(l.facts.Changes[rev], by)
	case "admin":
		l.facts.Admin[rev] = append(l.facts.Admin[rev], by)
	case "process":
		pid, err := strconv.Atoi(by)
		if err != nil {
			d.Fatalf(t, "%v", err)
		}
		l.facts.Users[rev] = append(l.facts.Users[rev], tenure.Process{PID: pid})
	}
}

func (l *line) pins() string {
	var b strings.Builder
	pins := revision.Pins(l.state, l.facts)
	for _, rev := range l.state.Kept() {
		fmt.Fprintf(&b, "%s: %v\n", rev, pins[rev])
	}
	return b.String()
}

func (l *line) String() string {
	var words []string
	for _, rev := range l.state.Sequence {
		word := rev.String()
		if rev == l.state.Current {
			word = "[" + word + "]"
		}
		words = append(words, word)
	}
	text := strings.Join(words, " ")
	if !l.state.Installed() {
		text = "not installed"
	} else if !l.state.Active {
		text += " disabled"
	}
	if len(l.state.Aside) > 0 {
		text += fmt.Sprintf(", aside %v", l.state.Aside)
	}
	if len(l.state.Skipped) > 0 {
		text += fmt.Sprintf(", skipped %v", l.state.Skipped)
	}
	if idle := revision.Unreachable(l.state, revision.Pins(l.state, l.facts)); len(idle) > 0 {
		text += fmt.Sprintf(" => %v", slices.Clone(idle))
	}
	return text + "\n"
}
