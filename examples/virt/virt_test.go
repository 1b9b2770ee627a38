// Package virt_test holds the example package virt to case 1: machines that
// outlive their manager.
package virt_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"tenure/examples/clients/guest"
	"tenure/examples/clients/qmp"
	"tenure/examples/clients/virtd"
	"tenure/examples/internal/ready"
	"tenure/examples/internal/stage"
)

const patience = time.Minute

// scene is a $SNAP_COMMON with what runs in it.
type scene struct {
	client virtd.Client
	notify *ready.Socket
	env    []string
}

func newScene(t *testing.T, env ...string) *scene {
	t.Helper()
	if os.Getuid() != 0 {
		t.Fatal("mounting needs root")
	}
	notify, err := ready.Listen(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	// Short, for QEMU itself connects nothing longer than 107 bytes.
	common, err := os.MkdirTemp("/tmp", "tenure-virt-") //nolint:usetesting // t.TempDir is too long for sockets.
	if err != nil {
		t.Fatal(err)
	}
	s := &scene{client: virtd.Client{Common: common}, notify: notify, env: env}
	t.Cleanup(func() {
		s.killMachines(t)
		if err := notify.Close(); err != nil {
			t.Error(err)
		}
		if err := os.RemoveAll(common); err != nil {
			t.Error(err)
		}
	})
	return s
}

// killMachines ends what a failed test left.
func (s *scene) killMachines(t *testing.T) {
	t.Helper()
	pids, err := filepath.Glob(s.client.File("*", virtd.PIDFile))
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range pids {
		var pid int
		text, err := os.ReadFile(file)
		if err != nil {
			continue
		}
		if _, err := fmt.Sscan(string(text), &pid); err != nil {
			continue
		}
		if command, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid)); err == nil && strings.Contains(string(command), "qemu-system-") {
			t.Errorf("machine of process %d was left running", pid)
			syscall.Kill(pid, syscall.SIGKILL) //nolint:errcheck // It may have ended.
		}
	}
}

func (s *scene) command(t *testing.T, revision, path string, env []string, args ...string) *exec.Cmd {
	t.Helper()
	config := stage.Config{
		Name: "virt", Revision: revision, Common: s.client.Common, Root: t.TempDir(),
		Notify: s.notify.Path, Env: append(env, s.env...),
	}
	cmd, err := stage.Command(context.WithoutCancel(t.Context()), config, path, args...)
	if err != nil {
		t.Fatal(err)
	}
	return cmd
}

// manager starts virtd and returns what stops it.
func (s *scene) manager(ctx context.Context, t *testing.T, revision string) (stop func()) {
	t.Helper()
	cmd := s.command(t, revision, "bin/virtd", nil)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	stopped := false
	stop = func() {
		if stopped {
			return
		}
		stopped = true
		if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
			t.Error(err)
		}
		if err := cmd.Wait(); err != nil {
			t.Errorf("virtd after SIGTERM: %v", err)
		}
	}
	t.Cleanup(stop)
	if err := s.notify.Wait(ctx); err != nil {
		t.Fatal(err)
	}
	return stop
}

// started is field 22 of /proc/PID/stat, which no other process of that pid has.
func started(t *testing.T, pid int) string {
	t.Helper()
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		t.Fatal(err)
	}
	text := string(stat)
	return strings.Fields(text[strings.LastIndexByte(text, ')')+1:])[19]
}

func TestMachinesOutliveTheirManager(t *testing.T) {
	t.Parallel()
	for _, accel := range []string{"tcg", "kvm,tcg"} {
		t.Run(accel, func(t *testing.T) {
			t.Parallel()
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			testRefresh(ctx, t, newScene(t, "VIRTD_ACCEL="+accel))
		})
	}
}

func testRefresh(ctx context.Context, t *testing.T, s *scene) {
	t.Helper()
	stop := s.manager(ctx, t, "x1")
	before := make(map[string]virtd.Machine)
	births := make(map[string]string)
	for _, name := range []string{"web", "db-1"} {
		machine, err := s.client.Start(ctx, name)
		if err != nil {
			t.Fatal(err)
		}
		before[name], births[name] = machine, started(t, machine.PID)
		if _, err := guest.Ticks(ctx, s.client.File(name, virtd.SerialLog), 0, 3); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := s.client.Start(ctx, "web"); err == nil || !strings.Contains(err.Error(), "running already") {
		t.Errorf("second start: %v, want that it is running already", err)
	}

	stop()
	stop = s.manager(ctx, t, "x2")
	after, err := s.client.List(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if len(after) != 2 {
		t.Fatalf("found %d machines again, want 2: %+v", len(after), after)
	}
	for _, machine := range after {
		want := before[machine.Name]
		want.Reattached = true
		if diff := cmp.Diff(want, machine); diff != "" {
			t.Errorf("machine found again (-want +got):\n%s", diff)
		}
		if got := started(t, machine.PID); got != births[machine.Name] {
			t.Errorf("%s started at %s, want %s: it is another process", machine.Name, got, births[machine.Name])
		}
		checkLives(ctx, t, s, machine)
	}

	if err := s.client.Shutdown(ctx, "web"); err != nil {
		t.Error(err)
	}
	checkHalted(t, s, "web")
	stop()
	shutdown := s.command(t, "x2", "bin/vm-shutdown", []string{fmt.Sprintf("SNAP_LIFECYCLE_PIDS=%d", before["db-1"].PID), "SNAP_LIFECYCLE_REASON=remove"})
	if out, err := shutdown.Output(); err != nil || !strings.HasPrefix(string(out), "remove: machine db-1,") {
		t.Errorf("vm-shutdown: %v, output %q", err, out)
	}
	checkHalted(t, s, "db-1")
}

// checkLives sees that a machine answers, counts, writes its disk and loads a
// module from the revision that it was started from.
func checkLives(ctx context.Context, t *testing.T, s *scene, machine virtd.Machine) {
	t.Helper()
	client, err := qmp.Dial(ctx, s.client.File(machine.Name, virtd.QMPSocket))
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := client.Close(); err != nil {
			t.Error(err)
		}
	}()
	if uuid, err := client.UUID(ctx); err != nil || uuid != machine.UUID {
		t.Errorf("uuid %q, %v, want %q", uuid, err, machine.UUID)
	}
	if status, err := client.Status(ctx); err != nil || status != "running" {
		t.Errorf("status %q, %v, want running", status, err)
	}
	if module := mapped(t, machine.PID, qmp.HTTPModule); module != "" {
		t.Errorf("%s is loaded before it is needed", module)
	}
	if err := client.ReadOverHTTP(ctx, 1<<20); err != nil {
		t.Errorf("load a module: %v", err)
	}
	want := "/snap/virt/x1/usr/lib/x86_64-linux-gnu/qemu/" + qmp.HTTPModule
	if module := mapped(t, machine.PID, qmp.HTTPModule); !strings.HasSuffix(module, want) {
		t.Errorf("loaded %q, want %q", module, want)
	}
	serial := s.client.File(machine.Name, virtd.SerialLog)
	line, err := guest.ReadLine(serial)
	if err != nil {
		t.Fatal(err)
	}
	line, err = guest.Ticks(ctx, serial, line.Counter, 2)
	if err != nil {
		t.Fatal(err)
	}
	state, err := guest.ReadDisk(s.client.File(machine.Name, virtd.DiskImage))
	if err != nil || state.Counter < line.Counter || state.Clean {
		t.Errorf("disk %+v, %v, want at least what the line has: %+v", state, err, line)
	}
}

// mapped is the path of the file of that name that the process has mapped.
func mapped(t *testing.T, pid int, name string) string {
	t.Helper()
	maps, err := os.ReadFile(fmt.Sprintf("/proc/%d/maps", pid))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.SplitSeq(string(maps), "\n") {
		if path := line[strings.IndexByte(line, '/')+1:]; filepath.Base(path) == name {
			return "/" + path
		}
	}
	return ""
}

func checkHalted(t *testing.T, s *scene, name string) {
	t.Helper()
	line, err := guest.ReadLine(s.client.File(name, virtd.SerialLog))
	if err != nil || line.Boots != 1 || line.Halts != 1 {
		t.Errorf("serial line of %s: %+v, %v, want one boot and one halt", name, line, err)
	}
	state, err := guest.ReadDisk(s.client.File(name, virtd.DiskImage))
	if want := (guest.State{Counter: line.Counter, Clean: true}); err != nil || state != want {
		t.Errorf("disk of %s: %+v, %v, want %+v", name, state, err, want)
	}
}

func TestCounterGoesOnAfterTheNextBoot(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	s := newScene(t)
	s.manager(ctx, t, "x1")
	serial := s.client.File("m", virtd.SerialLog)
	for boot := 1; boot <= 2; boot++ {
		if _, err := s.client.Start(ctx, "m"); err != nil {
			t.Fatal(err)
		}
		line, err := guest.Wait(ctx, serial, func(l guest.Line) bool { return l.Boots == boot })
		if err != nil {
			t.Fatal(err)
		}
		if _, err := guest.Ticks(ctx, serial, line.Counter, 2); err != nil {
			t.Fatal(err)
		}
		if err := s.client.Shutdown(ctx, "m"); err != nil {
			t.Fatal(err)
		}
	}
	line, err := guest.ReadLine(serial)
	if err != nil || line.Boots != 2 || line.Halts != 2 {
		t.Errorf("serial line: %+v, %v, want two boots and two halts", line, err)
	}
}

func TestTheReasonDecidesWhatBecomesOfMachines(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	s := newScene(t, "VIRTD_ACCEL=tcg")
	s.manager(ctx, t, "x1")
	stopFor := func(reason string) {
		t.Helper()
		if err := s.command(t, "x1", "bin/virtd-stop", []string{"SNAP_LIFECYCLE_REASON=" + reason}).Run(); err != nil {
			t.Fatalf("virtd-stop for %s: %v", reason, err)
		}
	}
	stopFor("shutdown") // Of no machine.
	serial, state := s.client.File("m", virtd.SerialLog), s.client.File("m", virtd.Suspended)
	first, err := s.client.Start(ctx, "m")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := guest.Ticks(ctx, serial, 0, 2); err != nil {
		t.Fatal(err)
	}
	stopFor("refresh")
	if list, err := s.client.List(ctx); err != nil || len(list) != 1 || list[0].PID != first.PID {
		t.Errorf("machines after a refresh: %+v, %v, want %+v", list, err, first)
	}

	stopFor("shutdown")
	if list, err := s.client.List(ctx); err != nil || len(list) != 1 || list[0].Running {
		t.Errorf("machines after a shutdown: %+v, %v, want one that does not run", list, err)
	}
	line, err := guest.ReadLine(serial)
	if err != nil || line.Boots != 1 || line.Halts != 0 {
		t.Errorf("serial line of a suspended machine: %+v, %v", line, err)
	}
	if _, err := os.Stat(state); err != nil {
		t.Error(err)
	}
	if _, err := s.client.Start(ctx, "m"); err != nil {
		t.Fatal(err)
	}
	if line, err = guest.Ticks(ctx, serial, line.Counter, 2); err != nil || line.Boots != 1 {
		t.Errorf("serial line of a resumed machine: %+v, %v, want one boot", line, err)
	}
	if _, err := os.Stat(state); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the state of a machine that goes on: %v, want that it is gone", err)
	}

	stopFor("remove")
	checkHalted(t, s, "m")
	stopFor("remove")
}

func TestBadRequests(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	s := newScene(t)
	s.manager(ctx, t, "x1")
	for _, name := range []string{"", "..", "a/b", "a,b", "-a", strings.Repeat("a", 80)} {
		if _, err := s.client.Start(ctx, name); err == nil || !strings.Contains(err.Error(), "machine name") {
			t.Errorf("start %q: %v, want an error about the name", name, err)
		}
	}
	if err := s.client.Shutdown(ctx, "nobody"); err == nil || err.Error() != "machine nobody does not run" {
		t.Errorf("shutdown of no machine: %v", err)
	}
	stranger := s.command(t, "x1", "bin/vm-shutdown", []string{fmt.Sprintf("SNAP_LIFECYCLE_PIDS=%d", os.Getpid())})
	stranger.Stderr = nil
	_, err := stranger.Output()
	if exit, ok := errors.AsType[*exec.ExitError](err); !ok || !strings.Contains(string(exit.Stderr), "is no machine of virtd") {
		t.Errorf("vm-shutdown of a stranger: %v", err)
	}
}
