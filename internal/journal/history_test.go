package journal

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"tenure"
)

func openHistory(t *testing.T, cfg HistoryConfig) *History {
	t.Helper()
	h, err := OpenHistory(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = h.Close() })
	return h
}

func record(t *testing.T, h *History, kinds ...string) {
	t.Helper()
	for _, kind := range kinds {
		if err := h.Append(Event{Kind: kind, Unit: tenure.ServiceUnit("virt", "virtd")}); err != nil {
			t.Fatal(err)
		}
	}
}

// kinds are those of the events that are kept, in order.
func kinds(t *testing.T, h *History) string {
	t.Helper()
	events, err := h.Read(nil)
	if err != nil {
		t.Fatal(err)
	}
	var all []string
	for _, e := range events {
		all = append(all, e.Kind)
	}
	return strings.Join(all, " ")
}

func TestHistory(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "history")
	h := openHistory(t, HistoryConfig{Dir: dir})
	at := time.Date(2024, 2, 29, 1, 2, 3, 4, time.UTC)
	virtd := tenure.ServiceUnit("virt", "virtd")
	if err := h.Append(Event{Kind: "a", Snap: "hello"}, Event{Kind: "b", Unit: virtd, Time: at, Data: json.RawMessage(`{"pid":7}`)}); err != nil {
		t.Fatal(err)
	}
	// Whoever reads it after the death of the daemon sees all: nothing is closed here.
	again := openHistory(t, HistoryConfig{Dir: dir})
	record(t, again, "c")
	if got := kinds(t, again); got != "a b c" {
		t.Errorf("kept are %q", got)
	}
	events, err := again.Read(func(e Event) bool { return e.Kind == "b" })
	if err != nil || len(events) != 1 || !events[0].Time.Equal(at) || string(events[0].Data) != `{"pid":7}` || events[0].Snap != "virt" || events[0].Unit != virtd {
		t.Errorf("events %+v, %v", events, err)
	}
	if info, err := os.Stat(filepath.Join(dir, "00000001.jsonl")); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
}

func TestHistoryIsBounded(t *testing.T) {
	t.Parallel()
	cfg := HistoryConfig{Dir: t.TempDir(), SegmentSize: 300, Segments: 3}
	h := openHistory(t, cfg)
	for n := range 100 {
		record(t, h, fmt.Sprint("event-", n))
	}
	all := strings.Fields(kinds(t, h))
	if len(all) < 3 || len(all) > 12 || all[len(all)-1] != "event-99" {
		t.Errorf("kept are %q", all)
	}
	entries, err := os.ReadDir(cfg.Dir)
	if err != nil || len(entries) != cfg.Segments {
		t.Errorf("%d segments, %v", len(entries), err)
	}
	for _, entry := range entries {
		if info, err := entry.Info(); err != nil || info.Size() > cfg.SegmentSize {
			t.Errorf("segment of %d bytes, %v", info.Size(), err)
		}
	}
}

// What is too long to be read is refused, and not written in vain.
func TestHistoryRefusesWhatItWouldNotRead(t *testing.T) {
	t.Parallel()
	h := openHistory(t, HistoryConfig{Dir: t.TempDir(), SegmentSize: 10 * maxEvent})
	whole, err := json.Marshal(Event{Time: time.Unix(0, 0).UTC(), Kind: "fits", Data: json.RawMessage(`""`)})
	if err != nil {
		t.Fatal(err)
	}
	for room, want := range map[int]error{maxEvent - 1 - len(whole): nil, maxEvent - len(whole): errLarge} {
		text := json.RawMessage(strconv.Quote(strings.Repeat("x", room)))
		if err := h.Append(Event{Time: time.Unix(0, 0).UTC(), Kind: "fits", Data: text}); !errors.Is(err, want) {
			t.Errorf("%d bytes of data: %v, want %v", len(text), err, want)
		}
	}
	if got := kinds(t, h); got != "fits" {
		t.Errorf("kept are %q", got)
	}
}

// What the power cuts off in the middle of a line is one event, and not the next too.
func TestHistoryTornLine(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	h := openHistory(t, HistoryConfig{Dir: dir})
	record(t, h, "a", "b")
	path := filepath.Join(dir, "00000001.jsonl")
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for cut := range len(content) {
		if err := os.WriteFile(path, content[:len(content)-cut], 0o600); err != nil {
			t.Fatal(err)
		}
		h := openHistory(t, HistoryConfig{Dir: dir})
		whole := strings.Repeat("x", strings.Count(string(content[:len(content)-cut]), "\n"))
		if got := kinds(t, h); len(strings.Fields(got)) != len(whole) {
			t.Errorf("with %d bytes fewer there is %q", cut, got)
		}
		record(t, h, "c")
		if got := kinds(t, h); !strings.HasSuffix(got, "c") {
			t.Errorf("with %d bytes fewer, and one event more, there is %q", cut, got)
		}
	}
}

func TestHistoryIsForMany(t *testing.T) {
	t.Parallel()
	h := openHistory(t, HistoryConfig{Dir: t.TempDir(), SegmentSize: 4 << 10, Segments: 1000})
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 100 {
				if err := h.Append(Event{Kind: "x"}); err != nil {
					t.Error(err)
				}
				if _, err := h.Read(nil); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	if got := len(strings.Fields(kinds(t, h))); got != 800 {
		t.Errorf("%d events", got)
	}
}
