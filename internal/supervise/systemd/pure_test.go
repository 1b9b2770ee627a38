package systemd

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"tenure"
	"tenure/internal/supervise"
)

func TestNamesAreReadBack(t *testing.T) {
	t.Parallel()
	n := names{DefaultPrefix}
	for text, want := range map[string]string{
		"virt.virtd":             "snap.virt.virtd.3",
		"virt.vm@web1":           "snap.virt.vm@web1.3",
		"virt.virtd/vm.4711":     "snap.virt.virtd:vm.4711.3",
		"virt.virtd/vm@web1":     "snap.virt.virtd:vm@web1.3",
		"virt.vm@web1/disk":      "snap.virt.vm@web1:disk.3",
		"virt.qemu-img~4711":     "snap.virt.qemu-img::4711.3",
		"virt.hook.configure~9":  "snap.virt.hook.configure::9.3",
		"virt.virtd/leftover.12": "snap.virt.virtd:leftover.12.3",
	} {
		unit, err := tenure.ParseUnit(text)
		if err != nil {
			t.Fatal(err)
		}
		for _, kind := range []string{service, scope} {
			name := n.numbered(unit, 3, kind)
			if kind == service && name != want+kind {
				t.Errorf("%s is named %s, want %s", text, name, want+kind)
			}
			if kind == scope && strings.Contains(name, "@") {
				t.Errorf("%s is named %s, which no scope can be", text, name)
			}
			command := strings.TrimSuffix(name, kind) + commandMark + "stop1" + kind
			for _, read := range []string{name, command} {
				if back, number, ok := n.parse(read); !ok || back != unit || number != 3 {
					t.Errorf("%s is read as %s, %d, %t", read, back, number, ok)
				}
			}
			if owner, ok := n.owner(n.slice(unit.Snap) + "/" + name + "/payload"); !ok || owner != unit {
				t.Errorf("the owner of a group below %s is %s", name, owner)
			}
		}
	}
	for _, foreign := range []string{"ssh.service", "snap.virt.virtd.service", "snap.virt.virtd.0.service", "other.virt.virtd.1.service"} {
		if unit, _, ok := n.parse(foreign); ok {
			t.Errorf("%s is read as %s", foreign, unit)
		}
	}
	if got := n.slice("two-words"); got != `snap-two\x2dwords.slice` {
		t.Errorf("slice %s", got)
	}
}

func TestCommandsAreQuoted(t *testing.T) {
	t.Parallel()
	got := quoteCommand([]string{"/opt/a b/tenured", `say "$HOME" 100% \`})
	if want := `"/opt/a b/tenured" "say \"$$HOME\" 100%% \\"`; got != want {
		t.Errorf("quoted as %s, want %s", got, want)
	}
}

func TestRestartsThatSystemdLoads(t *testing.T) {
	t.Parallel()
	got := map[supervise.RestartCondition]supervise.RestartCondition{}
	for _, condition := range []supervise.RestartCondition{
		supervise.RestartNever, supervise.RestartAlways, supervise.RestartOnSuccess, supervise.RestartOnFailure,
	} {
		got[condition] = restartOf(&supervise.Spec{Type: supervise.Oneshot, Restart: supervise.RestartPolicy{Condition: condition}})
	}
	want := map[supervise.RestartCondition]supervise.RestartCondition{
		supervise.RestartNever: "no", supervise.RestartAlways: supervise.RestartOnFailure,
		supervise.RestartOnSuccess: "no", supervise.RestartOnFailure: supervise.RestartOnFailure,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("Restart= of a oneshot (-want +got):\n%s", diff)
	}
}

// TestWhoWasNotHeard: the supervisor has died with a question that it had not read.
func TestWhoWasNotHeard(t *testing.T) {
	t.Parallel()
	ends, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := writeAll(ends[0], []byte("question")); err != nil {
		t.Fatal(err)
	}
	if err := unix.Close(ends[1]); err != nil {
		t.Fatal(err)
	}
	conn := connection(ends[0])
	if _, _, err := conn.answer(); !hasGone(err) {
		t.Errorf("the answer is %v, want that nobody is there", err)
	}
	if err := unix.Close(ends[0]); err != nil {
		t.Error(err)
	}
}

func TestNoReloadInAGap(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		h := &host{files: &files{changed: make(chan struct{}, 1)}}
		h.gap.set(true)
		quiet := make(chan bool, 1)
		go func() { quiet <- h.quiet(t.Context()) }()
		<-time.After(10 * reloadQuiet)
		synctest.Wait()
		if len(quiet) > 0 {
			t.Error("the units are read again in a gap")
		}
		h.files.stale()
		h.gap.set(false)
		begun := time.Now()
		if !<-quiet || time.Since(begun) < reloadQuiet {
			t.Errorf("the units are read again %s after the gap, want after %s", time.Since(begun), reloadQuiet)
		}
	})
}

// What is done, where there is no supervisor, for who has connected and when a timer strikes.
func TestNextForWhoTells(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		now             condition
		justNow         bool
		connect, strike next
	}{
		"down":                       {condition{active: "inactive"}, false, nextStart, nextStart},
		"failed":                     {condition{active: "failed"}, false, nextStart, nextStart},
		"waits to be restarted":      {condition{active: "activating"}, false, nextStart, nextStart},
		"has ended just now":         {condition{active: "failed"}, true, nextWait, nextWait},
		"is to be started":           {condition{active: "inactive", job: "start"}, false, nextWait, nextWait},
		"is being started, or works": {condition{active: "activating", job: "start"}, false, nextWait, nextNothing},
		"runs":                       {condition{active: "active"}, true, nextNothing, nextNothing},
		"reads its settings":         {condition{active: "reloading"}, false, nextNothing, nextNothing},
		"runs, and is to be stopped": {condition{active: "active", job: "stop"}, false, nextWait, nextWait},
		"is being stopped":           {condition{active: "deactivating", job: "stop"}, false, nextWait, nextWait},
		"ends":                       {condition{active: "deactivating"}, false, nextWait, nextWait},
	} {
		connect, strike := nextIn(verbConnect, test.now, test.justNow), nextIn(verbStrike, test.now, test.justNow)
		if connect != test.connect || strike != test.strike {
			t.Errorf("%s: %d for who connects, %d for a timer; want %d and %d", name, connect, strike, test.connect, test.strike)
		}
	}
}
