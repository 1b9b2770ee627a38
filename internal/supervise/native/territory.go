package native

import (
	"context"
	"fmt"
	"path/filepath"
	"runtime"
	"slices"
	"sync"

	"golang.org/x/sync/errgroup"

	"tenure"
	"tenure/internal/proc"
	"tenure/internal/supervise"
)

var _ supervise.Onlooker = (*Supervisor)(nil)

// territory is where a unit has processes: the groups that it has, its own, without what of it
// was ceded, and those below others' that it has claimed, all as absolute paths; and wherever
// its main process is.
type territory struct {
	group         string
	ceded, claims []string
	main          tenure.Process
	// moving are those that were promised to it, and may still be where they come from.
	moving []tenure.Process
	// keeps is whether there may be workloads among what the main process has forked.
	keeps bool
}

func (t *territory) own() []string {
	if t.group == "" {
		return t.claims
	}
	return append(slices.Clip(t.claims), t.group)
}

// processes are the living ones in it, as list has them, oldest first.
func (t *territory) processes(s *Supervisor, list func(proc.Group) ([]proc.Info, error)) ([]proc.Info, error) {
	all, err := t.inside(list)
	if err != nil {
		return nil, err
	}
	all = append(all, t.outside(s, all)...)
	slices.SortStableFunc(all, func(a, b proc.Info) int { return int(a.Start) - int(b.Start) }) //nolint:gosec // Ticks since boot.
	return all, nil
}

// inside are the living ones in its groups.
func (t *territory) inside(list func(proc.Group) ([]proc.Info, error)) ([]proc.Info, error) {
	var all []proc.Info
	if t.group != "" {
		infos, err := list(proc.GroupAt(t.group))
		if err != nil {
			return nil, err
		}
		for _, info := range ownOnly(infos) {
			if !info.Foreign || !slices.Contains(t.ceded, filepath.Join(t.group, topGroup(info.Group))) {
				all = append(all, info)
			}
		}
	}
	for _, claim := range t.claims {
		infos, err := list(proc.GroupAt(claim))
		if err != nil {
			return nil, err
		}
		all = append(all, infos...)
	}
	return slices.DeleteFunc(all, gone), nil
}

// Glance implements supervise.Onlooker. No unit is asked: one that is busy with something else
// keeps nobody from seeing the others.
func (s *Supervisor) Glance(ctx context.Context) (map[tenure.UnitID][]proc.Info, error) {
	if err := s.await(ctx); err != nil {
		return nil, fmt.Errorf("see processes: %w", err)
	}
	units := s.all()
	seen := make(map[tenure.UnitID][]proc.Info, len(units))
	promised := map[tenure.Process]tenure.UnitID{}
	var mu sync.Mutex
	var workers errgroup.Group
	for part := range slices.Chunk(units, len(units)/runtime.GOMAXPROCS(0)+1) {
		workers.Go(func() error {
			for _, u := range part {
				t := u.groups.Load()
				infos, err := t.processes(s, proc.Group.Glance)
				if err != nil {
					return fmt.Errorf("see processes of %s: %w", u.name(), err)
				}
				mu.Lock()
				seen[u.name()] = infos
				for _, p := range append(slices.Clone(t.moving), t.main) {
					promised[p] = u.name()
				}
				mu.Unlock()
			}
			return nil
		})
	}
	err := workers.Wait()
	keepPromises(seen, promised)
	return seen, err
}

// keepPromises shows each process in one unit: what is on its way into one is in that.
func keepPromises(seen map[tenure.UnitID][]proc.Info, promised map[tenure.Process]tenure.UnitID) {
	for unit, infos := range seen {
		seen[unit] = slices.DeleteFunc(infos, func(i proc.Info) bool {
			to, found := promised[i.Process]
			if !found || to == unit {
				return false
			}
			if !slices.ContainsFunc(seen[to], func(there proc.Info) bool { return there.Process == i.Process }) {
				seen[to] = append(seen[to], i)
			}
			return true
		})
	}
}
