package native

import (
	"context"
	"path/filepath"
	"slices"

	"tenure"
	"tenure/internal/proc"
	"tenure/internal/supervise"
)

// kin are the processes of the workloads that came out of the unit before. Their
// children are in their groups by birth, so they matter only where the unit has
// processes in groups that were made below its own: those of a container, say, whose
// monitor has been a unit for long.
func (u *unit) kin(infos []proc.Info) kinship {
	if !slices.ContainsFunc(infos, func(i proc.Info) bool { return i.Foreign }) {
		return nil
	}
	kin := make(kinship)
	for _, other := range u.s.all() {
		if other.id.Kind != tenure.Workload || other.id.Service() != u.id || other.id.Name == tenure.Leftover {
			continue
		}
		for _, path := range other.ownGroups() {
			members, err := proc.GroupAt(path).Processes()
			if err != nil {
				continue
			}
			for _, member := range members {
				kin[member.PID] = kinsman{member, other.id}
			}
		}
	}
	return kin
}

// giveMore makes what came out of a workload part of its unit.
func (u *unit) giveMore(ctx context.Context, p pick) error {
	from := u.rec.Group
	var claims []string
	for _, claim := range p.Claims {
		claims = append(claims, filepath.Join(from, claim))
	}
	failure, known, err := request(ctx, u.s, p.Into, func(child *unit, ctx context.Context, reply chan<- error) {
		reply <- child.join(ctx, from, claims, processesOf(p.Members))
	})
	switch {
	case err != nil:
		return err
	case !known:
		return supervise.ErrUnknown
	case failure == nil:
		u.rec.Ceded = append(u.rec.Ceded, claims...)
	}
	return failure
}

// join takes over groups, and processes that stand still in the group from.
func (u *unit) join(ctx context.Context, from string, claims []string, members []tenure.Process) error {
	if len(members) > 0 && u.rec.Group == "" {
		group, err := u.newGroup()
		if err != nil {
			return err
		}
		u.rec.Group = group.Path()
	}
	u.rec.Claims = append(u.rec.Claims, claims...)
	u.rec.Moving, u.rec.From = members, from
	if err := u.s.records.save(&u.rec); err != nil {
		return err
	}
	err := u.collectMoving()
	for _, claim := range claims {
		u.watchClaim(ctx, claim)
	}
	u.watchGroups(ctx)
	return err
}

// returnClaims gives the names of groups back to the service that had made them,
// when the workload in them has ended: it may use them again.
func (s *Supervisor) returnClaims(service tenure.UnitID, claims []string) {
	u, known := s.find(service)
	if !known || len(claims) == 0 {
		return
	}
	_ = u.tell(s.life, func(context.Context) {
		u.rec.Ceded = slices.DeleteFunc(u.rec.Ceded, func(ceded string) bool {
			return slices.Contains(claims, ceded) && !s.inUse(ceded)
		})
		u.save()
	})
}
