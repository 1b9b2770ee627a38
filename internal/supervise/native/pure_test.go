package native

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"tenure"
	"tenure/internal/proc"
	"tenure/internal/supervise"
)

func TestGroupNamesAreReversible(t *testing.T) {
	t.Parallel()
	for _, name := range []string{
		"virt.virtd", "virt_dev.vm@web-1", "virt.virtd/vm.4711", "virt.virtd/leftover.9", "virt.virtd/vm@web1", "virt.virtd/vm", "virt.vm@web1/job@a-b", "virt.vm@web1/successor.2",
		"virt.qemu-img~4711", "virt.hook.configure~9",
	} {
		unit, err := tenure.ParseUnit(name)
		if err != nil {
			t.Fatal(err)
		}
		group := groupName(unit, 12)
		if strings.Count(group, "/") != 1 {
			t.Errorf("group %q of %s is not directly below its snap's", group, name)
		}
		for _, inside := range []string{"", auxMark + "stop1", "/payload/deep"} {
			got, generation, ok := UnitOfGroup(group + inside)
			if !ok || got != unit || generation != 12 {
				t.Errorf("group %q is of %s, generation %d, want %s", group+inside, got, generation, name)
			}
		}
		if back, err := decodeUnit(encodeUnit(unit)); err != nil || back != unit {
			t.Errorf("file %q is of %s, %v", encodeUnit(unit), back, err)
		}
	}
	for _, rel := range []string{"", "virt", "virt/virtd", "virt/virtd.0", "virt/virtd.x", "Virt/virtd.1", "virt/../etc.1"} {
		if unit, _, ok := UnitOfGroup(rel); ok {
			t.Errorf("group %q is of %s, want none", rel, unit)
		}
	}
}

// tree is processes as "pid ppid [group:]command line".
func tree(t *testing.T, lines ...string) []proc.Info {
	t.Helper()
	var infos []proc.Info
	for i, line := range lines {
		fields := strings.Fields(line)
		info := proc.Info{Process: tenure.Process{PID: atoi(t, fields[0]), Start: uint64(i)}, PPID: atoi(t, fields[1]), Args: fields[2:]}
		if group, command, ok := strings.Cut(fields[2], ":"); ok {
			info.Group, info.Foreign, info.Args = group, true, append([]string{command}, fields[3:]...)
		}
		infos = append(infos, info)
	}
	return infos
}

func atoi(t *testing.T, s string) int {
	t.Helper()
	n, err := strconv.Atoi(s)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func TestClassify(t *testing.T) {
	t.Parallel()
	workloads := []supervise.Workload{{Name: "vm", Match: "^qemu "}, {Name: "any", Match: "^(qemu|monitor)"}}
	matchers, err := compileWorkloads(workloads)
	if err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		name  string
		tree  []string
		want  []string
		rest  []int
		spare []int
	}{
		{
			"children and orphans that match, with what came out of them",
			[]string{"10 1 virtd", "11 10 qemu a", "12 1 qemu b", "13 11 helper", "14 13 qemu inner", "15 10 dnsmasq"},
			[]string{"vm 11: 11 13 14", "vm 12: 12"},
			[]int{10, 15},
			nil,
		},
		{
			"the main process is no workload, nor are its other children",
			[]string{"10 1 qemu main", "11 10 qemu child", "12 10 sh"},
			[]string{"vm 11: 11"},
			[]int{10, 12},
			nil,
		},
		{
			"the first pattern wins",
			[]string{"10 1 virtd", "11 10 monitor x", "12 10 qemu"},
			[]string{"any 11: 11", "any 12: 12"},
			[]int{10},
			nil,
		},
		{
			"groups of the service go with the workload that is in them",
			[]string{"10 1 lxd", "11 10 monitor c1", "12 11 c1/init:init", "13 12 c1/init:sh", "14 1 c2:other"},
			[]string{"any 11: 11 [c1]"},
			[]int{10, 14},
			nil,
		},
		{
			"a workload beside the main process in a group of the service is spared",
			[]string{"10 1 own:virtd", "11 10 own:qemu a", "12 11 own:helper"},
			nil,
			[]int{10},
			[]int{11, 12},
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			infos := tree(t, test.tree...)
			out := classify(matchers, infos[0].Process, infos, nil)
			var got []string
			for _, p := range out.Picks {
				line := p.Workload.Name + " " + pids([]proc.Info{p.Leader}) + ": " + pids(p.Members)
				if len(p.Claims) > 0 {
					line += " [" + strings.Join(p.Claims, " ") + "]"
				}
				got = append(got, line)
			}
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Errorf("workloads (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(test.rest, numbers(out.Rest)); diff != "" {
				t.Errorf("rest (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(test.spare, numbers(out.Spared)); diff != "" {
				t.Errorf("spared (-want +got):\n%s", diff)
			}
		})
	}
}

func numbers(infos []proc.Info) (all []int) {
	for _, info := range infos {
		all = append(all, info.PID)
	}
	return all
}

func pids(infos []proc.Info) string { return strings.Trim(fmt.Sprint(numbers(infos)), "[]") }

// The table of Restart= in systemd.service(5).
func TestRestarts(t *testing.T) {
	t.Parallel()
	type end struct {
		name string
		why  supervise.Cause
		exit proc.Exit
	}
	ends := []end{
		{"clean exit", supervise.CauseExit, proc.Exit{Known: true}},
		{"clean signal", supervise.CauseExit, proc.Exit{Known: true, Signal: "SIGTERM"}},
		{"unclean exit", supervise.CauseExit, proc.Exit{Known: true, Code: 1}},
		{"unclean signal", supervise.CauseExit, proc.Exit{Known: true, Signal: "SIGSEGV"}},
		{"timeout", supervise.CauseTimeout, proc.Exit{Known: true, Signal: "SIGTERM"}},
		{"watchdog", supervise.CauseWatchdog, proc.Exit{Known: true, Signal: "SIGABRT"}},
		{"unknown", supervise.CauseExit, proc.Exit{}},
	}
	for condition, want := range map[supervise.RestartCondition][]string{
		supervise.RestartNever:      nil,
		supervise.RestartAlways:     {"clean exit", "clean signal", "unclean exit", "unclean signal", "timeout", "watchdog", "unknown"},
		supervise.RestartOnSuccess:  {"clean exit", "clean signal"},
		supervise.RestartOnFailure:  {"unclean exit", "unclean signal", "timeout", "watchdog", "unknown"},
		supervise.RestartOnAbnormal: {"unclean signal", "timeout", "watchdog", "unknown"},
		supervise.RestartOnAbort:    {"unclean signal"},
		supervise.RestartOnWatchdog: {"watchdog"},
	} {
		var got []string
		for _, e := range ends {
			spec := &supervise.Spec{Type: supervise.Simple, Restart: supervise.RestartPolicy{Condition: condition}}
			if restarts(spec, e.why, e.exit) {
				got = append(got, e.name)
			}
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", condition, diff)
		}
	}
	spec := &supervise.Spec{Type: supervise.Oneshot, Restart: supervise.RestartPolicy{Condition: supervise.RestartAlways}}
	if restarts(spec, supervise.CauseExit, proc.Exit{Known: true}) {
		t.Error("a oneshot that ended well is started again")
	}
	spec.Restart = supervise.RestartPolicy{Condition: supervise.RestartOnFailure, SuccessExit: []int{7}, SuccessSignals: []string{"SIGUSR1"}}
	for exit, again := range map[proc.Exit]bool{
		{Known: true, Code: 7}:           false,
		{Known: true, Code: 8}:           true,
		{Known: true, Signal: "SIGUSR1"}: false,
		{Known: true, Signal: "SIGUSR2"}: true,
	} {
		if restarts(spec, supervise.CauseExit, exit) != again {
			t.Errorf("%s with success-exit-status: restarted %t, want %t", exit, !again, again)
		}
	}
}

func TestRestartDelay(t *testing.T) {
	t.Parallel()
	var got []time.Duration
	for _, streak := range []int{0, 1, 2, 9, 10, 1000} {
		got = append(got, restartDelay(supervise.RestartPolicy{}, streak))
	}
	want := []time.Duration{100 * time.Millisecond, 200 * time.Millisecond, 400 * time.Millisecond, 51200 * time.Millisecond, time.Minute, time.Minute}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if got := restartDelay(supervise.RestartPolicy{Delay: time.Hour}, 5); got != time.Hour {
		t.Errorf("a longer delay became %s", got)
	}
}

func TestOrder(t *testing.T) {
	t.Parallel()
	a, b, c := tenure.ServiceUnit("s", "a"), tenure.ServiceUnit("s", "b"), tenure.ServiceUnit("s", "c")
	g := startOrder(map[tenure.UnitID][]tenure.UnitID{a: {b, c, tenure.ServiceUnit("s", "elsewhere")}, b: {c}, c: {c}})
	if err := g.check(); err != nil {
		t.Error(err)
	}
	r := g.reverse()
	if len(r[a]) != 0 || !slices.Equal(r[b], []tenure.UnitID{a}) || len(r[c]) != 2 {
		t.Errorf("reverse %v", r)
	}
	if err := startOrder(map[tenure.UnitID][]tenure.UnitID{a: {b}, b: {a}}).check(); err == nil {
		t.Error("a circle passed")
	}
}

func TestParseNotification(t *testing.T) {
	t.Parallel()
	got := parseNotification([]byte("READY=1\nSTATUS=three\x1b[2J jobs\nMAINPID=42\nEXTEND_TIMEOUT_USEC=2000000\nUNKNOWN=x\nFDSTORE=1\nFDNAME=conn\nno equals\nWATCHDOG=trigger\nBARRIER=1"))
	want := notification{
		Ready: true, Status: "three[2J jobs", HasStatus: true, MainPID: 42, ExtendTimeout: 2 * time.Second,
		Store: true, Name: "conn", Trigger: true, Barrier: true,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	bad := parseNotification([]byte("READY=yes\nMAINPID=-1\nMAINPID=99999999999\nWATCHDOG_USEC=-5\nEXTEND_TIMEOUT_USEC=99999999999999999999\nFDNAME=a:b"))
	if diff := cmp.Diff(notification{}, bad); diff != "" {
		t.Errorf("wrong values (-want +got):\n%s", diff)
	}
}

func FuzzParseNotification(f *testing.F) {
	f.Add([]byte("READY=1\nSTATUS=fine\nMAINPID=1\n"))
	f.Add([]byte("WATCHDOG_USEC=9223372036854775807\nFDNAME=\xff\n=\n"))
	f.Fuzz(func(t *testing.T, datagram []byte) {
		n := parseNotification(datagram)
		if n.MainPID < 0 || n.WatchdogEvery < 0 || n.ExtendTimeout < 0 || len(n.Status) > maxText {
			t.Errorf("%+v", n)
		}
		if n.Name != "" && !validFDName(n.Name) {
			t.Errorf("name %q", n.Name)
		}
		for _, c := range n.Status {
			if c < ' ' || c == 0x7f {
				t.Errorf("status %q", n.Status)
			}
		}
	})
}

func TestEventsOfASlowConsumer(t *testing.T) {
	t.Parallel()
	b := newBus()
	events := b.subscribe(t.Context())
	for range backlog + 10 {
		b.send(supervise.Event{Kind: supervise.EventState})
	}
	count, lost := 0, false
	for e := range events {
		count++
		if lost = e.Kind == supervise.EventLost; lost {
			break
		}
	}
	if !lost || count != backlog+1 {
		t.Errorf("%d events, lost %t, want %d and to be told of the loss", count, lost, backlog+1)
	}
	if len(b.subscribers) != 0 {
		t.Error("who stopped listening is still served")
	}
}

// runningHost is a Host that has started what it says.
type runningHost struct {
	Host

	running []Running
}

func (h runningHost) Running(context.Context) ([]Running, error) { return h.running, nil }

// A supervisor dies when it has written that a service drains, and before the host has heard
// of its successor: that is the service, and what drains has not been started anew.
func TestTheHostKnowsTheOldGeneration(t *testing.T) {
	t.Parallel()
	info, err := proc.Read(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	service := tenure.ServiceUnit("web", "web")
	running := Running{Spec: &supervise.Spec{Unit: service}, Group: proc.GroupAt("/groups/1"), Main: info.Process}
	for name, c := range map[string]struct{ drains, want tenure.Process }{
		"it drains":             {info.Process, tenure.Process{PID: 1, Start: 1}},
		"it has been restarted": {tenure.Process{PID: 2, Start: 1}, info.Process},
	} {
		recs := []*record{
			{Spec: &supervise.Spec{Unit: service}, State: supervise.Running, Main: tenure.Process{PID: 1, Start: 1}},
			{Spec: &supervise.Spec{Unit: service.Workload(tenure.Draining, 1)}, State: supervise.Stopping, Main: c.drains, Draining: true},
		}
		s := &Supervisor{cfg: Config{Host: runningHost{running: []Running{running}}}}
		recs, err := s.startedByHost(t.Context(), recs)
		if err != nil || len(recs) != 2 || recs[0].Main != c.want {
			t.Errorf("%s: the service is %v, %v, want %v", name, recs[0].Main, err, c.want)
		}
	}
}
