package hook_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"tenure/internal/hook"
)

func document(t *testing.T, text string) hook.Document {
	t.Helper()
	var d hook.Document
	if err := json.Unmarshal([]byte(text), &d); err != nil {
		t.Fatal(err)
	}
	return d
}

func TestOptionsAreSetAsSnapSetsThem(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ before, patch, after, err string }{
		{before: `{}`, patch: `{"a.b": 1, "c": "x"}`, after: `{"a":{"b":1},"c":"x"}`},
		{before: `{"a":{"b":1,"c":2}}`, patch: `{"a.b": null}`, after: `{"a":{"c":2}}`},
		{before: `{"a":{"b":1}}`, patch: `{"a": {"c": null, "d": {"e": 1.50}}}`, after: `{"a":{"d":{"e":1.50}}}`},
		{before: `{"a":1}`, patch: `{"a.b": 1}`, err: `snap "virt": option "a" is not a map`},
		{before: `{}`, patch: `{"a.b": null}`, after: `{}`},
		{before: `{}`, patch: `{"a": 1, "a.b": 2}`, err: `snap "virt": option "a" is not a map`},
		{before: `{}`, patch: `{"a": {"x": 1}, "a.b": 2}`, after: `{"a":{"b":2,"x":1}}`},
		{before: `{}`, patch: `{"A": 1}`, err: `snap "virt": invalid option name: "A"`},
		{before: `{}`, patch: `{"a..b": 1}`, err: `snap "virt": invalid option name: ""`},
		{before: `{}`, patch: `{"a--b": 1}`, err: `snap "virt": invalid option name: "a--b"`},
		{before: `{}`, patch: `{"-a": 1}`, err: `snap "virt": invalid option name: "-a"`},
		{before: `{}`, patch: `{"a-": 1}`, err: `snap "virt": invalid option name: "a-"`},
		{before: `{}`, patch: `{"1-a": 1, "a1-2": 2}`, after: `{"1-a":1,"a1-2":2}`},
		{before: `{}`, patch: `{"1": 1}`, err: `snap "virt": invalid option name: "1"`},
	} {
		var patch hook.Patch
		if err := json.Unmarshal([]byte(c.patch), &patch); err != nil {
			t.Fatal(err)
		}
		before := document(t, c.before)
		after, err := before.With("virt", patch)
		if err != nil || c.err != "" {
			if err == nil || err.Error() != c.err {
				t.Errorf("%s with %s: error %v, want %s", c.before, c.patch, err, c.err)
			}
			continue
		}
		text, err := json.Marshal(after)
		if err != nil || string(text) != c.after {
			t.Errorf("%s with %s is %s, %v; want %s", c.before, c.patch, text, err, c.after)
		}
		if diff := cmp.Diff(document(t, c.before), before); diff != "" {
			t.Errorf("%s with %s has changed what was before:\n%s", c.before, c.patch, diff)
		}
	}
}

func TestWhatIsSetLaterCoversWhatIsBelow(t *testing.T) {
	t.Parallel()
	earlier := hook.Patch{"a": 1, "b.c": 1, "b.c.d": 1, "b-x": 1, "bb.c": 1, "e.f.g": 1}
	got := earlier.Then(hook.Patch{"b": 2, "e.f.g": 2, "a.z": 2})
	want := hook.Patch{"a": 1, "a.z": 2, "b": 2, "b-x": 1, "bb.c": 1, "e.f.g": 2}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestAPatchIsBounded(t *testing.T) {
	t.Parallel()
	deep, far := hook.Patch{}, strings.Repeat("a.", 63)
	var value any = 1
	for range 9_990 {
		value = map[string]any{"a": value}
	}
	deep[far+"a"] = value
	many := hook.Patch{}
	for n := range 1025 {
		many[fmt.Sprint("a", n)] = 1
	}
	for name, patch := range map[string]hook.Patch{"many": many, "deep": deep, "long": {far + "a.a": 1}} {
		if _, err := (hook.Document{}).With("virt", patch); err == nil {
			t.Errorf("%s: it is taken", name)
		}
	}
	delete(many, "a0")
	if _, err := (hook.Document{}).With("virt", many); err != nil {
		t.Error(err)
	}
}

// What snapctl sends at most is refused before it takes anybody's time: it was minutes.
func TestManyKeysTakeNoTime(t *testing.T) {
	t.Parallel()
	earlier, later := hook.Patch{}, hook.Patch{}
	for n := range 100_000 {
		earlier[fmt.Sprint("a", n)], later[fmt.Sprint("b", n)] = 1, 1
	}
	begun := time.Now()
	if n := len(earlier.Then(later)); n != 200_000 {
		t.Errorf("%d keys", n)
	}
	if err := later.Check(); err == nil {
		t.Error("they are taken")
	}
	if took := time.Since(begun); took > 10*time.Second {
		t.Errorf("it took %s", took)
	}
}

func FuzzOptionNames(f *testing.F) {
	f.Add("a.b-c.1x")
	f.Fuzz(func(t *testing.T, key string) {
		names, err := hook.SplitKey(key)
		if err != nil && !errors.Is(err, hook.ErrKey) || err == nil && len(names) == 0 {
			t.Errorf("%q: %q, %v", key, names, err)
		}
		after, err := hook.Document{}.With("virt", hook.Patch{key: "x"})
		if err != nil {
			return
		}
		if value, found, err := after.Get(key); value != "x" || !found || err != nil {
			t.Errorf("%q is %v, %v, %v", key, value, found, err)
		}
	})
}
