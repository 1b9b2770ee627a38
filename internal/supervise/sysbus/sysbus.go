// Package sysbus knows who owns which name on the system bus of D-Bus, for
// services whose readiness is such a name.
//
// What always holds: a name counts only for the process that owns it now, so
// that what the last generation of a service has not given back yet does not
// pass for the next one's. Every wait has a connection of its own, and there is
// none while nobody waits.
//
// All methods may be called concurrently.
package sysbus

import (
	"context"
	"errors"
	"fmt"

	"github.com/godbus/dbus/v5"
)

// Names are the names on the system bus: that of the environment
// (DBUS_SYSTEM_BUS_ADDRESS), or else the usual one.
type Names struct{}

// ErrNoBus is that there is no bus to wait for a name on, or not any more.
var ErrNoBus = errors.New("there is no system bus")

// Await returns nil as soon as a process owns name of which owner is true.
func (Names) Await(ctx context.Context, name string, owner func(pid int) bool) error {
	conn, err := dbus.ConnectSystemBus(dbus.WithContext(ctx))
	if err != nil {
		return fmt.Errorf("%w to wait for the name %s on: %w", ErrNoBus, name, err)
	}
	defer conn.Close() //nolint:errcheck // Nothing is lost with it.
	changes := make(chan *dbus.Signal, 16)
	conn.Signal(changes)
	err = conn.AddMatchSignalContext(ctx,
		dbus.WithMatchSender("org.freedesktop.DBus"), dbus.WithMatchInterface("org.freedesktop.DBus"),
		dbus.WithMatchMember("NameOwnerChanged"), dbus.WithMatchArg(0, name))
	if err != nil {
		return fmt.Errorf("wait for the name %s on the system bus: %w", name, err)
	}
	for {
		if pid, owned := ownerOf(ctx, conn, name); owned && owner(pid) {
			return nil
		}
		select {
		case _, open := <-changes:
			if !open {
				return fmt.Errorf("%w any more to wait for the name %s on", ErrNoBus, name)
			}
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// ownerOf is the process that owns a name, if there is one.
func ownerOf(ctx context.Context, conn *dbus.Conn, name string) (pid int, owned bool) {
	var number uint32
	err := conn.BusObject().CallWithContext(ctx, "org.freedesktop.DBus.GetConnectionUnixProcessID", 0, name).Store(&number)
	return int(number), err == nil
}
