package native

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"tenure"
	"tenure/internal/proc"
	"tenure/internal/sandbox"
	"tenure/internal/supervise"
)

// Host is the parent of processes and the owner of their control groups where that is not
// the supervisor itself: systemd is one. What becomes of the processes is for the supervisor
// to decide nevertheless, and it signals them itself. A Host is asked by the actors of units, several at once.
type Host interface {
	Spawner
	Steward
}

// Spawner is what a Host does with groups.
type Spawner interface {
	// Fresh names a group that has no process, for a unit. It is there when something has
	// been launched or gathered in it.
	Fresh(p Place) (proc.Group, error)
	// Launch starts a program in a fresh group, and returns when it has been executed.
	Launch(ctx context.Context, group proc.Group, p Program) (*proc.Handle, error)
	// Gather moves processes into a group, which is fresh or has processes. Those that
	// have ended are passed over.
	Gather(ctx context.Context, group proc.Group, processes []tenure.Process) error
	// Release is told that a unit has no process of its own in a group any more, and
	// whether that was asked for. It gives what waits until nobody is in the group, or the
	// next launch is.
	Release(group proc.Group, asked bool) (wait func(context.Context) error)
	// Told reports whether who had the group has ended because the host was asked to end it.
	Told(ctx context.Context, group proc.Group) bool
	// Owner is whose a group is by its name, relative to the hierarchy.
	Owner(rel string) (unit tenure.UnitID, ok bool)
}

// Steward is what a Host knows of services.
type Steward interface {
	// Serves is told that the processes in a group are those of a service, and what it
	// is restarted from.
	Serves(service *supervise.Spec, group proc.Group)
	// Heard is told what a process in the group says of itself, in the words of sd_notify(3).
	Heard(group proc.Group, process tenure.Process, words string)
	// Rest is told that a service that has no process is not to be restarted, and
	// AwayAtBoot that one is not to be started when the machine boots.
	Rest(service tenure.UnitID)
	AwayAtBoot(service tenure.UnitID)
	// Forget is told that nothing is known of a unit any more.
	Forget(unit tenure.UnitID) error
	// Running are the services that run, whoever has started them.
	Running(ctx context.Context) ([]Running, error)
}

// Forerunner is the ability of a Host to start a service before it is to run: as far as its
// namespace, in the group that it will run in. A Launch in that group is the rest.
type Forerunner interface {
	// Ahead returns when a process waits for its program, of which programs are read already.
	Ahead(ctx context.Context, p Place, profile sandbox.Profile, programs []string) (proc.Group, error)
	// Abandon ends who waits in a group, which is gone then.
	Abandon(group proc.Group)
}

// Witness is the ability of a Host to say how a process in a group ended whose parent it was, where the
// kernel does not: before Linux 6.15, and where nobody held the process when it ended. It may not know.
type Witness interface {
	Exit(ctx context.Context, group proc.Group, process tenure.Process) proc.Exit
}

// exitByHost is how a process has ended that the unit knows no more of.
func (u *unit) exitByHost(ctx context.Context, group string, process tenure.Process) proc.Exit {
	witness, ok := u.s.cfg.Host.(Witness)
	if !ok || group == "" {
		return proc.Exit{}
	}
	return witness.Exit(ctx, proc.GroupAt(group), process)
}

// Running is a service that a Host has started.
type Running struct {
	Spec  *supervise.Spec
	Group proc.Group
	Main  tenure.Process
}

// Place is what a group is for.
type Place struct {
	Unit tenure.UnitID
	// Service is the unit itself, or the service that it is a generation of.
	Service    tenure.UnitID
	Spec       *supervise.Spec
	Generation int
	// Command is the command that is to run for the unit ("stop1"); empty for the unit itself.
	Command string
	// Gathered is that the processes run already.
	Gathered bool
}

// Program is what a Host starts.
type Program struct {
	Profile sandbox.Profile
	Command supervise.Command
	// Files are passed from descriptor 3 on by these names (sd_listen_fds(3)).
	Files []*os.File
	Names []string
}

// freshGroup makes the control group of the next generation, or takes the one that
// was made for it. It is for processes that run already if gathered is set.
func (u *unit) freshGroup(gathered bool) (proc.Group, error) {
	if group, ok := u.groupAhead(); ok {
		return group, nil
	}
	if host := u.s.cfg.Host; host != nil {
		u.rec.Generation++
		return host.Fresh(Place{
			Unit: u.id, Service: u.keeper(), Spec: u.rec.Spec, Generation: u.rec.Generation, Gathered: gathered,
		})
	}
	for {
		u.rec.Generation++
		group, err := u.createGroup(groupName(u.keeper(), u.rec.Generation))
		if !errors.Is(err, fs.ErrExist) {
			return group, err
		}
	}
}

// newGroup makes a group for processes that run already, in the current generation.
func (u *unit) newGroup() (proc.Group, error) {
	if host := u.s.cfg.Host; host != nil {
		return host.Fresh(Place{Unit: u.id, Service: u.keeper(), Spec: u.rec.Spec, Generation: u.rec.Generation, Gathered: true})
	}
	return u.createGroup(groupName(u.id, u.rec.Generation))
}

// launchIn starts a program by the host.
func (u *unit) launchIn(ctx context.Context, host Host, p program) (*proc.Handle, error) {
	command := p.command
	command.Env = mergeEnv(command.Env, p.env)
	return host.Launch(ctx, p.group, Program{
		Profile: u.profile(u.rec.Spec), Command: command, Files: p.files, Names: p.names,
	})
}

// gather moves processes into a group. Those that have ended are passed over.
func (u *unit) gather(ctx context.Context, group proc.Group, processes ...tenure.Process) error {
	if host := u.s.cfg.Host; host != nil {
		return host.Gather(ctx, group, processes)
	}
	var errs []error
	for _, process := range processes {
		// It stands still or waits, and one that was killed is gone.
		handle, err := proc.Open(process)
		if err != nil {
			continue
		}
		if err := u.s.cfg.Hierarchy.Take(group, handle); err != nil && !errors.Is(err, proc.ErrGone) {
			errs = append(errs, err)
		}
		handle.Close()
	}
	return errors.Join(errs...)
}

// release gives what removes a group that a unit has no process in any more, as soon as
// nobody has. It returns an error only when its ctx ended or the kernel refuses for good; the
// next supervisor finds the group then.
func (s *Supervisor) release(group proc.Group, asked bool) func(context.Context) error {
	if s.cfg.Host != nil && s.isUnits(group) {
		return s.cfg.Host.Release(group, asked)
	}
	return func(ctx context.Context) error { return removeWhenEmpty(ctx, group) }
}

// isUnits reports whether a group is that of a unit, and not one that a service made below
// its own.
func (s *Supervisor) isUnits(group proc.Group) bool {
	return filepath.Dir(filepath.Dir(group.Path())) == s.cfg.Hierarchy.Path()
}

// serves tells the host which group is the service's now.
func (u *unit) serves() {
	if host := u.s.cfg.Host; host != nil && u.id.Kind == tenure.Service && u.rec.Group != "" {
		host.Serves(u.rec.Spec, proc.GroupAt(u.rec.Group))
	}
}

// forward tells the host what a process has said of itself.
func (u *unit) forward(heard datagram) {
	if host := u.s.cfg.Host; host != nil && u.rec.Group != "" {
		if words := heard.words(); words != "" {
			host.Heard(proc.GroupAt(u.rec.Group), u.rec.Main, words)
		}
	}
}

// words are those that are of interest to who only wants to know how a unit does.
func (n *notification) words() string {
	var words []string
	for word, said := range map[string]bool{"READY=1": n.Ready, "RELOADING=1": n.Reloading} {
		if said {
			words = append(words, word)
		}
	}
	if n.HasStatus {
		words = append(words, "STATUS="+n.Status)
	}
	if n.MainPID != 0 {
		words = append(words, "MAINPID="+strconv.Itoa(n.MainPID))
	}
	if n.ExtendTimeout > 0 {
		words = append(words, "EXTEND_TIMEOUT_USEC="+strconv.FormatInt(n.ExtendTimeout.Microseconds(), 10))
	}
	return strings.Join(words, "\n")
}

// restByHost tells the host that a service that does not run is not to be started again.
func (u *unit) restByHost(reason tenure.Reason, hold bool) {
	if host := u.s.cfg.Host; host != nil && u.id.Kind == tenure.Service {
		host.Rest(u.id)
		u.awayAtBoot(reason, hold)
	}
}

// awayAtBoot tells the host that a service is not to be started when the machine boots, unless it
// has ended because the machine goes down, or is to start again at once.
func (u *unit) awayAtBoot(reason tenure.Reason, hold bool) {
	if host := u.s.cfg.Host; host != nil && !hold && u.id.Kind == tenure.Service && reason != tenure.ReasonShutdown {
		host.AwayAtBoot(u.id)
	}
}

// forgetByHost has the host forget the unit.
func (u *unit) forgetByHost() error {
	if host := u.s.cfg.Host; host != nil {
		return host.Forget(u.id)
	}
	return nil
}

// startedByHost brings records up to date with what the host has started while no supervisor
// ran: a service that it had records of or not. A process that is in a record was not: the
// host may take it for the service although its successor is that since.
func (s *Supervisor) startedByHost(ctx context.Context, recs []*record) ([]*record, error) {
	if s.cfg.Host == nil {
		return recs, nil
	}
	running, err := s.cfg.Host.Running(ctx)
	if err != nil {
		return nil, err
	}
	for _, r := range running {
		info, err := proc.Read(r.Main.PID)
		if err != nil || info.Process != r.Main || slices.ContainsFunc(recs, func(rec *record) bool { return rec.Main == r.Main }) {
			continue // It has ended meanwhile, or is known.
		}
		at := slices.IndexFunc(recs, func(rec *record) bool { return rec.Spec.Unit == r.Spec.Unit })
		if at < 0 {
			recs, at = append(recs, &record{Boot: s.boot, Stored: true}), len(recs)
		}
		rec := recs[at]
		if rec.Launching {
			continue
		}
		rec.Spec, rec.Group, rec.Main, rec.Started = r.Spec, r.Group.Path(), r.Main, info.Started
		rec.State, rec.Since, rec.Ready, rec.Alone = supervise.Running, info.Started, true, true
		rec.Ending, rec.Exit, rec.Aux, rec.Deadline = nil, nil, "", nil
		rec.Generation++
	}
	return recs, nil
}

// toldByHost reports whether the unit that had a group was ended by who asked the host.
func (u *unit) toldByHost(ctx context.Context, group string) bool {
	return u.s.cfg.Host != nil && group != "" && u.s.cfg.Host.Told(ctx, proc.GroupAt(group))
}

// crowded reports whether the group of the unit has others in it than the unit's own
// processes, so that nobody hears of the end of the last of those.
func (u *unit) crowded() bool { return len(u.rec.Ceded) > 0 || u.s.cfg.Host != nil }

// ControlGroup is where systemd has the commands that it runs for a unit, below the unit's group: they
// are not the unit's own.
const ControlGroup = ".control"

// ownOnly leaves out what a host runs for the unit in the unit's group.
func ownOnly(infos []proc.Info) []proc.Info {
	return slices.DeleteFunc(infos, func(i proc.Info) bool { return i.Foreign && topGroup(i.Group) == ControlGroup })
}

// Launched is told by the Host that it has begun to start a service by itself, which
// asks for its program now.
func (s *Supervisor) Launched(ctx context.Context, service tenure.UnitID) error {
	if err := s.await(ctx); err != nil {
		return fmt.Errorf("launch %s: %w", service, err)
	}
	failure, err := requestKnown(ctx, s, service, func(u *unit, ctx context.Context, reply chan<- error) {
		if u.rec.State.Alive() {
			reply <- supervise.ErrRunning
			return
		}
		u.launchByItself(ctx)
		reply <- nil
	})
	if err = errors.Join(err, failure); err != nil {
		return fmt.Errorf("launch %s: %w", service, err)
	}
	return nil
}

// unitOfGroup is whose a group is by its name.
func (s *Supervisor) unitOfGroup(rel string) (unit tenure.UnitID, ok bool) {
	if s.cfg.Host != nil {
		return s.cfg.Host.Owner(rel)
	}
	unit, _, ok = UnitOfGroup(rel)
	return unit, ok
}

// answerWhen is answerStop when the group is gone: what a host has of the unit shows then that it
// has ended.
func (u *unit) answerWhen(removed <-chan struct{}, a stopAnswer) {
	replies := u.stopping
	u.stopping = nil
	u.background(func(ctx context.Context) {
		select {
		case <-removed:
		case <-ctx.Done():
		}
		for _, reply := range replies {
			reply <- a
		}
	})
}
