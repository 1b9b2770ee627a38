package revision_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"tenure"
	"tenure/internal/revision"
)

// machine runs random operations beside a deliberately simple idea of what is on
// disk, and checks after each of them what must always hold.
type machine struct {
	state  revision.State
	facts  revision.Facts
	disk   map[tenure.Revision]bool
	locals map[tenure.Revision]bool
}

func differ(a, b revision.State) string {
	return cmp.Diff(a, b, cmp.AllowUnexported(tenure.Revision{}))
}

func (m *machine) draw(t *rapid.T) tenure.Revision {
	return tenure.SourceRevision(rapid.IntRange(1, 6).Draw(t, "revision"))
}

// do takes over the result of an operation, and checks that a failed one changed
// nothing and that the delta says what changed.
func (m *machine) do(t *rapid.T, next revision.State, delta revision.Delta, err error) {
	if err != nil {
		if diff := differ(m.state, next); diff != "" {
			t.Fatalf("%v changed the state:\n%s", err, diff)
		}
		return
	}
	if delta.From != m.state.Current || delta.To != next.Current {
		t.Fatalf("delta %+v from %+v to %+v", delta, m.state, next)
	}
	if delta.Activated != (!m.state.Active && next.Active) || delta.Deactivated != (m.state.Active && !next.Active) {
		t.Fatalf("delta %+v: active was %v, is %v", delta, m.state.Active, next.Active)
	}
	for _, rev := range delta.Added {
		if m.disk[rev] {
			t.Fatalf("%s was added and was there", rev)
		}
		m.disk[rev] = true
	}
	for _, rev := range delta.Dropped {
		if !m.disk[rev] {
			t.Fatalf("%s was dropped and was not there", rev)
		}
		delete(m.disk, rev)
	}
	m.state = next
}

func (m *machine) actions() map[string]func(*rapid.T) {
	pin := func(t *rapid.T) {
		rev := m.draw(t)
		switch rapid.IntRange(0, 3).Draw(t, "kind") {
		case 0:
			m.facts.Units[rev] = append(m.facts.Units[rev], tenure.ServiceUnit("s", "a"))
		case 1:
			m.facts.Changes[rev] = append(m.facts.Changes[rev], "7")
		case 2:
			m.facts.Admin[rev] = append(m.facts.Admin[rev], "why")
		case 3:
			m.facts.Users[rev] = append(m.facts.Users[rev], tenure.Process{PID: 9})
		}
	}
	local := func(t *rapid.T) {
		rev := m.state.NextLocal()
		if m.locals[rev] {
			t.Fatalf("%s is given twice", rev)
		}
		next, delta, err := revision.Stage(m.state, rev)
		if err != nil {
			t.Fatal(err)
		}
		m.locals[rev] = true
		m.do(t, next, delta, nil)
	}
	return map[string]func(*rapid.T){
		"install": func(t *rapid.T) { s, d, err := revision.Install(m.state, m.draw(t)); m.do(t, s, d, err) },
		"refresh": func(t *rapid.T) { s, d, err := revision.Refresh(m.state, m.draw(t)); m.do(t, s, d, err) },
		"stage":   func(t *rapid.T) { s, d, err := revision.Stage(m.state, m.draw(t)); m.do(t, s, d, err) },
		"revert":  func(t *rapid.T) { s, d, err := revision.Revert(m.state, tenure.Revision{}); m.do(t, s, d, err) },
		"revert to": func(t *rapid.T) {
			s, d, err := revision.Revert(m.state, m.draw(t))
			m.do(t, s, d, err)
		},
		"enable":  func(t *rapid.T) { s, d, err := revision.Enable(m.state); m.do(t, s, d, err) },
		"disable": func(t *rapid.T) { s, d, err := revision.Disable(m.state); m.do(t, s, d, err) },
		"remove":  func(t *rapid.T) { s, d, err := revision.Remove(m.state); m.do(t, s, d, err) },
		"remove revision": func(t *rapid.T) {
			pins, rev := revision.Pins(m.state, m.facts), m.draw(t)
			s, d, err := revision.RemoveRevision(m.state, rev, pins)
			if err == nil && m.pinnedByUse(rev) {
				t.Fatalf("%s was removed and is in use", rev)
			}
			m.do(t, s, d, err)
		},
		"local": local,
		"pin":   pin,
		"unpin": func(t *rapid.T) {
			rev := m.draw(t)
			delete(m.facts.Units, rev)
			delete(m.facts.Changes, rev)
			delete(m.facts.Admin, rev)
			delete(m.facts.Users, rev)
		},
		"retain":  func(t *rapid.T) { m.facts.Retain = rapid.IntRange(0, 4).Draw(t, "retain") },
		"collect": m.collect,
		"":        m.check,
	}
}

// collect collects in any order, and only a part.
func (m *machine) collect(t *rapid.T) {
	idle := revision.Unreachable(m.state, revision.Pins(m.state, m.facts))
	if len(idle) == 0 {
		return
	}
	for _, rev := range rapid.Permutation(idle).Draw(t, "order")[:rapid.IntRange(1, len(idle)).Draw(t, "many")] {
		next, delta, err := revision.Forget(m.state, rev)
		if err != nil {
			t.Fatal(err)
		}
		m.do(t, next, delta, nil)
	}
}

func (m *machine) pinnedByUse(rev tenure.Revision) bool {
	return len(m.facts.Units[rev])+len(m.facts.Changes[rev])+len(m.facts.Admin[rev])+len(m.facts.Users[rev]) > 0
}

func (m *machine) check(t *rapid.T) {
	s := m.state
	kept := map[tenure.Revision]bool{}
	for _, rev := range s.Kept() {
		if kept[rev] {
			t.Fatalf("%s is kept twice: %+v", rev, s)
		}
		kept[rev] = true
	}
	if diff := cmp.Diff(m.disk, kept); diff != "" {
		t.Fatalf("on disk (-simple +state):\n%s", diff)
	}
	if s.Installed() != (len(s.Sequence) > 0) || s.Installed() && !slices.Contains(s.Sequence, s.Current) || s.Active && !s.Installed() {
		t.Fatalf("current is not in the history: %+v", s)
	}
	if slices.Contains(s.Skipped, s.Current) {
		t.Fatalf("the current revision is skipped: %+v", s)
	}
	m.checkPins(t)
}

func (m *machine) checkPins(t *rapid.T) {
	s := m.state
	pins := revision.Pins(s, m.facts)
	idle := revision.Unreachable(s, pins)
	if slices.Contains(idle, s.Current) {
		t.Fatalf("the current revision is unreachable: %+v", s)
	}
	retain := m.facts.Retain
	if retain < 1 {
		retain = revision.DefaultRetain
	}
	unused := 0
	for rev := range m.disk {
		collected := slices.Contains(idle, rev)
		switch {
		case m.pinnedByUse(rev) && collected:
			t.Fatalf("%s is in use and unreachable", rev)
		case collected == (len(pins[rev]) > 0):
			t.Fatalf("%s: unreachable %v with pins %v", rev, collected, pins[rev])
		case slices.Contains(s.Aside, rev) && !m.pinnedByUse(rev) && !collected:
			t.Fatalf("%s is set aside, not in use, and kept: %v", rev, pins[rev])
		}
		for _, pin := range pins[rev] {
			if pin.Kind == revision.PinCurrent || pin.Kind == revision.PinRetained {
				unused++
			}
		}
	}
	want := min(retain, len(s.Sequence))
	if s.Installed() && unused != want {
		t.Fatalf("%d revisions are kept by refresh.retain, want %d: %+v", unused, want, s)
	}
}

func newMachine() *machine {
	return &machine{
		disk: map[tenure.Revision]bool{}, locals: map[tenure.Revision]bool{},
		facts: revision.Facts{
			Units: map[tenure.Revision][]tenure.UnitID{}, Changes: map[tenure.Revision][]string{},
			Admin: map[tenure.Revision][]string{}, Users: map[tenure.Revision][]tenure.Process{},
		},
	}
}

func TestAnyOrder(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) { t.Repeat(newMachine().actions()) })
}

// drawState is a state that some operations lead to.
func drawState(t *rapid.T) revision.State {
	m := newMachine()
	actions := m.actions()
	for range rapid.IntRange(1, 12).Draw(t, "operations") {
		actions[rapid.SampledFrom([]string{"install", "install", "refresh", "refresh", "stage", "revert", "revert to", "disable", "remove"}).Draw(t, "operation")](t)
	}
	return m.state
}

func TestRevertGetsBackFromRefresh(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		before := drawState(t)
		to := tenure.SourceRevision(rapid.IntRange(1, 9).Draw(t, "to"))
		refreshed, _, err := revision.Refresh(before, to)
		if err != nil {
			return
		}
		back, delta, err := revision.Revert(refreshed, tenure.Revision{})
		if err != nil {
			t.Fatal(err)
		}
		if back.Current != before.Current || delta.To != before.Current || back.Active != before.Active {
			t.Fatalf("refresh to %s and back: %+v, was %+v", to, back, before)
		}
		if !slices.Contains(back.Skipped, to) {
			t.Fatalf("%s is not skipped after the revert: %+v", to, back)
		}
	})
}

func TestRestoreOfNothing(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		before := drawState(t)
		same, err := revision.Restore(before, before)
		if err != nil || differ(before, same) != "" {
			t.Fatalf("restore of nothing: %v %s", err, differ(before, same))
		}
	})
}

// TestRestoreIsTheStateBefore holds, when collection came between, for all that is
// still there.
func TestRestoreIsTheStateBefore(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		before := drawState(t)
		to := before.NextLocal()
		now, _, err := revision.Refresh(before, to)
		if err != nil {
			return
		}
		pins := revision.Pins(now, revision.Facts{Changes: map[tenure.Revision][]string{before.Current: {"1"}}})
		for _, rev := range revision.Unreachable(now, pins) {
			if now, _, err = revision.Forget(now, rev); err != nil {
				t.Fatal(err)
			}
		}
		restored, err := revision.Restore(before, now)
		if err != nil {
			t.Fatal(err)
		}
		if restored.Current != before.Current || restored.Active != before.Active || !slices.Contains(restored.Aside, to) {
			t.Fatalf("restored %+v, was %+v", restored, before)
		}
		for _, rev := range restored.Kept() {
			if !now.Has(rev) {
				t.Fatalf("%s is not on disk any more, and restored", rev)
			}
		}
		if restored.NextLocal() == to {
			t.Fatalf("%s would be given twice", to)
		}
	})
}

func TestRestoreNeedsTheRevision(t *testing.T) {
	t.Parallel()
	before, _, err := revision.Install(revision.State{}, tenure.SourceRevision(1))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := revision.Restore(before, revision.State{}); !errors.Is(err, revision.ErrNoRevision) {
		t.Fatalf("restored what is gone: %v", err)
	}
}

func TestStatesCanBeStored(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		state := drawState(t)
		data, err := json.Marshal(state)
		if err != nil {
			t.Fatal(err)
		}
		var read revision.State
		if err := json.Unmarshal(data, &read); err != nil {
			t.Fatal(err)
		}
		if fmt.Sprint(read) != fmt.Sprint(state) {
			t.Fatalf("stored %v, read %v", state, read)
		}
	})
}

// TestTenRefreshesKeepTenRevisions is what a machine under each of ten revisions holds.
func TestTenRefreshesKeepTenRevisions(t *testing.T) {
	t.Parallel()
	facts := revision.Facts{Units: map[tenure.Revision][]tenure.UnitID{}}
	state, _, err := revision.Install(revision.State{}, tenure.LocalRevision(1))
	for n := 1; err == nil && n <= 10; n++ {
		facts.Units[tenure.LocalRevision(n)] = []tenure.UnitID{tenure.ServiceUnit("virt", "virtd").Workload("vm", 100+n)}
		state, _, err = revision.Refresh(state, tenure.LocalRevision(n+1))
	}
	if err != nil {
		t.Fatal(err)
	}
	if idle := revision.Unreachable(state, revision.Pins(state, facts)); len(idle) > 0 || len(state.Kept()) != 11 {
		t.Fatalf("kept %v, of which nothing pins %v", state.Kept(), idle)
	}
	delete(facts.Units, tenure.LocalRevision(4))
	if idle := revision.Unreachable(state, revision.Pins(state, facts)); !slices.Equal(idle, []tenure.Revision{tenure.LocalRevision(4)}) {
		t.Fatalf("the machine of x4 has ended, and unreachable is %v", idle)
	}
}
