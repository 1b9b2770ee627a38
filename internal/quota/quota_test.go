package quota

import "testing"

func TestQuota(t *testing.T) {
	t.Parallel()
	q := New[string](2, 3)
	for n, step := range []struct {
		who  string
		take bool
		want bool
	}{
		{"ann", true, true},
		{"ann", true, true},
		{"ann", true, false}, // Too many of one.
		{"bob", true, true},
		{"eve", true, false}, // Too many of all.
		{"ann", false, true},
		{"eve", true, true},
		{"ann", true, false},
	} {
		if !step.take {
			q.Give(step.who)
			continue
		}
		if got := q.Take(step.who); got != step.want {
			t.Errorf("step %d: %s gets one: %v, want %v", n, step.who, got, step.want)
		}
	}
	for _, who := range []string{"ann", "bob", "eve"} {
		q.Give(who)
	}
	if len(q.of) > 0 || q.taken != 0 {
		t.Errorf("%v is kept, and %d of all", q.of, q.taken)
	}
}
