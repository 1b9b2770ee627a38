package test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"tenure"
	"tenure/internal/proc"
	"tenure/test/rig"
)

// TestStraysAreNotForgotten: a service puts what it leaves behind into a control
// group outside of its own, as some container managers do. It is in no unit, pins
// its revision for as long as it lives, and ends when the snap is removed, as
// the plan says.
func TestStraysAreNotForgotten(t *testing.T) {
	t.Parallel()
	i := rig.New(t, rig.Config{})
	name := filepath.Base(i.Root) + "-outside"
	t.Cleanup(func() { removeGroup(t, name) })
	pack := careless{Command: "group /" + name + " helper", Confinement: "classic"}.packer(t, i)
	i.Tenure("install", "--dangerous", "--classic", pack("x1"))
	i.Tenure("refresh", "--dangerous", "--classic", pack("x2"))
	i.Tenure("refresh", "--dangerous", "--classic", pack("x3"))
	strays := membersOf(t, name)
	if len(strays) != 3 {
		t.Fatalf("strays are %v, want one of each revision", strays)
	}
	first := hold(t, strays[0])
	if why := i.Tenure("why", "careless@x1"); !strings.Contains(why, fmt.Sprintf("process %d\n", strays[0].PID)) {
		t.Errorf("why careless@x1 does not name process %d:\n%s", strays[0].PID, why)
	}
	if err := first.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	await(t, i.Path("var/snap/careless"), func() bool {
		_, err := os.Stat(i.Path("var/snap/careless/x1"))
		return os.IsNotExist(err)
	})

	held := []*proc.Handle{hold(t, strays[1]), hold(t, strays[2])}
	plan := i.Tenure("plan", "remove", "careless")
	for n, stray := range strays[1:] {
		if want := fmt.Sprintf("stop, though in no unit: %d careless of x%d\n", stray.PID, n+2); !strings.Contains(plan, want) {
			t.Errorf("the plan does not say %q:\n%s", want, plan)
		}
	}
	i.Tenure("remove", "careless")
	gone(t, i)
	for _, handle := range held {
		if exit := ending(t, handle); !exit.Success() {
			t.Errorf("%v: %v, want that it ended when it was told to", handle.Process(), exit)
		}
	}
}

// TestAPinGoesWithItsUse: what a stranger uses is kept, until they stop using it,
// which is not the end of them.
func TestAPinGoesWithItsUse(t *testing.T) {
	t.Parallel()
	i := rig.New(t, rig.Config{})
	pack := careless{Command: "leave helper"}.packer(t, i)
	i.Tenure("install", "--dangerous", pack("x1"))
	rev := i.Units()[daemon].Revision
	stranger := exec.CommandContext(t.Context(), "sh", "-c", "read line; cd /; read line")
	stranger.Dir = i.Path("snap/careless", rev)
	stdin, err := stranger.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := stranger.Start(); err != nil {
		t.Fatal(err)
	}
	i.Tenure("remove", "careless")
	if why := i.Tenure("why", "careless@"+rev); why != fmt.Sprintf("process %d\n", stranger.Process.Pid) {
		t.Errorf("why careless@%s says %q, want process %d", rev, why, stranger.Process.Pid)
	}
	if _, err := io.WriteString(stdin, "leave\n"); err != nil {
		t.Fatal(err)
	}
	await(t, i.Path("var/snap"), func() bool {
		_, err := os.Stat(i.Path("var/snap/careless"))
		return os.IsNotExist(err)
	})
	if err := errors.Join(stdin.Close(), stranger.Wait()); err != nil {
		t.Logf("the stranger: %v", err) // Its second line never came.
	}
}

// group is where a service of the careless package makes a group outside its own.
func group(t *testing.T, name string) string {
	t.Helper()
	for _, top := range []string{"/sys/fs/cgroup/unified", "/sys/fs/cgroup"} {
		if _, err := os.Stat(filepath.Join(top, "cgroup.procs")); err == nil {
			return filepath.Join(top, name)
		}
	}
	t.Fatal("there are no unified control groups here")
	return ""
}

// membersOf are the processes in a group, oldest first.
func membersOf(t *testing.T, name string) []tenure.Process {
	t.Helper()
	pids, err := os.ReadFile(filepath.Join(group(t, name), "cgroup.procs"))
	if err != nil {
		t.Fatal(err)
	}
	var members []tenure.Process
	for _, field := range strings.Fields(string(pids)) {
		pid, err := strconv.Atoi(field)
		if err != nil {
			t.Fatal(err)
		}
		info, err := proc.Read(pid)
		if err != nil {
			t.Fatal(err)
		}
		members = append(members, info.Process)
	}
	slices.SortFunc(members, func(a, b tenure.Process) int { return int(a.Start) - int(b.Start) })
	return members
}

// removeGroup ends what is left in a group, and removes it.
func removeGroup(t *testing.T, name string) {
	t.Helper()
	left := proc.GroupAt(group(t, name))
	if err := left.Kill(); err != nil {
		t.Error(err)
	}
	if err := left.AwaitEmpty(context.WithoutCancel(t.Context())); err != nil {
		t.Error(err)
	}
	if err := left.Remove(); err != nil {
		t.Error(err)
	}
}
