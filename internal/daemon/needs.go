package daemon

import (
	"fmt"
	"os"
	"runtime/metrics"

	"tenure/client"
)

// needs is what this process needs of the machine now. It stops nobody to find that out.
func needs() (client.Needs, error) {
	const (
		goroutines = "/sched/goroutines:goroutines"
		live       = "/gc/heap/live:bytes"
	)
	found := []metrics.Sample{{Name: goroutines}, {Name: live}}
	metrics.Read(found)
	descriptors, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return client.Needs{}, fmt.Errorf("count descriptors: %w", err)
	}
	threads, err := os.ReadDir("/proc/self/task")
	if err != nil {
		return client.Needs{}, fmt.Errorf("count threads: %w", err)
	}
	return client.Needs{
		Goroutines: found[0].Value.Uint64(), Heap: found[1].Value.Uint64(),
		// One of them is that of the directory itself.
		Descriptors: len(descriptors) - 1, Threads: len(threads),
	}, nil
}
