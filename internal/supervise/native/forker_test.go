package native

import (
	"context"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"tenure"
	"tenure/internal/supervise"
	"tenure/internal/supervise/supervisetest"
)

// forker is a manager that starts machines as fast as it can, until it is told
// to end, and says so for each on standard output.
func forker(exe string) int {
	argv := supervisetest.Program{Name: "machine", Daemonize: true}.Command(exe).Argv
	var wg sync.WaitGroup
	for range 3 {
		wg.Go(func() {
			for range 40 {
				cmd := exec.Command(argv[0], argv[1:]...)
				cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
				if cmd.Start() == nil {
					_ = cmd.Wait()
				}
			}
		})
	}
	wg.Wait()
	<-context.Background().Done()
	return 0
}

// A manager is stopped, many times, while it forks and executes machines: no
// machine that had become one is signalled, and nothing is left but machines,
// whether they become units while it runs or when it stops.
func TestForkerIsStopped(t *testing.T) {
	t.Parallel()
	for _, settle := range []time.Duration{time.Hour, time.Millisecond} {
		r := newRoot(t)
		r.settle = settle
		s := r.supervisor(t)
		for _, target := range []supervise.Target{supervise.TargetGroup, supervise.TargetMain} {
			for round := range 4 {
				stopForker(t, s, target, time.Duration(10+25*round)*time.Millisecond)
			}
		}
	}
}

func stopForker(t *testing.T, s *Supervisor, target supervise.Target, after time.Duration) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	spec := service(t, "forker", supervisetest.Program{}, func(spec *supervise.Spec) {
		spec.Command.Argv = []string{supervisetest.Executable(t), "forker"}
		spec.Stop.Target = target
		spec.Workloads = []supervise.Workload{{Name: "vm", Match: "name=machine .*\"name\":\"machine\"}$", Stop: supervise.StopProtocol{
			Target: supervise.TargetGroup, Timeout: 20 * time.Second, Kill: supervise.KillAfterTimeout,
		}}}
	})
	signalled := make(chan []tenure.Process, 1)
	events := s.Events(ctx)
	if err := s.Start(t.Context(), spec); err != nil {
		t.Fatal(err)
	}
	go func() {
		var all []tenure.Process
		for e := range events {
			if e.Unit == spec.Unit && e.Kind == supervise.EventSignal {
				all = append(all, e.Processes...)
			}
		}
		signalled <- all
	}()
	<-time.After(after)
	ended, err := s.Stop(t.Context(), supervise.StopRequest{Units: []tenure.UnitID{spec.Unit}, Reason: tenure.ReasonRefresh})
	if err != nil {
		t.Fatal(err)
	}
	cancel()
	told := <-signalled
	for _, id := range ended.Left {
		infos, err := s.Processes(t.Context(), id)
		if err != nil {
			continue // A leftover that was between its fork and its end.
		}
		for _, info := range infos {
			machine := strings.Contains(info.CommandLine(), "name=machine")
			if slices.Contains(told, info.Process) && machine && target == supervise.TargetMain {
				t.Errorf("a machine was signalled: %+v", info)
			}
			if !machine && id.Name == "vm" {
				t.Errorf("%s has %s", id, info.CommandLine())
			}
		}
	}
	if infos, err := s.Processes(t.Context(), spec.Unit); err != nil || len(infos) > 0 {
		t.Errorf("left in the unit: %+v, %v", infos, err)
	}
	if _, err := s.Stop(t.Context(), supervise.StopRequest{Units: ended.Left, Reason: tenure.ReasonRemove}); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(statusOf(t, s, spec.Unit).Group); err == nil && statusOf(t, s, spec.Unit).Group != "" {
		t.Error("the unit still has a group")
	}
}
