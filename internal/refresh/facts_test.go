package refresh

import (
	"context"
	"sync"
	"testing"
	"testing/synctest"

	"tenure"
	"tenure/internal/policy"
	"tenure/internal/proc"
	"tenure/internal/supervise"
	"tenure/internal/supervise/supervisetest"
)

// splitting is a supervisor of which a workload is split off when processes are first read.
type splitting struct {
	*supervisetest.Twin

	once  sync.Once
	split func()
}

func (s *splitting) Processes(ctx context.Context, unit tenure.UnitID) ([]proc.Info, error) {
	s.once.Do(s.split)
	return s.Twin.Processes(ctx, unit)
}

// A process that becomes a workload while facts are gathered is in one unit of them.
func TestWhatIsSplitOffMeanwhileIsInThePlan(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		h := newHarness(t)
		service := h.service("manager", tenure.LocalRevision(1), supervisetest.Program{Children: []supervisetest.Program{{Name: "guest"}}})
		service.Workloads = []supervise.Workload{{Name: "vm"}}
		if err := h.twin.Start(t.Context(), service); err != nil {
			t.Fatal(err)
		}
		before, err := h.twin.Processes(t.Context(), service.Unit)
		if err != nil || len(before) != 2 {
			t.Fatalf("%v, %v", before, err)
		}
		name, err := service.Unit.ParseWorkload("vm@web")
		if err != nil {
			t.Fatal(err)
		}
		h.cfg.Supervisor = &splitting{Twin: h.twin, split: func() {
			if err := h.twin.Adopt(t.Context(), service.Branch(name, nil, service.Stop), before[1].Process); err != nil {
				t.Error(err)
			}
		}}
		facts, err := h.facts(t.Context(), policy.Change{Reason: tenure.ReasonRefresh, Snap: probe, From: tenure.LocalRevision(1), To: tenure.LocalRevision(2)})
		if err != nil {
			t.Fatal(err)
		}
		in := map[int]tenure.UnitID{}
		for _, unit := range facts.Units {
			for _, p := range unit.Processes {
				in[p.PID] = unit.ID
			}
		}
		if len(in) != 2 || in[before[1].PID] != name {
			t.Errorf("processes are in %v", in)
		}
	})
}
