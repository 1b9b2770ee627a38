package native

import (
	"context"
	"testing"

	"tenure"
	"tenure/internal/supervise"
	"tenure/internal/supervise/supervisetest"
)

// A reload command says which process is the main one, and ends: that it has when it is
// heard makes no difference.
func TestReloadCommandIsHeardAfterItsEnd(t *testing.T) {
	t.Parallel()
	s := newRoot(t).supervisor(t)
	next := supervisetest.Program{Name: "next"}
	spec := service(t, "replaced", supervisetest.Program{Notify: true, Children: []supervisetest.Program{next}})
	if err := s.Start(t.Context(), spec); err != nil {
		t.Fatal(err)
	}
	infos, err := s.Processes(t.Context(), spec.Unit)
	if err != nil || len(infos) != 2 {
		t.Fatalf("processes %+v, %v", infos, err)
	}
	// Nobody has this pid (proc_sys_kernel(5): pid_max is 4,194,304 at most).
	gone := tenure.Process{PID: 1 << 23, Start: 1}
	u, _ := s.find(spec.Unit)
	heard := make(chan struct{})
	err = u.tell(t.Context(), func(ctx context.Context) {
		defer close(heard)
		u.rec.Aux, u.rec.AuxKind, u.rec.AuxMain = u.rec.Group+".aux", auxReload, gone
		u.notified(ctx, datagram{notification: notification{MainPID: infos[1].PID}, pid: gone.PID})
		u.rec.Aux, u.rec.AuxKind, u.rec.AuxMain = "", "", tenure.Process{}
		u.save()
	})
	if err != nil {
		t.Fatal(err)
	}
	<-heard
	until(t, s, spec.Unit, func(s supervise.Status) bool { return s.Main == infos[1].Process })
}
