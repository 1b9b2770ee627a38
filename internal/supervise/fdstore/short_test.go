package fdstore_test

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"tenure/internal/supervise/fdstore"
)

// A holder that may open no file more lets who comes wait, and goes on when it may again.
func TestAHolderOutOfDescriptors(t *testing.T) {
	t.Parallel()
	r := newRoot(t)
	first := r.client(t)
	pid := r.holder(t)
	var limit unix.Rlimit
	if err := unix.Prlimit(pid, unix.RLIMIT_NOFILE, nil, &limit); err != nil {
		t.Fatal(err)
	}
	if err := unix.Prlimit(pid, unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: 1, Max: limit.Max}, nil); err != nil {
		t.Fatal(err)
	}
	before := switches(t, pid)
	connected := make(chan error, 1)
	go func() {
		second, err := fdstore.New(t.Context(), fdstore.Config{Socket: r.socket(), Spawn: r.spawner().Spawn})
		if err == nil {
			err = second.Close()
		}
		connected <- err
	}()
	// It has woken more than once for who came, and has gone back to sleep.
	eventually(t, "the holder to hear of a client", func() bool { return switches(t, pid) > before+5 })
	if err := unix.Prlimit(pid, unix.RLIMIT_NOFILE, &limit, nil); err != nil {
		t.Fatal(err)
	}
	if err := <-connected; err != nil {
		t.Error(err)
	}
	if _, err := first.List(t.Context()); err != nil || r.holder(t) != pid {
		t.Errorf("%v; the holder is another: %v", err, r.holder(t) != pid)
	}
}

// switches is how often the threads of a process have gone to sleep by themselves.
func switches(t *testing.T, pid int) (sum int) {
	t.Helper()
	files, err := filepath.Glob(filepath.Join("/proc", strconv.Itoa(pid), "task/*/status"))
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		text, _ := os.ReadFile(file)
		for line := range strings.Lines(string(text)) {
			if value, ok := strings.CutPrefix(line, "voluntary_ctxt_switches:"); ok {
				n, _ := strconv.Atoi(strings.TrimSpace(value))
				sum += n
			}
		}
	}
	return sum
}
