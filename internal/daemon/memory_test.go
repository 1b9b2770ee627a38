package daemon

import (
	"runtime/metrics"
	"testing"
	"testing/synctest"
	"time"
)

// collectsAt is by how many percent the heap grows before it is collected.
func collectsAt() uint64 {
	sample := []metrics.Sample{{Name: "/gc/gogc:percent"}}
	metrics.Read(sample)
	return sample[0].Value.Uint64()
}

func TestSparing(t *testing.T) {
	t.Parallel()
	before := collectsAt()
	synctest.Test(t, func(t *testing.T) {
		s := new(sparing)
		for _, step := range []struct {
			what string
			do   func()
			want uint64
		}{
			{"a gap", func() { s.gap(true) }, sparedAt},
			{"its end", func() { s.gap(false) }, before},
			{"the next gap", func() { s.gap(true) }, sparedAt},
			{"that is long", func() { <-time.After(sparedFor); synctest.Wait() }, before},
			{"its end", func() { s.gap(false) }, before},
			{"the start", func() { s.start(true) }, startedAt},
			{"a gap in it", func() { s.gap(true) }, startedAt},
			{"its end", func() { s.start(false) }, sparedAt},
			{"that of the gap", func() { s.gap(false) }, before},
			{"a little that is in use", func() { s.fitTo(1 << 20) }, 300},
			{"a gap then", func() { s.gap(true) }, 300},
			{"its end", func() { s.gap(false) }, 300},
			{"all room in use", func() { s.fitTo(room) }, before},
		} {
			step.do()
			if got := collectsAt(); got != step.want {
				t.Errorf("%s: the heap is collected at %d %%, want %d", step.what, got, step.want)
			}
		}
	})
}

func TestGrowth(t *testing.T) {
	t.Parallel()
	for live, want := range map[uint64]int{0: 0, 1 << 20: 300, 5 << 20: 300, 8 << 20: 200, 10 << 20: 100, 16 << 20: 50, 17 << 20: 0, room: 0, 2 * room: 0} {
		if got := growth(live); got != want {
			t.Errorf("a heap of %d bytes grows by %d %%, want %d", live, got, want)
		}
	}
}
