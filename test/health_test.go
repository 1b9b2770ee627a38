package test

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"tenure/client"
	"tenure/test/rig"
)

// What a snap says of its health is shown of the revision that has said it. What a
// revision said that was not kept is not held against the one that runs.
func TestHealthIsShown(t *testing.T) {
	t.Parallel()
	i := rig.New(t, rig.Config{})
	i.Tenure("install", "--dangerous", snap(t, "debian12", "1"))
	file := hooked(t, i, nil)
	if plan := i.Tenure("plan", "install", file); !strings.HasPrefix(plan, "install hooked x1\n") {
		t.Errorf("the plan of an install:\n%s", plan)
	}
	const warning = "Warning: flag --classic ignored for strictly confined snap hooked"
	if result := i.Try("install", "--dangerous", "--classic", file); result.Status != 0 || !strings.Contains(result.Stderr, warning) {
		t.Errorf("--classic for a strict snap: %+v", result)
	}
	health := func() *client.Health {
		t.Helper()
		found, err := i.Client().Snap(t.Context(), "hooked")
		if err != nil {
			t.Fatal(err)
		}
		return found.Health
	}
	if got := health(); got != nil {
		t.Errorf("a snap that has said nothing: %+v", got)
	}
	begun := time.Now()
	for _, args := range [][]string{{"--code=no space", "error", "x"}, {"blocked"}, {"okay", "fine"}, {"unknown"}, nil} {
		if result := say(i, append([]string{"snapctl", "set-health"}, args...)...); result.Status != 1 || health() != nil {
			t.Errorf("set-health %v: %+v", args, result)
		}
	}
	if result := say(i, "snapctl", "set-health", "--code=no-disk", "blocked", "no disk is free"); result.Status != 0 {
		t.Fatalf("set-health: %+v", result)
	}
	want := &client.Health{Revision: "x1", Status: "blocked", Message: "no disk is free", Code: "no-disk"}
	got := health()
	if diff := cmp.Diff(want, got, cmpopts.IgnoreFields(client.Health{}, "Timestamp")); diff != "" || got.Timestamp.Before(begun) {
		t.Errorf("health at %s (-want +got):\n%s", got.Timestamp, diff)
	}
	if out := i.Tenure("list", "hooked"); !strings.Contains(out, "blocked") {
		t.Errorf("tenure list does not say it:\n%s", out)
	}
	if out := i.Tenure("info", "hooked"); !strings.Contains(out, "health:\n  status:   blocked\n  message:  no disk is free\n") {
		t.Errorf("tenure info does not say it:\n%s", out)
	}
	// The next revision says that it is not well, and is not kept.
	sick := hooked(t, i, map[string]string{"check-health": "snapctl set-health error 'it aches'"})
	if result := i.Try("refresh", "--dangerous", sick); result.Status == 0 {
		t.Errorf("a refresh to a snap that is not well: %+v", result)
	}
	if got := health(); got == nil || got.Status != "blocked" {
		t.Errorf("health after a refresh that was undone: %+v", got)
	}
	// Nor does an earlier installation speak for a later one.
	i.Tenure("refresh", "--dangerous", hooked(t, i, map[string]string{"check-health": "snapctl set-health okay"}))
	if got := health(); got == nil || got.Status != "okay" || strings.Contains(i.Tenure("list", "hooked"), "okay") {
		t.Errorf("health of a snap that is well: %+v", got)
	}
	i.Tenure("remove", "hooked")
	i.Tenure("install", "--dangerous", file)
	if got := health(); got != nil {
		t.Errorf("health of an earlier installation: %+v", got)
	}
}
