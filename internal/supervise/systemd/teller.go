package systemd

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"tenure"
	"tenure/internal/proc"
	"tenure/internal/supervise"
	"tenure/internal/supervise/native"
)

// tellerFile is the unit file of what tells the supervisor that a service is to be started.
func (h *host) tellerFile(unit tenure.UnitID, verb string) string {
	command := append(slices.Clone(h.program), verb, h.socket, h.names.alias(unit), h.state)
	return render(
		section{"Unit", []setting{
			{"Description", "Start of " + unit.String()}, {"StartLimitIntervalSec", "0"}, {"RefuseManualStart", "yes"},
		}},
		section{"Service", []setting{{"Type", "exec"}, {"ExecStart", quoteCommand(command)}}},
	)
}

// told carries out what a unit of a declaration says: that somebody has connected, or that it is time.
func (s *Supervisor) told(ctx context.Context, c *caller, tell func(context.Context, tenure.UnitID) error) error {
	unit, ok := s.host.names.readAlias(c.Unit)
	own, err := s.host.hierarchy.GroupOf(c.peer.Handle.Process().PID)
	if err != nil {
		return err
	}
	if !ok || !strings.HasPrefix(filepath.Base(own.Path()), s.host.names.stem(unit)+".") {
		return fmt.Errorf("process %d is not of %s: %w", c.peer.Handle.Process().PID, c.Unit, os.ErrPermission)
	}
	return tell(ctx, unit)
}

// The teller's times.
const (
	// tellAgain is how long it waits before it lets go of what cannot be started: systemd starts it again
	// as long as somebody waits.
	tellAgain = time.Second
	// lastTried is how long a service must have been down to be started again at once.
	lastTried = time.Second
)

// tell tells the supervisor that a service is to be started, and starts it by its alias where there is none,
// unless it is down in the middle of a change, which goes on with the next supervisor, or systemd does something with it
// anyway: the start of what is to be stopped would undo that.
func tell(verb, socket, alias, state string) error {
	for {
		conn, err := ask(socket, question{Verb: verb, Unit: alias})
		if err == nil {
			o, _, err := conn.answer()
			if err == nil && o.Error == "" {
				return nil
			}
			_ = unix.Close(int(conn))
			if err == nil {
				<-time.After(tellAgain)
				return errors.New(o.Error)
			}
		}
		unit, boot, err := recordOf(alias)
		if err != nil {
			return err
		}
		if !native.Held(state, boot, unit) {
			switch nextOf(verb, alias) {
			case nextNothing:
				return nil
			case nextStart:
				return startAlone(alias)
			case nextWait:
			}
		}
		<-time.After(tellAgain) // There may be a supervisor then.
	}
}

// next is what is to be done for who has connected, or because it is time.
type next int

const (
	nextNothing next = iota
	nextStart
	nextWait
)

// recordOf is by what the record of a service is found that has a name.
func recordOf(name string) (unit tenure.UnitID, boot string, err error) {
	prefix, _, _ := strings.Cut(name, ".")
	unit, ok := names{prefix}.readAlias(name)
	if !ok {
		unit, _, ok = names{prefix}.parse(name)
	}
	if !ok {
		return unit, "", fmt.Errorf("unit %s: %w", name, supervise.ErrUnknown)
	}
	boot, err = proc.BootID()
	return unit, boot, err
}

// nextOf asks systemd how a service is doing.
func nextOf(verb, alias string) next {
	ctx, cancel := context.WithTimeout(context.Background(), launchPatience)
	defer cancel()
	b := &bus{life: ctx}
	defer b.close()
	now, err := b.look(ctx, alias)
	if err != nil {
		return nextWait // Nobody can say.
	}
	since, err := b.downSince(ctx, alias)
	down := time.Since(since)
	return nextIn(verb, now, err == nil && down >= 0 && down < lastTried) // The clock may have been set.
}

// nextIn is what is to be done for a service in a condition, that has ended just now or not.
func nextIn(verb string, now condition, justNow bool) next {
	switch {
	case verb == verbStrike && now.active == "activating" && now.job == "start":
		return nextNothing // It may be a program that is to do something, and does that: one that runs goes on.
	case now.job != "", now.active == "deactivating":
		return nextWait
	case now.active == "active", now.active == "reloading":
		return nextNothing
	case justNow:
		return nextWait
	}
	return nextStart
}

// startAlone has systemd start a service, unless it is to do something else with it.
func startAlone(alias string) error {
	ctx, cancel := context.WithTimeout(context.Background(), launchPatience)
	defer cancel()
	b := &bus{life: ctx}
	defer b.close()
	j, err := b.begin(alias, startPlain(ctx, alias, "fail"))
	if err == nil {
		err = j.wait(ctx)
	}
	if err != nil {
		<-time.After(tellAgain)
	}
	return err
}
