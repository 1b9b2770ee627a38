package test

import (
	"context"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"tenure/client"
	"tenure/internal/proc"
	"tenure/test/rig"
)

// begun begins an upgrade to a program, and returns when that has come to where the name of its directory says, with its guard.
func (u *upgraded) begun(program string) *proc.Handle {
	u.t.Helper()
	const halted = "on purpose"
	before := strings.Count(u.Said(), halted)
	if _, err := u.Client().Upgrade(u.t.Context(), program, time.Hour); err != nil {
		u.t.Fatal(err)
	}
	awaitSaid(u.t, u.Instance, halted, before)
	return u.guard()
}

// guard is the guard of the daemon.
func (u *upgraded) guard() *proc.Handle {
	u.t.Helper()
	dirs, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		u.t.Fatal(err)
	}
	for _, dir := range dirs {
		pid, err := strconv.Atoi(filepath.Base(dir))
		if err != nil {
			u.t.Fatal(err)
		}
		info, err := proc.Read(pid)
		if err != nil || info.PPID != u.PID() || len(info.Args) < 2 || info.Args[1] != "guard" {
			continue
		}
		handle, err := proc.Open(info.Process)
		if err != nil {
			u.t.Fatal(err)
		}
		u.t.Cleanup(handle.Close)
		return handle
	}
	u.t.Fatalf("process %d has no guard", u.PID())
	return nil
}

// gone waits for the end of a process. One that becomes another program goes on.
func (u *upgraded) gone(process *proc.Handle) {
	u.t.Helper()
	ctx, cancel := context.WithTimeout(u.t.Context(), rig.Patience)
	defer cancel()
	if _, err := process.Wait(ctx); err != nil {
		u.t.Fatal(err)
	}
}

// A daemon that is told to end while another one begins in its place has been told to end: whoever of both hears it, and also if
// it hangs and has to be killed then, nobody takes its place. The next one finds all as it was.
func TestUpgradeIsEndedAtItsStart(t *testing.T) {
	t.Parallel()
	u := newUpgraded(t)
	u.Tenure("install", "--dangerous", snap(t, "hello", "1"))
	before, version := u.processes(), u.version()
	for _, c := range []struct {
		dir string
		end func(guard *proc.Handle)
	}{
		{"waits-at-start", func(guard *proc.Handle) {
			if err := guard.Signal(syscall.SIGTERM); err != nil {
				t.Fatal(err)
			}
			<-u.Ended()
		}},
		{"next-waits-at-start", func(*proc.Handle) { u.Stop() }},
		{"next-hangs-at-start", func(*proc.Handle) {
			if err := syscall.Kill(u.PID(), syscall.SIGTERM); err != nil {
				t.Fatal(err)
			}
			awaitSaid(t, u.Instance, "was told to end", 0)
			u.Kill()
		}},
	} {
		guard := u.begun(u.next(c.dir))
		c.end(guard)
		u.gone(guard)
		u.Start()
		if got := u.version(); got != version {
			t.Errorf("%s: %q serves, want %q", c.dir, got, version)
		}
		daemon, err := u.Client().Daemon(t.Context())
		if err != nil || daemon.Upgrade == nil || daemon.Upgrade.Status != client.UpgradeError {
			t.Errorf("%s: the upgrade is %+v, %v", c.dir, daemon.Upgrade, err)
		}
		if diff := cmp.Diff(before, u.processes()); diff != "" {
			t.Errorf("%s: processes (-before +after):\n%s", c.dir, diff)
		}
	}
	u.Tenure("refresh", "--dangerous", snap(t, "hello", "2"))
}

// A daemon that is told to end in the last moment before it becomes another program ends, and its guard does not take its place.
func TestUpgradeIsEndedInItsLastMoment(t *testing.T) {
	t.Parallel()
	u := newUpgraded(t)
	version := u.version()
	u.Tenure("daemon", "upgrade", u.next("hangs-at-become"))
	guard := u.begun(u.next("plain"))
	if err := syscall.Kill(u.PID(), syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	<-u.Ended()
	u.gone(guard)
	u.Start()
	if got := u.version(); got != version {
		t.Errorf("%q serves, want %q", got, version)
	}
}

// A guard that is killed is missed by nobody: the program that it waits beside goes on, and is the daemon.
func TestUpgradeLosesItsGuard(t *testing.T) {
	t.Parallel()
	u := newUpgraded(t)
	u.Tenure("install", "--dangerous", snap(t, "hello", "1"))
	before, next := u.processes(), u.next("waits-at-start")
	pipe := filepath.Join(filepath.Dir(next), "go")
	if err := unix.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	guard, ready := u.begun(next), strings.Count(u.Said(), "msg=ready")
	if err := guard.Signal(syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	u.gone(guard)
	released, err := os.OpenFile(pipe, os.O_WRONLY, 0) // It is open when the other end is.
	if err == nil {
		err = released.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
	awaitSaid(t, u.Instance, "msg=ready", ready)
	if got := u.version(); got != rig.Next {
		t.Errorf("%q serves", got)
	}
	if diff := cmp.Diff(before, u.processes()); diff != "" {
		t.Errorf("processes (-before +after):\n%s", diff)
	}
	u.Tenure("refresh", "--dangerous", snap(t, "hello", "2"))
	u.Stop()
	u.Start()
}

// A program that stands still in its start, so that it does not even see that it is late, is replaced by the one before, in its time.
func TestUpgradeStandsStill(t *testing.T) {
	t.Parallel()
	u := newUpgraded(t)
	u.Tenure("install", "--dangerous", snap(t, "hello", "1"))
	before, version, known := u.processes(), u.version(), u.PID()
	next := u.next("next-stops-at-start")
	// On a busy machine it may not even come to its start in the shortest time.
	for patience := time.Second; known == u.PID(); patience *= 2 {
		r := u.Try("daemon", "upgrade", "--patience", patience.String(), next)
		if r.Status != 1 || !strings.Contains(r.Stderr, "it was not ready after "+patience.String()) || !strings.Contains(r.Stderr, version+" serves again") {
			t.Fatalf("with %s: %+v", patience, r)
		}
		daemon, err := u.Client().Daemon(t.Context())
		if err != nil || daemon.Version != version {
			t.Fatalf("%+v, %v answers", daemon, err)
		}
		known = daemon.PID
	}
	<-u.Ended()
	if diff := cmp.Diff(before, u.processes()); diff != "" {
		t.Errorf("processes (-before +after):\n%s", diff)
	}
	u.Tenure("refresh", "--dangerous", snap(t, "hello", "2"))
}
