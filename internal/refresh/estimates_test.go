package refresh

import (
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"tenure"
	"tenure/internal/change"
	"tenure/internal/journal"
	"tenure/internal/policy"
	"tenure/internal/supervise"
)

// stopScene reports stops to estimates as a supervisor does, with times in seconds.
type stopScene struct {
	t  *testing.T
	e  estimates
	by change.ID
}

func newStopScene(t *testing.T) *stopScene {
	t.Helper()
	db, err := journal.Open(journal.Config{Path: filepath.Join(t.TempDir(), "state.db")})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	})
	return &stopScene{t: t, e: newEstimates(db), by: 7}
}

func seconds(s float64) time.Duration { return time.Duration(s * float64(time.Second)) }

func (s *stopScene) at(sec float64, e supervise.Event) {
	e.Time = time.Unix(1_000_000, 0).Add(seconds(sec))
	if e.Cause == "" {
		e.Cause, e.Change = supervise.CauseRequest, s.by
	}
	s.e.observe(e)
}

func (s *stopScene) begins(sec float64, unit tenure.UnitID, reason tenure.Reason) {
	s.at(sec, supervise.Event{Kind: supervise.EventState, State: supervise.Stopping, Unit: unit, Reason: reason})
}

func (s *stopScene) told(sec float64, unit tenure.UnitID) {
	s.at(sec, supervise.Event{Kind: supervise.EventSignal, Signal: "SIGTERM", Unit: unit})
}

func (s *stopScene) ends(sec float64, unit tenure.UnitID, took float64) {
	s.at(sec, supervise.Event{Kind: supervise.EventEnded, Unit: unit, Took: seconds(took)})
}

// suspended is that a machine has ended by itself, as it does whom its manager ends.
func (s *stopScene) suspended(sec float64, unit tenure.UnitID) {
	s.at(sec, supervise.Event{Kind: supervise.EventEnded, Unit: unit, Cause: supervise.CauseExit})
}

func (s *stopScene) want(what string, reason tenure.Reason, want map[tenure.UnitID]policy.Estimate) {
	s.t.Helper()
	got, err := s.e.of(probe, reason)
	if err != nil {
		s.t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		s.t.Errorf("%s (-want +got):\n%s", what, diff)
	}
}

func manager() tenure.UnitID         { return tenure.ServiceUnit(probe, "virtd") }
func machine(pid int) tenure.UnitID  { return manager().Workload("vm", pid) }
func kind(name string) tenure.UnitID { return manager().Workload(name, 0) }
func took(s float64) policy.Estimate { return policy.Estimate{Took: seconds(s)} }
func with(s, each float64) policy.Estimate {
	return policy.Estimate{Took: seconds(s), With: []string{"vm"}, Each: seconds(each)}
}

type estimated = map[tenure.UnitID]policy.Estimate

func TestEstimatesOfAManager(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		act  func(s *stopScene)
		want estimated
	}{
		"one after another, by the stop command": {func(s *stopScene) {
			s.suspended(7, machine(1))
			s.suspended(14, machine(2))
			s.suspended(21, machine(3))
			s.told(22, manager())
			s.ends(23, manager(), 22)
		}, estimated{manager(): with(8, 7)}},
		"side by side, when it is told": {func(s *stopScene) {
			s.told(1, manager())
			s.suspended(8, machine(1))
			s.suspended(8, machine(2))
			s.ends(9, manager(), 8)
		}, estimated{manager(): with(8, 0)}},
		"one alone": {func(s *stopScene) {
			s.suspended(7, machine(1))
			s.ends(8, manager(), 8)
		}, estimated{manager(): {Took: seconds(8), With: []string{"vm"}, Each: seconds(7), Alone: true}}},
		"the last is reported late": {func(s *stopScene) {
			s.suspended(7, machine(1))
			s.told(14.1, manager())
			s.ends(14.2, manager(), 14.1)
			s.suspended(14.3, machine(2))
			s.suspended(17, machine(3)) // That has nothing to do with it.
		}, estimated{manager(): with(7, 7.2)}},
		"it was cut off after some of them": {func(s *stopScene) {
			s.suspended(7, machine(1))
			s.suspended(14, machine(2))
			s.told(20, manager())
			s.ends(21, manager(), 0)
		}, estimated{manager(): with(7, 7)}},
		"it was cut off": {func(s *stopScene) { s.ends(21, manager(), 0) }, estimated{}},
		"it asked for more time": {func(s *stopScene) {
			s.suspended(7, machine(1))
			s.at(40, supervise.Event{Kind: supervise.EventEnded, Unit: manager(), Took: seconds(40), Extended: true})
		}, estimated{manager(): {}}},
		"what the change ends besides is not its doing": {func(s *stopScene) {
			s.begins(1, machine(1), tenure.ReasonRefresh)
			s.ends(3, machine(1), 2)
			s.ends(5, manager(), 5)
		}, estimated{manager(): took(5), kind("vm"): took(2)}},
		"with the time that it was given": {func(s *stopScene) {
			s.at(5, supervise.Event{Kind: supervise.EventEnded, Unit: manager(), Took: seconds(5), Given: seconds(300)})
		}, estimated{manager(): {Took: seconds(5), Of: seconds(300)}}},
		"the longest of its kind": {func(s *stopScene) {
			for pid, t := range map[int]float64{1: 2, 2: 4, 3: 3} {
				s.begins(10, machine(pid), tenure.ReasonRefresh)
				s.ends(10+t, machine(pid), t)
			}
		}, estimated{kind("vm"): took(4)}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newStopScene(t)
			s.begins(0, manager(), tenure.ReasonRefresh)
			c.act(s)
			s.want(name, tenure.ReasonRefresh, c.want)
		})
	}
}

// A refresh goes by the last refresh, and by a restart only as long as there was none; how
// long a removal took says nothing, and the snap is forgotten with it.
func TestEstimatesAreOfTheirOccasion(t *testing.T) {
	t.Parallel()
	s := newStopScene(t)
	stop := func(from, long float64, reason tenure.Reason) {
		s.by++
		s.begins(from, manager(), reason)
		s.ends(from+long, manager(), long)
	}
	stop(0, 30, tenure.ReasonRemove)
	s.want("after a removal", tenure.ReasonRefresh, estimated{})
	stop(100, 3, tenure.ReasonStop)
	s.want("after a stop", tenure.ReasonRefresh, estimated{manager(): took(3)})
	stop(200, 5, tenure.ReasonRefresh)
	stop(300, 4, tenure.ReasonRestart)
	s.want("a refresh", tenure.ReasonRefresh, estimated{manager(): took(5)})
	s.want("a revert", tenure.ReasonRevert, estimated{manager(): took(5)})
	s.want("a restart", tenure.ReasonRestart, estimated{manager(): took(4)})
	s.want("a removal", tenure.ReasonRemove, nil)
	stop(400, 6, tenure.ReasonRefresh)
	if err := s.e.drop(probe); err != nil {
		t.Fatal(err)
	}
	s.want("a snap that was gone", tenure.ReasonRefresh, estimated{})
}

// The journal does not grow with the instances of a template.
func TestEstimatesAreBounded(t *testing.T) {
	t.Parallel()
	s := newStopScene(t)
	for n := range 2 * maxPastStops {
		unit := tenure.InstanceUnit(probe, "vm", string(rune('a'+n%26))+string(rune('a'+n/26)))
		s.begins(float64(n), unit, tenure.ReasonRestart)
		s.ends(float64(n)+0.5, unit, 0.5)
	}
	known, err := s.e.of(probe, tenure.ReasonRestart)
	if err != nil || len(known) != maxPastStops {
		t.Errorf("%d are known (%v), want %d", len(known), err, maxPastStops)
	}
	if _, last := known[tenure.InstanceUnit(probe, "vm", "xe")]; !last {
		t.Errorf("the last is not known: %v", known)
	}
}
