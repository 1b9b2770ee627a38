package snapfile_test

import (
	"fmt"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"tenure"
	"tenure/internal/schedule"
	"tenure/internal/snapfile"
)

func parseSnap(tb testing.TB, name string) *snapfile.Snap {
	tb.Helper()
	snap, err := snapfile.Parse(readSnap(tb, name), []string{"configure"})
	if err != nil {
		tb.Fatal(err)
	}
	return snap
}

func names(apps []*snapfile.App) []string {
	var list []string
	for _, app := range apps {
		list = append(list, string(app.Name))
	}
	return list
}

func TestStartOrder(t *testing.T) {
	t.Parallel()
	snap := parseSnap(t, "microk8s.yaml")
	want := []string{"daemon-containerd", "daemon-etcd", "daemon-flanneld", "daemon-kubelite", "refresh-certs"}
	if diff := cmp.Diff(want, names(snap.StartOrder())); diff != "" {
		t.Error(diff)
	}
	slices.Reverse(want)
	if diff := cmp.Diff(want, names(snap.StopOrder())); diff != "" {
		t.Error(diff)
	}
	if snap.StartOrder()[0] != snap.App("daemon-containerd") {
		t.Error("the order is not of the snap's own apps")
	}
}

// TestStartOrderProperty: whatever after and before say, either there is a cycle
// and an error, or every service comes once and after what it waits for.
func TestStartOrderProperty(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		yaml, waits := drawServices(t)
		snap, err := snapfile.Parse([]byte(yaml), nil)
		if cyclic(waits) != (err != nil) {
			t.Fatalf("cyclic %v, but %v for\n%s", cyclic(waits), err, yaml)
		}
		if err != nil {
			return
		}
		order := names(snap.StartOrder())
		if len(order) != len(waits) {
			t.Fatalf("%d of %d services in %v", len(order), len(waits), order)
		}
		for later := range waits {
			for first, waiting := range waits[later] {
				if waiting && slices.Index(order, fmt.Sprintf("s%d", first)) >= slices.Index(order, fmt.Sprintf("s%d", later)) {
					t.Fatalf("s%d not before s%d in %v", first, later, order)
				}
			}
		}
	})
}

// drawServices also gives, for each service, those that it waits for.
func drawServices(t *rapid.T) (yaml string, waits [][]bool) {
	count := rapid.IntRange(1, 8).Draw(t, "services")
	waits = make([][]bool, count)
	for i := range waits {
		waits[i] = make([]bool, count)
	}
	drawNames := func(key string, wait func(other int)) string {
		var list []string
		for _, other := range rapid.SliceOfNDistinct(rapid.IntRange(0, count-1), 0, 2, rapid.ID[int]).Draw(t, key) {
			wait(other)
			list = append(list, fmt.Sprintf("s%d", other))
		}
		return key + ": [" + strings.Join(list, ", ") + "]"
	}
	var b strings.Builder
	b.WriteString("name: a\nversion: 1\napps:\n")
	for i := range count {
		after := drawNames("after", func(other int) { waits[i][other] = true })
		before := drawNames("before", func(other int) { waits[other][i] = true })
		fmt.Fprintf(&b, " s%d: {command: x, daemon: simple, %s, %s}\n", i, after, before)
	}
	return b.String(), waits
}

// cyclic closes the relation (Warshall) and looks for what reaches itself.
func cyclic(waits [][]bool) bool {
	reach := make([][]bool, len(waits))
	for i := range waits {
		reach[i] = slices.Clone(waits[i])
	}
	for k := range reach {
		for i := range reach {
			for j := range reach {
				reach[i][j] = reach[i][j] || (reach[i][k] && reach[k][j])
			}
		}
	}
	for i := range reach {
		if reach[i][i] {
			return true
		}
	}
	return false
}

func TestDefaults(t *testing.T) {
	t.Parallel()
	set := parseSnap(t, "multipass.yaml").App("multipassd")
	unset := parseSnap(t, "nextcloud.yaml").App("redis-server")
	vm := set.Lifecycle.WorkloadNamed("vm")
	tests := []struct {
		name      string
		got, want any
	}{
		{"stop-timeout", set.EffectiveStopTimeout(), 150 * time.Second},
		{"default stop-timeout", unset.EffectiveStopTimeout(), 30 * time.Second},
		{"start-timeout", parseSnap(t, "microk8s.yaml").App("daemon-containerd").EffectiveStartTimeout(), 5 * time.Minute},
		{"default start-timeout", unset.EffectiveStartTimeout(), 30 * time.Second},
		{"restart-delay", set.EffectiveRestartDelay(), 5 * time.Second},
		{"default restart-delay", unset.EffectiveRestartDelay(), 100 * time.Millisecond},
		{"restart-condition", set.EffectiveRestartCondition(), snapfile.RestartAlways},
		{"default restart-condition", unset.EffectiveRestartCondition(), snapfile.RestartOnFailure},
		{"stop-mode", set.EffectiveStopMode(), snapfile.StopTerm},
		{"stop-mode to all", set.EffectiveStopMode().All(), false},
		{"default stop-mode", unset.EffectiveStopMode(), snapfile.StopTermAll},
		{"default stop-mode to all", unset.StopMode.All(), true},
		{"signal", snapfile.StopIntAll.Signal(), syscall.SIGINT},
		{"starts on install", unset.StartsOnInstall(), true},
		{"install-mode", parseSnap(t, "microk8s.yaml").App("daemon-etcd").StartsOnInstall(), false},
		{"merged install-mode", parseSnap(t, "microk8s.yaml").App("daemon-kubelite").StartsOnInstall(), false},
		{"an app does not start", parseSnap(t, "lxd.yaml").App("lxc").StartsOnInstall(), false},
		{"workload's stop-timeout", set.EffectiveWorkloadStopTimeout(vm), 5 * time.Minute},
		{"inherited stop-timeout", set.EffectiveWorkloadStopTimeout(&snapfile.Workload{}), 150 * time.Second},
		{"workload's kill", set.MayKillWorkload(vm), false},
		{"inherited kill", set.MayKillWorkload(&snapfile.Workload{}), true},
		{"kill", set.Lifecycle.MayKill(), true},
		{"kill: never", parseSnap(t, "postgres.yaml").App("server").Lifecycle.MayKill(), false},
		{"observe", parseSnap(t, "postgres.yaml").App("server").Lifecycle.ObserveFor(), 20 * time.Second},
		{"observe nothing", parseSnap(t, "postgres.yaml").App("pool").Lifecycle.ObserveFor(), time.Duration(0)},
		{"default observe", unset.Lifecycle.ObserveFor(), snapfile.DefaultObserve},
		{"verdict", vm.Verdict(tenure.ReasonRemove), tenure.Stop},
		{"no verdict", vm.Verdict(tenure.ReasonRevert), tenure.Verdict("")},
		{"base", parseSnap(t, "lxd.yaml").EffectiveBase(), "core22"},
		{"default base", (&snapfile.Snap{Type: snapfile.TypeApp}).EffectiveBase(), "core"},
		{"no base", (&snapfile.Snap{Type: snapfile.TypeBase}).EffectiveBase(), ""},
		{"socket-mode", parseSnap(t, "lxd.yaml").App("user-daemon").Sockets[0].EffectiveMode(), uint32(0o660)},
		{"decimal socket-mode", parseSnap(t, "lxd.yaml").App("daemon").Sockets[0].EffectiveMode(), uint32(0o660)},
		{"default socket-mode", (&snapfile.Socket{}).EffectiveMode(), uint32(0o666)},
		{"hook", parseSnap(t, "nextcloud.yaml").Hook("configure") != nil, true},
		{"hook without a file", parseSnap(t, "nextcloud.yaml").Hook("pre-refresh") == nil, true},
		{"no such app", parseSnap(t, "nextcloud.yaml").App("none") == nil, true},
	}
	for _, test := range tests {
		if test.got != test.want {
			t.Errorf("%s: got %v, want %v", test.name, test.got, test.want)
		}
	}
}

func TestCompile(t *testing.T) {
	t.Parallel()
	snap := parseSnap(t, "multipass.yaml")
	re, err := snap.App("multipassd").Lifecycle.WorkloadNamed("vm").Compile()
	if err != nil {
		t.Fatal(err)
	}
	for line, want := range map[string]bool{
		"/snap/virt/1/bin/qemu-system-x86_64 -name a": true,
		"qemu-system-x86_64 -m 1":                     true,
		"sh -c /bin/qemu-system-x86_64 -name a":       false,
	} {
		if re.MatchString(line) != want {
			t.Errorf("%q: not %v", line, want)
		}
	}
	if re, err := (&snapfile.Workload{}).Compile(); re != nil || err != nil {
		t.Errorf("no pattern: %v, %v", re, err)
	}
	if _, err := (&snapfile.Workload{Name: "x", Match: "("}).Compile(); err == nil {
		t.Error("a wrong pattern is no error")
	}
}

func TestCleanExit(t *testing.T) {
	t.Parallel()
	daemon := parseSnap(t, "multipass.yaml").App("multipassd")
	oneshot := parseSnap(t, "microk8s.yaml").App("refresh-certs")
	tests := []struct {
		app    *snapfile.App
		code   int
		signal syscall.Signal
		want   bool
	}{
		{daemon, 0, 0, true},
		{daemon, 42, 0, true},
		{daemon, 1, 0, false},
		{daemon, 0, syscall.SIGUSR1, true},
		{daemon, 0, syscall.SIGUSR2, false},
		{daemon, 0, syscall.SIGTERM, true},
		{daemon, 0, syscall.SIGKILL, false},
		{oneshot, 0, syscall.SIGTERM, false},
		{oneshot, 0, 0, true},
	}
	for _, test := range tests {
		if got := test.app.CleanExit(test.code, test.signal); got != test.want {
			t.Errorf("%s: code %d, signal %v: got %v", test.app.Name, test.code, test.signal, got)
		}
	}
}

func TestExpandEnv(t *testing.T) {
	t.Parallel()
	given := func(name string) string { return map[string]string{"SNAP": "/snap/a/1", "PATH": "/bin"}[name] }
	env := snapfile.Env{
		{Name: "PATH", Value: "$SNAP/bin:$PATH"},
		{Name: "LATER", Value: "[$HOME]"},
		{Name: "HOME", Value: "${SNAP}/home"},
		{Name: "PATH", Value: "$HOME/bin:${PATH}"},
		{Name: "COST", Value: "$NONE-5%"},
	}
	want := snapfile.Env{
		{Name: "PATH", Value: "/snap/a/1/bin:/bin"},
		{Name: "LATER", Value: "[]"},
		{Name: "HOME", Value: "/snap/a/1/home"},
		{Name: "PATH", Value: "/snap/a/1/home/bin:/snap/a/1/bin:/bin"},
		{Name: "COST", Value: "-5%"},
	}
	if diff := cmp.Diff(want, snapfile.ExpandEnv(env, given)); diff != "" {
		t.Error(diff)
	}
	command := snapfile.Command{"bin/web", "-d", "$SNAP/data", "$NONE", "a${SNAP}b"}
	argv := command.Expand("/snap/a/1", given)
	if diff := cmp.Diff([]string{"/snap/a/1/bin/web", "-d", "/snap/a/1/data", "a/snap/a/1b"}, argv); diff != "" {
		t.Error(diff)
	}
}

func TestEpoch(t *testing.T) {
	t.Parallel()
	epochs := map[string]string{
		"": "0", "epoch: 0": "0", "epoch: '7'": "7", "epoch: 1*": "1*", "epoch: {write: [3]}": "3",
		"epoch: {read: [0, 1]}": "{read: [0, 1], write: [0, 1]}", "epoch: {read: [4, 5], write: [5]}": "5*",
	}
	for yaml, want := range epochs {
		snap, err := snapfile.Parse([]byte("name: a\nversion: 1\n"+yaml), nil)
		if err != nil {
			t.Errorf("%s: %v", yaml, err)
			continue
		}
		if got := snap.Epoch.String(); got != want {
			t.Errorf("%s: got %s, want %s", yaml, got, want)
		}
	}
	zero := snapfile.Epoch{Read: []uint32{0}, Write: []uint32{0}}
	star := snapfile.Epoch{Read: []uint32{0, 1}, Write: []uint32{1}}
	if !star.CanRead(zero) || zero.CanRead(star) {
		t.Error("1* reads what 0 wrote, and not the other way")
	}
}

// TestTimersAgree holds the grammar of this package and that of schedule, which
// do not know each other, to one language.
func TestTimersAgree(t *testing.T) {
	t.Parallel()
	word := rapid.SampledFrom(strings.Split("mon tue sun fri5 mon1 wed1 mon3 mon6 - ~ -~ , ,, / 0 2 24 1440 1441 9:00 23:59 24:00 24:01 7:5 007:00 08:00 10:00~11:00 10:00-9:00/3 mon-wed mon1-wed mon3-mon2 mon2-tue3", " "))
	rapid.Check(t, func(t *rapid.T) {
		timer := strings.Join(rapid.SliceOfN(word, 1, 7).Draw(t, "words"), rapid.SampledFrom([]string{"", ",", ",,", "-"}).Draw(t, "between"))
		checkTimer(t, timer)
	})
}

func checkTimer(t interface{ Fatalf(string, ...any) }, timer string) {
	_, scheduled := schedule.ParseTimer(timer)
	_, err := snapfile.Parse(fmt.Appendf(nil, "name: a\nversion: 1\napps: {a: {command: x, daemon: simple, timer: %q}}", timer), nil)
	if timer != "" && (scheduled == nil) != (err == nil) {
		t.Fatalf("%q: schedule says %v, snapfile %v", timer, scheduled, err)
	}
}
