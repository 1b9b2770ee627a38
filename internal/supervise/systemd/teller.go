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
// unless it is down in the middle of a change, which goes on with the next supervisor.
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
		held, err := heldIn(state, alias)
		if err != nil {
			return err
		}
		if !held {
			return startAlone(alias)
		}
		<-time.After(tellAgain)
	}
}

func heldIn(state, alias string) (bool, error) {
	boot, err := proc.BootID()
	if err != nil {
		return false, err
	}
	prefix, _, _ := strings.Cut(alias, ".")
	unit, ok := names{prefix}.readAlias(alias)
	if !ok {
		return false, fmt.Errorf("unit %s: %w", alias, supervise.ErrUnknown)
	}
	return native.Held(state, boot, unit), nil
}

// startAlone has systemd start a service. One that has ended just now is not started at once.
func startAlone(alias string) error {
	ctx, cancel := context.WithTimeout(context.Background(), launchPatience)
	defer cancel()
	b := &bus{life: ctx}
	defer b.close()
	if since, err := b.downSince(ctx, alias); err == nil && time.Since(since) < lastTried {
		<-time.After(lastTried)
	}
	j, err := b.begin(alias, startPlain(ctx, alias))
	if err == nil {
		err = j.wait(ctx)
	}
	if err != nil {
		<-time.After(tellAgain)
	}
	return err
}
