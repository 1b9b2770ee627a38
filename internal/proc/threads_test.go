package proc_test

import (
	"os"
	"testing"

	"tenure/internal/proc"
)

// Threads that are kept are there, and there is room for processes beside them.
func TestKeepThreads(t *testing.T) {
	t.Parallel()
	const more = 8
	proc.KeepThreads(more)
	tasks, err := os.ReadDir("/proc/self/task")
	if err != nil || len(tasks) < more {
		t.Errorf("%d threads, %v", len(tasks), err)
	}
	if err := proc.CanFork(); err != nil {
		t.Error(err)
	}
}
