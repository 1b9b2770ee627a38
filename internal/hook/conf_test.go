package hook_test

import (
	"encoding/json"
	"errors"
	"testing"

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
