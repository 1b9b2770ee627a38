package policy_test

import (
	"slices"
	"strings"
	"testing"

	"tenure"
	"tenure/internal/policy"
)

// TestStraysEndWithTheirSnap: what is in no unit ends where nothing of the snap is
// to be left, and nowhere else.
func TestStraysEndWithTheirSnap(t *testing.T) {
	t.Parallel()
	rev, err := tenure.ParseRevision("x1")
	if err != nil {
		t.Fatal(err)
	}
	old := policy.Stray{Process: tenure.Process{PID: 30, Start: 1}, Revision: rev, CommandLine: "/snap/c/x1/bin/monitor web"}
	young := policy.Stray{Process: tenure.Process{PID: 20, Start: 2}, Revision: rev, CommandLine: "monitor"}
	for reason, ends := range map[tenure.Reason]bool{
		tenure.ReasonRemove: true, tenure.ReasonDisable: true, tenure.ReasonRefresh: false, tenure.ReasonStop: false,
	} {
		plan := policy.Decide(policy.Facts{
			Change: policy.Change{Reason: reason, Snap: "c", From: rev},
			Strays: []policy.Stray{young, old},
		})
		var want []policy.Stray
		if ends {
			want = []policy.Stray{old, young}
		}
		if !slices.Equal(plan.Strays, want) {
			t.Errorf("%s ends %v, want %v", reason, plan.Strays, want)
		}
		text := plan.String()
		said := strings.Contains(text, "stop, though in no unit: 30 monitor of x1\n") && strings.Contains(plan.Summary, "2 in no unit")
		if said != ends {
			t.Errorf("%s: the plan says:\n%s", reason, text)
		}
	}
}
