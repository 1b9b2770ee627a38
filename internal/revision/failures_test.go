package revision_test

import (
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"tenure"
	"tenure/internal/revision"
)

func failed(change uint64, digest string, fault bool) revision.Failure {
	return revision.Failure{Digest: digest, Revision: tenure.SourceRevision(2), Change: change, At: time.Unix(0, 0).Add(time.Duration(change) * time.Minute), Why: "x", Fault: fault}
}

func TestARevisionAtFaultIsNeverTriedAgain(t *testing.T) {
	t.Parallel()
	f := revision.Failures{}.Note(failed(7, "a", true)).Note(failed(9, "a", false))
	known, found := f.Of("a")
	if !found || known.Tries != 2 || !known.Fault || !known.Again().IsZero() {
		t.Errorf("%+v", known)
	}
	if _, found := f.Of("b"); found {
		t.Error("another revision is not known to fail")
	}
	if _, found := f.Forget("a").Of("a"); found {
		t.Error("it is forgotten when it was gone to")
	}
}

func TestOtherFailuresBackOff(t *testing.T) {
	t.Parallel()
	var f revision.Failures
	var waits []time.Duration
	for n := range uint64(8) {
		f = f.Note(failed(n+1, "a", false))
		known, _ := f.Of("a")
		waits = append(waits, known.Again().Sub(known.At))
	}
	const h = time.Hour
	if want := []time.Duration{h, 2 * h, 4 * h, 8 * h, 16 * h, 24 * h, 24 * h, 24 * h}; !slices.Equal(waits, want) {
		t.Errorf("waits %v", waits)
	}
}

// What was refused before there was a change counts, too, and hides no later change.
func TestRefusalsBackOff(t *testing.T) {
	t.Parallel()
	refused := failed(0, "a", false)
	refused.Refused = true
	f := revision.Failures{}.Note(refused).Note(refused).Note(failed(3, "a", false)).Note(refused)
	if known, _ := f.Of("a"); known.Tries != 4 || known.Change != 3 || !known.Refused {
		t.Errorf("%+v", known)
	}
	if known, _ := f.Note(failed(4, "a", true)).Of("a"); known.Tries != 5 || known.Refused || !known.Fault {
		t.Errorf("%+v", known)
	}
}

// TestFailuresCanBeNotedAgain: who notes again, in their order, what has been noted,
// as a daemon does that starts, comes to the same.
func TestFailuresCanBeNotedAgain(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		type event struct {
			failure revision.Failure
			success bool
		}
		var events []event
		for change := range uint64(rapid.IntRange(0, 30).Draw(t, "changes")) { //nolint:gosec // It is positive.
			digest := strconv.Itoa(rapid.IntRange(0, 4).Draw(t, "digest"))
			events = append(events, event{failed(change+1, digest, rapid.Bool().Draw(t, "fault")), rapid.Bool().Draw(t, "success")})
		}
		run := func(f revision.Failures, events []event) revision.Failures {
			for _, e := range events {
				if e.success {
					f = f.Forget(e.failure.Digest)
				} else {
					f = f.Note(e.failure)
				}
			}
			return f
		}
		once := run(nil, events)
		sorted := func(f revision.Failures) revision.Failures {
			return slices.SortedFunc(slices.Values(f), func(a, b revision.Failure) int { return int(a.Change) - int(b.Change) }) //nolint:gosec // Small.
		}
		same := cmp.Comparer(func(a, b tenure.Revision) bool { return a == b })
		if diff := cmp.Diff(sorted(once), sorted(run(once, events)), same); diff != "" {
			t.Errorf("once and again (-once +again):\n%s", diff)
		}
		for _, f := range once {
			last := 0
			for i, e := range events {
				if e.failure.Digest == f.Digest {
					last = i
				}
			}
			if events[last].success || events[last].failure.Change != f.Change {
				t.Errorf("%+v is remembered, and the last was %+v", f, events[last])
			}
		}
		if len(once) > 20 {
			t.Errorf("%d are remembered", len(once))
		}
	})
}
