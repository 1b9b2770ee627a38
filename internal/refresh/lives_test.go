package refresh

import (
	"os/exec"
	"testing"

	"tenure/internal/proc"
)

// What is waited for has ended with its last thread, and not when its parent comes to
// reap it.
func TestWhatIsNotReapedHasEnded(t *testing.T) {
	t.Parallel()
	cmd := exec.CommandContext(t.Context(), "/bin/cat")
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	info, err := proc.Read(cmd.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	if !lives(info.Process) {
		t.Error("a process that runs does not live")
	}
	if err := stdin.Close(); err != nil {
		t.Fatal(err)
	}
	for info.State != 'Z' {
		if info, err = proc.Read(cmd.Process.Pid); err != nil {
			t.Fatal(err)
		}
	}
	if lives(info.Process) {
		t.Error("a process that has ended and is not reaped lives")
	}
	if err := cmd.Wait(); err != nil {
		t.Fatal(err)
	}
	if lives(info.Process) {
		t.Error("a process that is gone lives")
	}
}
