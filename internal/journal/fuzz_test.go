package journal

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"

	"tenure"
)

// FuzzHistory finds a file of the history as the power, or somebody with a pen, has left it: it is read, what is
// no event is passed over, and what is appended after it is there, whole.
func FuzzHistory(f *testing.F) {
	f.Add([]byte(`{"time":"2024-02-29T01:02:03Z","kind":"ended","snap":"virt","unit":"virt.virtd","data":{"pid":7}}` + "\n"))
	f.Add([]byte(`{"time":"2024-02-29T01:02:03Z","kind":"sig`))
	f.Add([]byte("\n\x00\x00\n{}\n[]\nnull\n\"\"\n{\"time\":\"no\"}\n"))
	f.Add([]byte(`{"kind":"a","snap":"../b","unit":"a/../b~1","data":{"a":{"a":{}}}}` + "\r\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, "00000001"+segmentSuffix), text, 0o600); err != nil {
			t.Fatal(err)
		}
		// Somebody's copy of it is not read.
		if err := os.WriteFile(filepath.Join(dir, "1"+segmentSuffix), text, 0o600); err != nil {
			t.Fatal(err)
		}
		h, err := OpenHistory(HistoryConfig{Dir: dir})
		if err != nil {
			t.Fatal(err)
		}
		defer h.Close() //nolint:errcheck // What it says is not what is asked here.
		before, err := h.Read(nil)
		if err != nil {
			t.Fatalf("what is no event is not passed over: %v", err)
		}
		if err := h.Append(Event{Kind: "appended", Unit: tenure.ServiceUnit("virt", "virtd")}); err != nil {
			t.Fatal(err)
		}
		after, err := h.Read(nil)
		if err != nil {
			t.Fatal(err)
		}
		// A last line that lacks nothing but its end has one now.
		more := len(after) - len(before)
		if more != 1 && (more != 2 || bytes.HasSuffix(text, []byte{'\n'})) || after[len(after)-1].Kind != "appended" {
			t.Errorf("after %d events there are %d: the last one is not what was appended", len(before), len(after))
		}
		if lines := bytes.Count(text, []byte{'\n'}); len(before) > lines {
			t.Errorf("%d lines have %d events", lines, len(before))
		}
	})
}
