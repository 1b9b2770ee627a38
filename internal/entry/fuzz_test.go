package entry

import (
	"bytes"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// wire is a channel in memory, without descriptors.
type wire struct{ bytes.Buffer }

func (w *wire) ReadWith(b, _ []byte) (n, oobn int, err error) {
	n, err = w.Read(b)
	return n, 0, err
}

func (w *wire) WriteWith(b, _ []byte) error {
	_, err := w.Write(b)
	return err
}

// FuzzMessages reads whatever comes, on both sides; what is understood is what would be sent.
func FuzzMessages(f *testing.F) {
	for _, m := range []Message{
		{},
		{Kind: Home, Words: []string{"/home/x", "virt", "x1"}},
		{Kind: Fail, Words: []string{"no"}},
		Question{Mode: App, Name: "virt.tool", Args: []string{"-x", ""}}.Message(), Question{Mode: Hook, Name: "virt", Hook: "configure"}.Message(),
		Program{KeepCapabilities: []string{"CAP_CHOWN"}, NoNewPrivs: true, Argv: []string{"/bin/true"}, Env: []string{"A=b"}}.Message(nil),
	} {
		var w wire
		if err := Send(&w, m); err != nil {
			f.Fatal(err)
		}
		f.Add(w.Bytes())
	}
	f.Add([]byte("\xff\xff\xff\xff"))
	f.Add([]byte("\x00\x00\x00\x20become\x00\x00\x00\x009223372036854775807"))
	f.Fuzz(func(t *testing.T, data []byte) {
		var w wire
		w.Write(data)
		m, err := Receive(&w)
		if err != nil {
			return
		}
		var again Message
		if q, err := ParseQuestion(m); err == nil {
			again = q.Message()
		} else if p, err := ParseProgram(m); err == nil {
			again = p.Message(nil)
			if len(p.Argv) == 0 {
				t.Error("a program without a name")
			}
			// Whatever else is there for what is no word is not repeated, and how a number is written.
			again.Words[0], again.Words[1], again.Words[3] = m.Words[0], m.Words[1], m.Words[3]
		} else {
			return
		}
		var sent wire
		if err := Send(&sent, again); err != nil {
			t.Fatal(err)
		}
		got, err := Receive(&sent)
		if diff := cmp.Diff(m, got); diff != "" || err != nil {
			t.Errorf("%v\n%s", err, diff)
		}
	})
}

// What the daemon says may be in the words of a package.
func TestWhatTheHelperSaysIsPlain(t *testing.T) {
	t.Parallel()
	got := plain([]string{"waits\x1b]0;x\x07 for", "é\u202e\xff", strings.Repeat("\x9b", 2), "a\nb\tc"})
	if want := "waits?]0;x? for é?? ?? a\nb\tc"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
}
