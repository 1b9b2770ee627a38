// Package polkit asks the machine's polkit, where there is one, whether somebody may do
// what is for administrators
// (https://www.freedesktop.org/software/polkit/docs/latest/eggdbus-interface-org.freedesktop.PolicyKit1.Authority.html).
//
// What always holds: only polkit's yes is a yes, whatever else happens. Who is asked about
// is a process with its start and the user that it had when it connected: another process
// that has its pid later, and a program that it becomes and that is root's, gain nothing.
// A question ends with its context, and takes what it shows to people with it. It has a
// connection of its own, so that there is none while nobody asks.
//
// All methods may be called concurrently.
package polkit

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/godbus/dbus/v5"

	"tenure"
	"tenure/internal/quota"
)

// Action is what somebody wants to do; packaging/io.tenure.policy describes each.
type Action string

const (
	// Manage is to install, refresh and remove snaps, and to start and stop what is in them.
	Manage Action = "io.tenure.manage"
	// Configure is to see and set options, sources, and what snaps may start of others.
	Configure Action = "io.tenure.manage-configuration"
)

// Subject is who wants to.
type Subject struct {
	Process tenure.Process
	UID     uint32
}

// Errors of Check.
var (
	// ErrNoAuthority is that nobody can be asked: no bus, or no polkit that answers.
	ErrNoAuthority = errors.New("there is no polkit to ask")
	// ErrRefused is that polkit says no.
	ErrRefused = errors.New("polkit refuses")
	// ErrDismissed is that it asked a person, who did not want to answer.
	ErrDismissed = errors.New("the authentication was cancelled")
	// ErrBusy is that too many questions are open.
	ErrBusy = errors.New("too many questions to polkit are open")
)

// Config says whom to ask.
type Config struct {
	// Address is that of the bus; by default DBUS_SYSTEM_BUS_ADDRESS, or else the usual one.
	Address string
	// Patience bounds a question that no person answers, by default 10 s: polkit may have
	// to be started for it.
	Patience time.Duration
}

// Authority is polkit.
type Authority struct {
	cfg Config
	// open are the questions that are open, by their users.
	open *quota.Quota[uint32]
}

// New is the authority of a bus. It connects when it is asked.
func New(cfg Config) *Authority {
	cfg.Patience = cmp.Or(cfg.Patience, 10*time.Second)
	return &Authority{cfg: cfg, open: quota.New[uint32](maxOpen, maxAllOpen)}
}

// maxOpen is how many questions about a user may be open, and maxAllOpen how many of all:
// each is a connection, and the bus lets root have 256.
const maxOpen, maxAllOpen = 4, 32

// Check returns nil if who may do what the action is. With interactive, a person may be
// asked for a password, and has as long as ctx.
func (a *Authority) Check(ctx context.Context, who Subject, action Action, interactive bool) error {
	if !a.open.Take(who.UID) {
		return fmt.Errorf("ask whether user %d may %s: %w", who.UID, action, ErrBusy)
	}
	defer a.open.Give(who.UID)
	if !interactive {
		short, cancel := context.WithTimeout(ctx, a.cfg.Patience)
		defer cancel()
		ctx = short
	}
	if err := a.check(ctx, who, action, interactive); err != nil {
		return fmt.Errorf("ask whether user %d may %s: %w", who.UID, action, err)
	}
	return nil
}

// answer is polkit's.
type answer struct {
	Authorized, Challenge bool
	Details               map[string]string
}

// Names on the bus, and the flag that lets people be asked.
const (
	service     = "org.freedesktop.PolicyKit1"
	path        = "/org/freedesktop/PolicyKit1/Authority"
	checkMethod = service + ".Authority.CheckAuthorization"
	endMethod   = service + ".Authority.CancelCheckAuthorization"

	allowInteraction uint32 = 1
)

func (a *Authority) check(ctx context.Context, who Subject, action Action, interactive bool) error {
	subject, err := who.subject()
	if err != nil {
		return err
	}
	life, end := context.WithCancel(context.WithoutCancel(ctx))
	defer end()
	conn, err := a.connect(ctx, life, end)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrNoAuthority, err)
	}
	var flags uint32
	if interactive {
		flags = allowInteraction
	}
	id, authority := rand.Text(), conn.Object(service, path)
	var said answer
	err = authority.CallWithContext(ctx, checkMethod, 0, subject, string(action), map[string]string{}, flags, id).Store(&said)
	switch {
	case err != nil && ctx.Err() != nil && interactive:
		takeBack(life, authority, id)
		return fmt.Errorf("%w in time: %w", ErrNoAuthority, context.Cause(ctx))
	case err != nil:
		return fmt.Errorf("%w: %w", ErrNoAuthority, err)
	case said.Authorized:
		return nil
	case said.Details["polkit.dismissed"] != "":
		return ErrDismissed
	}
	return ErrRefused
}

// connect is a connection for a life, which ends at once if ctx does before it is there.
func (a *Authority) connect(ctx, life context.Context, end context.CancelFunc) (*dbus.Conn, error) {
	connected := context.AfterFunc(ctx, end)
	defer connected()
	if a.cfg.Address == "" {
		return dbus.ConnectSystemBus(dbus.WithContext(life))
	}
	return dbus.Connect(a.cfg.Address, dbus.WithContext(life))
}

// takeBack ends a question that a person may still be asked: nobody waits for the answer.
func takeBack(life context.Context, authority dbus.BusObject, id string) {
	short, cancel := context.WithTimeout(life, time.Second)
	defer cancel()
	_ = authority.CallWithContext(short, endMethod, 0, id).Err // With the connection it ends as well.
}

// subject is who as polkit has it: its kind and, of it, pid, start and user.
func (who Subject) subject() (any, error) {
	if who.Process.PID <= 0 || who.Process.PID > math.MaxInt32 || who.Process.Start == 0 || who.UID > math.MaxInt32 {
		return nil, fmt.Errorf("%w about %v of user %d", ErrNoAuthority, who.Process, who.UID)
	}
	return struct {
		Kind    string
		Details map[string]dbus.Variant
	}{"unix-process", map[string]dbus.Variant{
		"pid":        dbus.MakeVariant(uint32(who.Process.PID)), //nolint:gosec // See above.
		"start-time": dbus.MakeVariant(who.Process.Start),
		"uid":        dbus.MakeVariant(int32(who.UID)), //nolint:gosec // See above.
	}}, nil
}
