package refresh

import (
	"testing"

	"tenure"
	"tenure/internal/supervise/supervisetest"
)

// A snap ends no instance of another that nobody knows it to have started, and does not
// become the one who has by starting it once more.
func TestInstancesThatNobodyRecorded(t *testing.T) {
	t.Parallel()
	h := newHouse(t, supervisetest.Program{})
	allowance := Allowance{Manager: "manager", Snap: "db", App: "db"}
	if err := h.allowances.docs.Put(allowance.key(), allowance); err != nil {
		t.Fatal(err)
	}
	const name = "db.db@one"
	for action, allowed := range map[Action]bool{ActionStart: true, ActionStop: false, ActionRestart: false} {
		if err := h.mayControl("manager", string(action), name); (err == nil) != allowed {
			t.Errorf("%s of an instance that nobody recorded: %v, want it allowed: %t", action, err, allowed)
		}
	}
	unit := tenure.InstanceUnit("db", "db", "one")
	start := Request{Action: ActionStart, By: "manager"}
	if _, err := new(asked).after(start, unit, true); err == nil {
		t.Error("an instance that runs is taken over by a start")
	}
	after, err := new(asked).after(start, unit, false)
	if err != nil || after.By != "manager" {
		t.Errorf("an instance that is started: %+v, %v", after, err)
	}
}
