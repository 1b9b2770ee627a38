package native

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"tenure"
	"tenure/internal/proc"
	"tenure/internal/sandbox"
	"tenure/internal/supervise"
)

// prepared is what was made ahead of a launch: its namespace, with the program
// in memory, its stream to the log, and its control group. It is lost with the supervisor,
// which costs the time that it saves; the next one removes the empty group. Of a host it
// is the group alone, in which somebody waits.
type prepared struct {
	spec *supervise.Spec
	host Forerunner
	in   *sandbox.Prepared
	log  *os.File
	// group is that of generation; the zero group when it could not be made.
	group      proc.Group
	generation int
}

func (p *prepared) drop() {
	if p.in != nil {
		p.in.Close()
		_ = p.log.Close() // Nothing was written to it.
	}
	p.dropGroup()
}

func (p *prepared) dropGroup() {
	switch {
	case p.group.IsZero():
	case p.host != nil:
		p.host.Abandon(p.group)
	case p.group.Remove() == nil:
		_ = os.Remove(filepath.Dir(p.group.Path())) // It is in use when this fails.
	}
	p.group = proc.Group{}
}

// Prepare implements supervise.Preparer. The work is done here and not by the
// actor, which has a unit that runs to look after.
func (s *Supervisor) Prepare(ctx context.Context, specs ...supervise.Spec) error {
	if err := s.await(ctx); err != nil {
		return fmt.Errorf("prepare: %w", err)
	}
	for i := range specs {
		if err := s.prepare(ctx, &specs[i]); err != nil {
			return fmt.Errorf("prepare %s: %w", specs[i].Unit, err)
		}
	}
	return nil
}

func (s *Supervisor) prepare(ctx context.Context, spec *supervise.Spec) error {
	u, known := s.find(spec.Unit)
	if !known || !s.prepares && s.forerunner == nil {
		return nil
	}
	if err := check(spec); err != nil {
		return err
	}
	if err := os.MkdirAll(u.dir(), 0o755); err != nil {
		return err
	}
	p, err := s.ahead(ctx, u, spec)
	if err != nil || p == nil {
		return err
	}
	if err := s.hand(ctx, spec.Unit, p); err != nil {
		p.drop()
		return err
	}
	return nil
}

// ahead makes what can be made ahead; nil is nothing.
func (s *Supervisor) ahead(ctx context.Context, u *unit, spec *supervise.Spec) (*prepared, error) {
	profile, programs := u.profile(spec), programs(spec.Command.Argv)
	if s.forerunner != nil {
		return s.aheadByHost(ctx, spec, profile, programs)
	}
	log, err := s.cfg.Holder.Log(ctx, spec.Unit)
	if err != nil {
		return nil, err
	}
	in, err := sandbox.Prepare(ctx, profile, programs...)
	if err != nil {
		return nil, errors.Join(err, log.Close())
	}
	return &prepared{spec: spec, in: in, log: log}, nil
}

// aheadByHost has the host start a service that is to run at once when it is started.
func (s *Supervisor) aheadByHost(ctx context.Context, spec *supervise.Spec, profile sandbox.Profile, programs []string) (*prepared, error) {
	if spec.Unit.Kind != tenure.Service || spec.Timer != "" || len(spec.Sockets) > 0 {
		return nil, nil //nolint:nilnil // It waits for somebody else.
	}
	place := Place{Unit: spec.Unit, Service: spec.Unit, Spec: spec}
	group, err := s.forerunner.Ahead(ctx, place, profile, programs)
	if err != nil {
		return nil, err
	}
	return &prepared{spec: spec, host: s.forerunner, group: group}, nil
}

// hand gives the actor what was prepared; nil drops what it has.
func (s *Supervisor) hand(ctx context.Context, id tenure.UnitID, p *prepared) error {
	_, known, err := request(ctx, s, id, func(u *unit, _ context.Context, reply chan<- struct{}) {
		u.unprepare()
		if u.prepared = p; p != nil && p.host == nil {
			u.makeGroupAhead()
		}
		reply <- struct{}{}
	})
	if err == nil && !known && p != nil {
		err = supervise.ErrUnknown
	}
	return err
}

// Unprepare implements supervise.Preparer.
func (s *Supervisor) Unprepare(ctx context.Context, units ...tenure.UnitID) error {
	for _, id := range units {
		if err := s.hand(ctx, id, nil); err != nil {
			return fmt.Errorf("unprepare %s: %w", id, err)
		}
	}
	return nil
}

// programs are what a command line executes: its command, and the commands of
// a chain that come before it.
func programs(argv []string) []string {
	for i, arg := range argv {
		if !strings.HasPrefix(arg, "/") {
			return argv[:i]
		}
	}
	return argv
}

// unprepare drops what was prepared.
func (u *unit) unprepare() {
	if u.prepared != nil {
		u.prepared.drop()
		u.prepared = nil
	}
}

// makeGroupAhead makes the group of the next launch.
func (u *unit) makeGroupAhead() {
	p := u.prepared
	next := u.rec.Generation + 1
	group, err := u.s.createGroup(groupName(u.keeper(), next), label{u.id, p.spec.Revision})
	if err == nil {
		p.group, p.generation = group, next
	}
}

// groupAhead is the group that was made for the next launch, unless there has been
// another launch meanwhile.
func (u *unit) groupAhead() (group proc.Group, ok bool) {
	p := u.prepared
	if p == nil || p.group.IsZero() {
		return proc.Group{}, false
	}
	if p.host == nil && p.generation != u.rec.Generation+1 {
		p.dropGroup()
		return proc.Group{}, false
	}
	group, p.group = p.group, proc.Group{}
	u.rec.Generation++
	return group, true
}

// keepPrepared drops what was prepared for anything but what is launched now.
func (u *unit) keepPrepared() {
	if u.prepared != nil && !sameSpec(u.prepared.spec, u.rec.Spec) {
		u.unprepare()
	}
}

// launcher is what starts the unit's main process: in what was prepared for it,
// with its log, if anything was.
func (u *unit) launcher() (launch Launch, log *os.File) {
	p := u.prepared
	if p == nil {
		return u.s.cfg.Launch, nil
	}
	u.prepared = nil
	return func(ctx context.Context, _ sandbox.Profile, x sandbox.Exec) (int, *os.File, error) {
		return p.in.Start(ctx, x)
	}, p.log
}
