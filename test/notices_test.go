package test

import (
	"context"
	"net/http"
	"net/url"
	"strings"
	"syscall"
	"testing"
	"time"

	"tenure/client"
	"tenure/test/rig"
)

// hearer asks for notices, each time for those after the last one that it knows.
type hearer struct {
	*client.Client

	after time.Time
}

// until waits for a notice of one type about a key.
func (f *hearer) until(t *testing.T, kind, key string) client.Notice {
	t.Helper()
	found, err := f.Notices(t.Context(), client.NoticeFilter{Types: []string{kind}, Keys: []string{key}, After: f.after, Timeout: rig.Patience})
	if err != nil || len(found) == 0 {
		t.Fatalf("there is no %s about %q: %v", kind, key, err)
	}
	last := found[len(found)-1]
	f.after = last.LastRepeated
	return last
}

// Whoever waits hears of each status of a change, of refreshes that wait for apps, and of
// warnings, and not before something has happened.
func TestNotices(t *testing.T) {
	t.Parallel()
	i := rig.New(t, rig.Config{})
	s, trace := newShelf(t, i), listen(t, i)
	file := func(version string) string {
		return probeSnap(t, i, probeYAML(version, "\nedit:\n\tcommand: PROBE trap report:up run\n"))
	}
	s.release(file("7"), "probe_7", long(time.Hour))
	open, closed := windows(time.Now())
	i.Tenure("set", "system", "refresh.timer="+closed)
	told := make(chan client.Notice, 1)
	go func() {
		found, err := i.Client().Notices(t.Context(), client.NoticeFilter{Types: []string{"change-update"}, Keys: []string{"2"}, Timeout: rig.Patience})
		if err != nil || len(found) != 1 {
			t.Errorf("notices of the change to come: %v, %v", found, err)
			found = make([]client.Notice, 1)
		}
		told <- found[0]
	}()
	i.Tenure("install", "probe")
	if n := <-told; n.Key != "2" || n.LastData["kind"] != "install-snap" || n.UserID != nil {
		t.Errorf("the installation is told of as %+v", n)
	}
	f := hearer{Client: i.Client()}
	for done := false; !done; {
		n := f.until(t, "change-update", "2")
		now, err := f.Change(t.Context(), n.Key)
		if err != nil {
			t.Fatal(err)
		}
		done = now.Status == "Done"
	}

	go i.Try("run", "probe.edit")
	trace.expect("edit", "up")
	s.release(file("8"), "probe_8", long(time.Minute))
	i.Tenure("set", "system", "refresh.timer="+open)
	inhibit := f.until(t, "refresh-inhibit", "-")
	a := apiOf(t, i, 0)
	held := a.get("/v2/snaps?select=refresh-inhibited")
	wantFields(t, held.object(t), map[string]any{"name": "probe", "revision": "7"})
	for _, unit := range i.Units() {
		if err := syscall.Kill(unit.Processes[0].PID, syscall.SIGTERM); err != nil {
			t.Fatal(err)
		}
	}
	if n := f.until(t, "refresh-inhibit", "-"); n.ID != inhibit.ID || n.Occurrences != inhibit.Occurrences+1 {
		t.Errorf("the refresh goes on: %+v, after %+v", n, inhibit)
	}
	if held := a.get("/v2/snaps?select=refresh-inhibited"); string(held.Result) != "[]" {
		t.Errorf("snaps that wait for apps: %s", held.Result)
	}

	setRules(t, i, "rules: 7\n")
	found, err := f.Notices(t.Context(), client.NoticeFilter{Types: []string{"warning"}, Timeout: rig.Patience})
	if err != nil || len(found) != 1 || !strings.Contains(found[0].Key, "policy.yaml") {
		t.Fatalf("warnings: %v, %v", found, err)
	}

	// Others hear of what is for everybody, and of their own.
	person := apiOf(t, i, someUID)
	if e := person.get("/v2/notices?types=warning"); string(e.Result) != "[]" {
		t.Errorf("a user sees warnings: %s", e.Result)
	}
	person.get("/v2/notices/" + found[0].ID).failure(t)
	wantFields(t, person.get("/v2/notices/"+inhibit.ID).object(t), map[string]any{"type": "refresh-inhibit"})
	person.get("/v2/notices?users=all").failure(t)
	const inhibited = `{"action": "add", "type": "snap-run-inhibit", "key": "probe"}`
	own := person.do(http.MethodPost, "/v2/notices", "application/json", strings.NewReader(inhibited)).object(t)
	wantFields(t, person.get("/v2/notices?types=snap-run-inhibit").object(t), map[string]any{"id": own["id"], "key": "probe", "user-id": float64(someUID)})
	if e := a.get("/v2/notices?types=snap-run-inhibit"); string(e.Result) != "[]" {
		t.Errorf("root sees a user's notices without asking: %s", e.Result)
	}
	wantFields(t, a.get("/v2/notices?types=snap-run-inhibit&users=all").object(t), map[string]any{"id": own["id"]})

	// Nothing more happens: nothing is told, and who goes away is not waited for.
	later := time.Now().Add(time.Hour)
	if e := a.get("/v2/notices?timeout=10ms&after=" + url.QueryEscape(later.Format(time.RFC3339Nano))); string(e.Result) != "[]" {
		t.Errorf("what has not happened: %s", e.Result)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := f.Notices(ctx, client.NoticeFilter{After: later, Timeout: time.Hour}); err == nil {
		t.Error("it was told of what has not happened")
	}
	i.Stop()
}
