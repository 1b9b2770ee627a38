package hook_test

import (
	"strings"
	"testing"

	"tenure"
	"tenure/internal/change"
	"tenure/internal/hook"
)

// listener is a Host for a hook that says how far it is.
type listener struct {
	hook.Host
	heard []change.Progress
}

func (l *listener) Progress(_ hook.Caller, p change.Progress) error {
	l.heard = append(l.heard, p)
	return nil
}

func TestProgressHasAMessage(t *testing.T) {
	t.Parallel()
	caller := hook.Caller{Unit: tenure.UnitID{Snap: "virt", Kind: tenure.HookRun}}
	for line, want := range map[string]change.Progress{
		"3 20 moving web1": {Done: 3, Total: 20, Label: "moving web1"},
		"moving web1":      {Label: "moving web1"},
		"3 machines":       {Label: "3 machines"},
		"3":                {Label: "3"},
		"3 20":             {},
		"":                 {},
		"21 20 moving":     {},
	} {
		var l listener
		reply := hook.Execute(t.Context(), &l, caller, append([]string{"progress"}, strings.Fields(line)...))
		if want == (change.Progress{}) {
			if reply.Status != 1 || reply.Stderr == "" || len(l.heard) > 0 {
				t.Errorf("progress %s: %+v, heard %+v; want an error", line, reply, l.heard)
			}
			continue
		}
		if reply.Status != 0 || len(l.heard) != 1 || l.heard[0] != want {
			t.Errorf("progress %s: %+v, heard %+v; want %+v", line, reply, l.heard, want)
		}
	}
}
