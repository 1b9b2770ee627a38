package cli

import (
	"strings"
	"testing"
)

func TestTame(t *testing.T) {
	t.Parallel()
	for said, shown := range map[string]string{
		"ein Täßchen → 3\t4\n":      "ein Täßchen → 3\t4\n",
		"\x1b[1;32mgreen\x1b[0m":    "\x1b[1;32mgreen\x1b[0m",
		"\x1b]0;another title\x07x": "?]0;another title?x",
		"\x1b[2J\x1b[Hgone":         "?[2J?[Hgone",
		"over\rwritten":             "over?written",
		"\u009b2J":                  "?2J",
		"right\u202eto left":        "right?to left",
		"\xff\xfe":                  "??",
		"\x1b[31":                   "?[31",
		"\x1b":                      "?",
	} {
		var out strings.Builder
		if n, err := (tame{&out}).Write([]byte(said)); n != len(said) || err != nil {
			t.Errorf("write %q: %d, %v", said, n, err)
		}
		if out.String() != shown {
			t.Errorf("%q is shown as %q, want %q", said, out.String(), shown)
		}
	}
}
