package bench

import (
	"context"
	"os"
	"regexp"
	"strconv"
	"sync"
	"syscall"
	"testing"
	"time"

	"tenure/internal/proc"
)

// The births of benchBirths: how many a second, and how long until each is known.
const (
	birthRate   = 1000
	birthTarget = 5 * time.Millisecond
)

// benchBirths is how long it takes from before a process is cloned until what it has become is
// known: its group, its command line, and whether that is one of a workload.
func benchBirths(b *testing.B, t *table, n int) {
	hierarchy, err := proc.OpenHierarchy("tenure-bench-" + strconv.Itoa(os.Getpid()) + "-births")
	if err != nil {
		b.Fatal(err)
	}
	group, err := hierarchy.Create("unit")
	if err != nil {
		b.Fatal(err)
	}
	dir, err := group.Open()
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		for _, err := range []error{dir.Close(), group.Remove(), hierarchy.Remove()} {
			if err != nil {
				b.Error(err)
			}
		}
	})
	l := listen(b, hierarchy)
	cloned := cloneMany(b, dir, n)
	l.end()
	var took series
	for pid, at := range cloned {
		if known, heard := l.known[pid]; heard {
			took.add(known.Sub(at))
		}
	}
	if len(took) < n*9/10 {
		b.Fatalf("%d of %d processes were known", len(took), n)
	}
	t.row("from before a clone to its workload known, 1,000 a second", took)
	t.holdTime("from before a clone to its workload known, median", took.median(), birthTarget)
}

// cloneMany starts processes at birthRate, waits for their ends, and returns when each was to be cloned.
func cloneMany(b *testing.B, dir *os.File, n int) map[int]time.Time {
	b.Helper()
	cloned := make(map[int]time.Time, n)
	var ends sync.WaitGroup
	begun := time.Now()
	for k := range n {
		time.Sleep(time.Until(begun.Add(time.Duration(k) * time.Second / birthRate)))
		at := time.Now()
		pid, err := syscall.ForkExec("/bin/sleep", []string{"sleep", "0.1"}, &syscall.ProcAttr{
			Files: []uintptr{0, 1, 2}, Sys: &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: int(dir.Fd())}, //nolint:gosec // A descriptor fits.
		})
		if err != nil {
			b.Fatal(err)
		}
		cloned[pid] = at
		ends.Go(func() {
			var status syscall.WaitStatus
			_, _ = syscall.Wait4(pid, &status, 0, nil) // It is ours, and nobody else waits.
		})
	}
	ends.Wait()
	return cloned
}

// listener does for each process that executes a program what the supervisor does before it
// wakes a unit.
type listener struct {
	stop  context.CancelFunc
	done  chan struct{}
	known map[int]time.Time
}

func listen(b *testing.B, hierarchy *proc.Hierarchy) *listener {
	b.Helper()
	ctx, cancel := context.WithCancel(b.Context())
	births, err := proc.Births(ctx, proc.Executed)
	if err != nil {
		b.Fatal(err)
	}
	l := &listener{stop: cancel, done: make(chan struct{}), known: map[int]time.Time{}}
	workload := regexp.MustCompile(`^sleep [0-9.]+$`)
	go func() {
		defer close(l.done)
		for birth := range births {
			group, err := hierarchy.GroupOf(birth.PID)
			if err != nil {
				continue
			}
			if _, ours := group.Rel(hierarchy); !ours {
				continue
			}
			info, err := proc.Read(birth.PID)
			if err == nil && workload.MatchString(info.CommandLine()) {
				l.known[birth.PID] = time.Now()
			}
		}
	}()
	return l
}

func (l *listener) end() {
	l.stop()
	<-l.done
}
