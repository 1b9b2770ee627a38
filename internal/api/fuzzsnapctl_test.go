package api

import (
	"context"
	"slices"
	"strings"
	"testing"
	"time"

	"tenure"
	"tenure/internal/change"
	"tenure/internal/hook"
)

// FuzzSnapctl calls snapctl as a service, as one that is not root, and as a hook, on a manager
// with all that is behind it. What is answered is bounded, and nothing becomes of it that
// is not the caller's own.
func FuzzSnapctl(f *testing.F) {
	for _, call := range []string{
		"", "get a.b", "get -d a", "set a.b=1 c={}", "set -t a=[", "set a!", "unset a.b", "services", "services other.x", "start virt.virtd", "stop --disable virt",
		"restart --reload --no-wait virt.virtd", "start virt.vm@a -- -x", "start other.app", "stop system", "start virt.vm@../x", "set-health okay", "set-health --code=x-y blocked why",
		"workload list", "workload start vm@a -- bin/vm", "workload adopt vm@a --pid 1", "workload stop vm.3", "refresh --pending", "refresh --proceed", "refresh --hold",
		"is-ready 1", "tasks 1", "change", "fail no", "progress 1 2 text", "version", "get :plug", "set " + strings.Repeat("a.", 200) + "b=1", "nothing",
	} {
		for who := range 3 {
			f.Add(uint8(who), strings.ReplaceAll(call, " ", "\x00")) //nolint:gosec // It is small.
		}
	}
	a := newAttacked(f)
	f.Fuzz(func(t *testing.T, who uint8, call string) {
		a.install(t)
		caller := hook.Caller{Unit: tenure.ServiceUnit("virt", "virtd")}
		switch who % 3 {
		case 1:
			caller.UID = 1000
		case 2:
			caller.Unit = tenure.UnitID{Snap: "virt", Kind: tenure.HookRun, App: "configure", Serial: 1}
		}
		begun := len(a.manager.Engine().List(change.Filter{Select: change.All}))
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
		defer cancel()
		reply := hook.Execute(ctx, a.manager.Packages("1"), caller, strings.Split(call, "\x00"))
		if len(reply.Stderr) > 8<<10 || len(reply.Stdout) > 4<<20 || reply.Stderr != "" && reply.Status == 0 {
			t.Errorf("%d, %d bytes, %.300q", reply.Status, len(reply.Stdout), reply.Stderr)
		}
		all := a.manager.Engine().List(change.Filter{Select: change.All})
		for i := range all {
			if !slices.Equal(all[i].Snaps, []tenure.Instance{"virt"}) || caller.UID != 0 && len(all) > begun {
				t.Errorf("it began %q of %v", all[i].Summary, all[i].Snaps)
			}
		}
		if a.log.Len() > 0 {
			t.Errorf("the log says %s", a.log)
		}
	})
}
