package daemon

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"tenure/client"
)

// What is taken is told: goroutines and descriptors that wait for somebody. It is not beside other tests, which end meanwhile.
func TestNeeds(t *testing.T) { //nolint:paralleltest // See above.
	const many = 2000
	dir := t.TempDir()
	before := told(t)
	stay := make(chan struct{})
	defer close(stay)
	for n := range many {
		go func() { <-stay }()
		if n%10 != 0 {
			continue
		}
		f, err := os.Create(filepath.Join(dir, fmt.Sprint(n)))
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close() //nolint:errcheck // Nothing was written.
	}
	after := told(t)
	// The runtime has its own, which come and go.
	const most = many * 9 / 10
	if more := int64(after.Goroutines) - int64(before.Goroutines); more < most {
		t.Errorf("%d goroutines more, of %d", more, many)
	}
	if more := after.Descriptors - before.Descriptors; more < most/10 {
		t.Errorf("%d descriptors more, of %d", more, many/10)
	}
	if after.Threads < 1 || after.Heap > 1<<40 {
		t.Errorf("%+v", after)
	}
}

func told(t *testing.T) client.Needs {
	t.Helper()
	n, err := needs()
	if err != nil {
		t.Fatal(err)
	}
	return n
}
