package native

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"tenure"
	"tenure/internal/proc"
	"tenure/internal/supervise"
)

// setLabel writes on a group whose it is. A host knows that by itself.
func (s *Supervisor) setLabel(group proc.Group, l label) error {
	if s.cfg.Host != nil {
		return nil
	}
	text, err := json.Marshal(l)
	if err != nil {
		return fmt.Errorf("label group: %w", err)
	}
	return group.SetAttr(attrUnit, text)
}

// labelOf tells whose group it is, by its label or else by its name.
func (s *Supervisor) labelOf(group proc.Group) (l label, ok bool) {
	text, err := group.Attr(attrUnit)
	if err == nil && json.Unmarshal(text, &l) == nil && !l.Unit.IsZero() {
		return l, true
	}
	rel, below := group.Rel(s.cfg.Hierarchy)
	if !below {
		return label{}, false
	}
	l.Unit, ok = s.unitOfGroup(rel)
	return l, ok
}

// inUse reports whether a unit has the group, or one below it.
func (s *Supervisor) inUse(path string) bool {
	for _, u := range s.all() {
		for _, own := range u.ownGroups() {
			if own == path || strings.HasPrefix(own, path+"/") {
				return true
			}
		}
	}
	return false
}

// discard removes a group in the background as soon as it is empty.
func (s *Supervisor) discard(ctx context.Context, group proc.Group) {
	remove := s.release(group, true)
	s.wg.Go(func() { _ = remove(ctx) })
}

// removeWhenEmpty returns an error only when ctx ended or the kernel refuses
// for good; the next supervisor finds the group then.
func removeWhenEmpty(ctx context.Context, group proc.Group) error {
	for {
		err := group.Remove()
		if err == nil {
			// The directory of the instance goes with its last group. It is in
			// use when this fails.
			_ = os.Remove(filepath.Dir(group.Path()))
			return nil
		}
		if !errors.Is(err, proc.ErrPopulated) {
			return err
		}
		if err := group.AwaitEmpty(ctx); err != nil {
			return err
		}
	}
}

// dropGroup lets go of the group of a generation that has ended, and gives what
// removes it in the background; a group that other units' groups are in stays
// until they go.
func (u *unit) dropGroup(ctx context.Context, asked bool) (remove func() (removed <-chan struct{})) {
	u.unwatch()
	var groups []proc.Group
	for _, claim := range u.rec.Claims {
		groups = append(groups, proc.GroupAt(claim))
	}
	event := supervise.Event{
		Kind: supervise.EventEmpty, Time: now(), Unit: u.id, Revision: u.rec.Spec.Revision,
		Exit: u.rec.Exit, Reason: u.rec.Ending.reason(),
	}
	switch {
	case u.rec.Group == "":
	case len(u.rec.Ceded) == 0:
		groups = append(groups, proc.GroupAt(u.rec.Group))
	default: // It is not empty before others end.
		u.s.release(proc.GroupAt(u.rec.Group), asked)
	}
	hosts, parent := u.rec.Claims, u.rec.Parent
	var releases []func(context.Context) error
	for _, group := range groups {
		releases = append(releases, u.s.release(group, asked))
	}
	u.rec.Group, u.rec.Claims, u.rec.Ceded, u.rec.Main = "", nil, nil, tenure.Process{}
	removed := make(chan struct{})
	work := func() {
		defer close(removed)
		for _, release := range releases {
			if release(ctx) != nil {
				return
			}
		}
		for _, claim := range hosts {
			// The group around the last claimed one is nobody's any more.
			host := filepath.Dir(claim)
			if u.s.cfg.Host == nil && !u.s.inUse(host) && proc.GroupAt(host).Remove() == nil {
				_ = os.Remove(filepath.Dir(host))
			}
		}
		u.s.returnClaims(parent, hosts)
		u.s.bus.send(event)
	}
	return func() <-chan struct{} {
		u.s.wg.Go(work)
		return removed
	}
}
