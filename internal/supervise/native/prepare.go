package native

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"

	"tenure"
	"tenure/internal/sandbox"
	"tenure/internal/supervise"
)

// prepared is what was made ahead of a launch: its namespace, with the program
// in memory, and its stream to the log. It is lost with the supervisor, which costs the time that it saves.
type prepared struct {
	spec *supervise.Spec
	in   *sandbox.Prepared
	log  *os.File
}

func (p *prepared) drop() {
	p.in.Close()
	_ = p.log.Close() // Nothing was written to it.
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
	if !known || !s.prepares {
		return nil
	}
	if err := check(spec); err != nil {
		return err
	}
	if err := os.MkdirAll(u.dir(), 0o755); err != nil {
		return err
	}
	log, err := s.cfg.Holder.Log(ctx, spec.Unit)
	if err != nil {
		return err
	}
	in, err := sandbox.Prepare(ctx, u.profile(spec), programs(spec.Command.Argv)...)
	if err != nil {
		return errors.Join(err, log.Close())
	}
	p := &prepared{spec, in, log}
	if err := s.hand(ctx, spec.Unit, p); err != nil {
		p.drop()
		return err
	}
	return nil
}

// hand gives the actor what was prepared; nil drops what it has.
func (s *Supervisor) hand(ctx context.Context, id tenure.UnitID, p *prepared) error {
	_, known, err := request(ctx, s, id, func(u *unit, _ context.Context, reply chan<- struct{}) {
		u.unprepare()
		u.prepared = p
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

// launcher is what starts the unit's main process: in what was prepared for just
// that, with its log, if anything was.
func (u *unit) launcher() (launch Launch, log *os.File) {
	p := u.prepared
	if p == nil || !sameSpec(p.spec, u.rec.Spec) {
		u.unprepare()
		return u.s.cfg.Launch, nil
	}
	u.prepared = nil
	return func(ctx context.Context, _ sandbox.Profile, x sandbox.Exec) (int, *os.File, error) {
		return p.in.Start(ctx, x)
	}, p.log
}
