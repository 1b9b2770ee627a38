package refresh

import (
	"bytes"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// warned is what there is to warn of, of which nobody has said that it is known.
func (h *house) warned(t *testing.T) []Warning {
	t.Helper()
	all, err := h.Warnings(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var pending []Warning
	for _, w := range all {
		if w.Pending(h.cfg.Now()) {
			pending = append(pending, w)
		}
	}
	return pending
}

// A unit past its date is warned of from then on, until somebody says that it is known,
// again after four weeks, and no longer than it is so.
func TestUnitsPastTheirDateAreWarnedOf(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var said bytes.Buffer
		begun := time.Now()
		h := stale(t, &said)
		h.rule(t, "- {name: week, when: unit.kind == 'service', do: {endure: 1w}}")
		pass(7*24*time.Hour - time.Second)
		if got := h.warned(t); len(got) > 0 {
			t.Fatalf("before the date: %+v", got)
		}
		pass(time.Hour)
		got := h.warned(t)
		if len(got) != 1 || !got[0].Added.Equal(begun.Add(7*24*time.Hour)) ||
			!strings.HasPrefix(got[0].Message, "db.db runs on revision x1, which is not the current one, for longer than it may (rule week gives it 7d)") {
			t.Fatalf("after the date: %+v", got)
		}
		if count, last := h.News(t.Context()); count != 1 || !last.Equal(got[0].Added) {
			t.Errorf("the news are %d, the last at %s", count, last)
		}
		if count, err := h.Okay(t.Context(), got[0].Added.Add(-time.Second)); count != 0 || err != nil {
			t.Errorf("of what was there before the date, %d are known: %v", count, err)
		}
		if count, err := h.Okay(t.Context(), time.Now()); count != 1 || err != nil {
			t.Errorf("%d are known: %v", count, err)
		}
		if count, _ := h.News(t.Context()); count != 0 || len(h.warned(t)) > 0 {
			t.Error("what is known is news")
		}
		pass(RepeatWarning + time.Second)
		if len(h.warned(t)) != 1 {
			t.Error("it does not come again")
		}
		h.rule(t, "- {name: year, when: unit.kind == 'service', do: {endure: 52w}}")
		if all, err := h.Warnings(t.Context()); len(all) > 0 || err != nil {
			t.Errorf("it is over, and there are %+v, %v", all, err)
		}
		if _, err := h.Okay(t.Context(), time.Now()); err != nil {
			t.Error(err)
		}
		if kept, err := h.warnings.docs.Keys(); len(kept) > 0 || err != nil {
			t.Errorf("it is over, and %q is remembered: %v", kept, err)
		}
	})
}
