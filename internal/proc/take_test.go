package proc

import (
	"bufio"
	"errors"
	"os/exec"
	"strconv"
	"syscall"
	"testing"
)

// inheritor is a process that begins another with a pid of our choice (clone3(2)), and says so.
const inheritor = `$| = 1;
my $pid = pack("l", $ARGV[0]);
my $args = pack("Q11", 0, 0, 0, 0, 17, 0, 0, 0, unpack("Q", pack("P", $pid)), 1, 0);
my $child = syscall(435, $args, length $args);
die "clone3: $!" if $child < 0;
print "$child\n" if $child;
sleep;`

// A process that ends while it is being moved may leave its pid to another, which is not moved.
func TestTakeNobodyElse(t *testing.T) {
	t.Parallel()
	h := hierarchy(t)
	unit, home := create(t, h, "unit"), create(t, h, "home")
	process := born(t, home, "exec sleep 1000")
	if err := h.Take(unit, process); err != nil {
		t.Fatal(err)
	}
	expectGroup(t, h, process.Process().PID, unit)

	if err := process.Signal(syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if _, err := process.Wait(within(t)); err != nil {
		t.Fatal(err)
	}
	pid := process.Process().PID
	if err := h.Take(unit, process); !errors.Is(err, ErrGone) {
		t.Errorf("nobody has the pid: %v", err)
	}
	inherit(t, home, pid)
	expectGroup(t, h, pid, home)
	if err := h.Take(unit, process); !errors.Is(err, ErrGone) {
		t.Errorf("another has the pid: %v", err)
	}
	expectGroup(t, h, pid, home)
	if populated, err := unit.Populated(); err != nil || populated {
		t.Errorf("the unit has a process: %v, %v", populated, err)
	}
}

// inherit begins a process with a pid, in a group.
func inherit(t *testing.T, g Group, pid int) {
	t.Helper()
	dir, err := g.Open()
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()                                                                   //nolint:errcheck // Only read.
	cmd := exec.CommandContext(t.Context(), "perl", "-e", inheritor, strconv.Itoa(pid)) //nolint:gosec // Ours.
	cmd.SysProcAttr = &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: int(dir.Fd())}  //nolint:gosec // An open descriptor.
	stdout, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = errors.Join(cmd.Process.Kill(), cmd.Wait()) })
	if said, err := bufio.NewReader(stdout).ReadString('\n'); err != nil || said != strconv.Itoa(pid)+"\n" {
		t.Fatalf("a process with pid %d: %q, %v", pid, said, err)
	}
}

func expectGroup(t *testing.T, h *Hierarchy, pid int, want Group) {
	t.Helper()
	if got, err := h.GroupOf(pid); err != nil || got != want {
		t.Errorf("process %d is in %s, %v; want %s", pid, got.Path(), err, want.Path())
	}
}
