package native

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strconv"
	"strings"
	"syscall"
	"time"

	"tenure"
	"tenure/internal/proc"
	"tenure/internal/supervise"
)

// auxKind is what a command that runs for a unit is for.
type auxKind string

const (
	auxStop   auxKind = "stop"
	auxReload auxKind = "reload"
	auxPost   auxKind = "post"
)

// runAux starts a command for the unit: in a namespace of its own made like the
// unit's, and in a group of its own beside it. It is not a process of the unit.
func (u *unit) runAux(ctx context.Context, kind auxKind, command supervise.Command, timeout time.Duration) error {
	ctx = context.WithoutCancel(ctx)
	group, err := u.auxGroup(kind)
	if err != nil {
		return err
	}
	u.rec.Aux, u.rec.AuxKind, u.rec.AuxMain = group.Path(), kind, tenure.Process{}
	if timeout > 0 {
		u.setAlarm(alarmAux, timeout)
	}
	u.save()
	if err := u.prepareAuxDir(); err != nil {
		u.dropAux(ctx, supervise.Event{Cause: supervise.CauseExit})
		return err
	}
	handle, err := u.exec(ctx, program{command: command, group: group, env: u.auxEnv(), launch: u.s.cfg.Launch})
	if err != nil {
		u.dropAux(ctx, supervise.Event{Cause: supervise.CauseExit})
		return fmt.Errorf("%s command: %w", kind, err)
	}
	if timeout > 0 {
		u.setAlarm(alarmAux, timeout) // A host may have taken some of it.
	}
	u.rec.AuxMain = handle.Process()
	u.save()
	u.holdAux(handle)
	return nil
}

func (u *unit) prepareAuxDir() error {
	if u.rec.Passive {
		return u.prepareDir()
	}
	return nil
}

// auxGroup makes a fresh group for a command.
func (u *unit) auxGroup(kind auxKind) (proc.Group, error) {
	if host := u.s.cfg.Host; host != nil {
		return host.Fresh(Place{Unit: u.id, Service: u.keeper(), Spec: u.rec.Spec, Generation: u.rec.Generation, Command: string(kind)})
	}
	base := groupName(u.id, max(1, u.rec.Generation)) + auxMark + string(kind)
	for n := 1; ; n++ {
		group, err := u.createGroup(base + strconv.Itoa(n))
		if !errors.Is(err, fs.ErrExist) {
			return group, err
		}
	}
}

// auxEnv tells a command about the unit that it runs for.
func (u *unit) auxEnv() []string {
	env := u.lifeEnv()
	if u.rec.Main.PID != 0 {
		env = append(env, "MAINPID="+strconv.Itoa(u.rec.Main.PID))
	}
	var pids []string
	infos, _ := u.living()
	for _, info := range infos {
		pids = append(pids, strconv.Itoa(info.PID))
	}
	env = append(env, "SNAP_LIFECYCLE_PIDS="+strings.Join(pids, " "))
	switch e, r := u.rec.Ending, u.rec.Reloading; {
	case e != nil && e.Reason != "":
		env = append(env, reasonEnv(e.Reason, e.From, e.To)...)
	case e == nil && r != nil && r.Reason != "":
		env = append(env, reasonEnv(r.Reason, r.From, r.To)...)
	}
	return env
}

func reasonEnv(reason tenure.Reason, from, to tenure.Revision) []string {
	return []string{
		"SNAP_LIFECYCLE_REASON=" + string(reason),
		"SNAP_LIFECYCLE_FROM=" + revisionText(from), "SNAP_LIFECYCLE_TO=" + revisionText(to),
	}
}

// revisionText is empty for no revision.
func revisionText(r tenure.Revision) string {
	if r.IsZero() {
		return ""
	}
	return r.String()
}

func (u *unit) holdAux(handle *proc.Handle) {
	u.aux = handle
	u.background(func(ctx context.Context) {
		defer handle.Close()
		exit, err := handle.Wait(ctx)
		if ctx.Err() != nil {
			return
		}
		if err != nil {
			exit = proc.Exit{}
		}
		ended := func(ctx context.Context) {
			if u.aux == handle {
				u.auxEnded(ctx, exit, supervise.Event{Cause: supervise.CauseExit})
			}
		}
		// What it said last, as which process is the main one now, is said before its end.
		_ = u.tell(ctx, func(ctx context.Context) { u.afterNotified(ctx, ended) })
	})
}

// auxTimedOut ends a command that took too long.
func (u *unit) auxTimedOut(ctx context.Context) {
	if u.rec.Aux == "" {
		return
	}
	u.warn("command did not end in time", fmt.Errorf("%s command: %w", u.rec.AuxKind, context.DeadlineExceeded))
	if u.rec.Ending != nil && u.rec.AuxKind == auxStop {
		u.rec.Ending.Cut = true
	}
	u.auxEnded(ctx, proc.Exit{}, supervise.Event{Late: true})
}

// auxEnded goes on where the command's end was waited for.
func (u *unit) auxEnded(ctx context.Context, exit proc.Exit, why supervise.Event) {
	kind := u.rec.AuxKind
	u.dropAux(ctx, why)
	if !exit.Success() {
		u.warn("command failed", fmt.Errorf("%s command: %s", kind, exit))
	}
	switch kind {
	case auxReload:
		u.reloaded(exit)
	case auxStop, auxPost:
		u.progress(ctx)
	}
}

// dropAux ends what is left of a command, and forgets it. The event says why.
func (u *unit) dropAux(ctx context.Context, event supervise.Event) {
	u.aux = nil
	u.clearAlarms(alarmAux)
	if u.rec.Aux == "" {
		return
	}
	group := proc.GroupAt(u.rec.Aux)
	event.Helper = string(u.rec.AuxKind)
	u.rec.Aux, u.rec.AuxKind, u.rec.AuxMain = "", "", tenure.Process{}
	populated, err := group.Populated()
	switch terms, known := u.terms(); {
	case err == nil && !populated:
		u.s.discard(ctx, group)
	case known:
		u.endCommand(event, group, terms)
		u.s.discard(ctx, group)
	default:
		u.dropLater(event, group)
	}
}

// endCommand ends what is left of a command in a group. Where SIGKILL is not allowed it
// is asked to end, and not waited for.
func (u *unit) endCommand(event supervise.Event, group proc.Group, terms supervise.Terms) {
	infos, err := group.Processes()
	if err != nil {
		u.warn("processes of a command cannot be listed", err)
	}
	if u.mayKill(terms) {
		u.killGroups(event, infos, err == nil, group)
	} else {
		u.sendAll(syscall.SIGTERM, event, infos)
	}
}
