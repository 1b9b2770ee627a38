package packaging_test

import (
	"context"
	"fmt"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"tenure/examples/clients/hello"
	"tenure/examples/clients/snaps"
	"tenure/test/nspawn"
	"tenure/test/rig"
)

// machine is one that Tenure is installed on.
type machine struct {
	*nspawn.Machine
	t *testing.T
	// snap is where Debian's own client of snapd is.
	snap string
}

// install boots a machine with the programs and units that "make install" installs, and
// with the snaps of the checkout in /mnt. The watchdog bites soon.
func install(t *testing.T) machine {
	t.Helper()
	checkout, err := snaps.Checkout()
	if err != nil {
		t.Fatal(err)
	}
	file, err := snaps.Build(t.Context(), "hello", "1")
	if err != nil {
		t.Fatal(err)
	}
	snap, err := exec.CommandContext(t.Context(), filepath.Join(checkout, "scripts/stock-snap")).Output()
	if err != nil {
		t.Fatal(err)
	}
	return machine{t: t, snap: filepath.Join("/opt", filepath.Base(strings.TrimSpace(string(snap)))), Machine: nspawn.New(t, nspawn.Config{
		Binds: map[string]string{"/mnt": filepath.Dir(file), "/opt": filepath.Dir(string(snap))},
		Prepare: func(root string) error {
			dropIn := filepath.Join(root, "etc/systemd/system/tenured.service.d")
			for _, argv := range [][]string{
				{"make", "--no-print-directory", "-C", checkout, "install", "DESTDIR=" + root},
				{"systemctl", "--root=" + root, "enable", "tenured.service"},
				{"mkdir", dropIn},
				{"sh", "-c", `printf '[Service]\nWatchdogSec=10s\n' >"$0/soon.conf"`, dropIn},
			} {
				if out, err := exec.CommandContext(t.Context(), argv[0], argv[1:]...).CombinedOutput(); err != nil {
					return fmt.Errorf("%v: %w\n%s", argv, err, out)
				}
			}
			return nil
		},
	})}
}

// run is what a command prints, which must succeed.
func (m machine) run(argv ...string) string {
	m.t.Helper()
	ctx, cancel := context.WithTimeout(m.t.Context(), 2*rig.Patience)
	defer cancel()
	got := m.Run(ctx, argv...)
	if got.Status != 0 {
		m.t.Fatalf("%v: %+v\n%s", argv, got, m.state())
	}
	return strings.TrimSpace(got.Stdout)
}

// state is what the daemon has said, and where all of its processes are.
func (m machine) state() string {
	ctx, cancel := context.WithTimeout(context.Background(), rig.Patience)
	defer cancel()
	return m.Run(ctx, "sh", "-c", `pkill -QUIT -x tenured; systemctl status --no-pager --full 'tenured*'; ps -ef; journalctl --no-pager --lines=2000`).Stdout
}

// property is one of the unit tenured.service.
func (m machine) property(name string) string {
	m.t.Helper()
	return m.run("systemctl", "show", "--value", "--property", name, "tenured.service")
}

// ask asks the service that lives through all that is done to the daemon.
func (m machine) ask() hello.Answer {
	m.t.Helper()
	answer, err := hello.Ask(m.t.Context(), m.Path("var/snap/hello/common/hello.sock"))
	if err != nil {
		m.t.Fatal(err)
	}
	return answer
}

// expectSame fails the test if anything has happened to the service since it gave the
// answer before.
func (m machine) expectSame(when string, before hello.Answer) {
	m.t.Helper()
	if now := m.ask(); now != before {
		m.t.Errorf("%s the service is %v, before it was %v", when, now, before)
	}
}

// expect waits until a property of the unit has a value, which systemd may be told of only just after
// a command has ended.
func (m machine) expect(when, name, want string) {
	m.t.Helper()
	patience := time.After(rig.Patience)
	for {
		got := m.property(name)
		if got == want {
			return
		}
		select {
		case <-time.After(50 * time.Millisecond):
		case <-patience:
			m.t.Errorf("%s: %s is %q, want %q", when, name, got, want)
			return
		}
	}
}

// expectKept fails the test if whoever is in the daemon's control group reaches what it
// is to be kept from, or what it needs is kept from it.
func (m machine) expectKept() {
	m.t.Helper()
	m.run("mknod", "/dev/tun", "c", "10", "200")
	for what, permitted := range map[string]bool{
		"</dev/tun": false, ">/dev/udp/127.0.0.1/9; echo >&9": false, "<>/dev/loop-control": true, "<>/dev/loop0": true, "</dev/urandom": true,
	} {
		got := m.Run(m.t.Context(), "bash", "-c", "echo $$ >/sys/fs/cgroup/system.slice/tenured.service/cgroup.procs; exec 9"+what)
		if refused := strings.Contains(got.Stderr, "Operation not permitted"); refused == permitted {
			m.t.Errorf("%s: permitted is %t, want %t: %+v", what, !refused, permitted, got)
		}
	}
}

// expectPolkit fails the test if the machine's own polkit does not decide about users, by the
// actions that are installed.
func (m machine) expectPolkit() {
	m.t.Helper()
	const rule = `polkit.addRule(function(action, subject) {
	if (action.id == "io.tenure.manage-configuration" && subject.user == "games") return polkit.Result.YES;
});`
	m.run("sh", "-c", `mkdir -p /etc/polkit-1/rules.d && echo "$0" >/etc/polkit-1/rules.d/test.rules && chmod -R a+rX /etc/polkit-1`, rule)
	// The bus starts polkit for it.
	m.run("pkaction", "--action-id", "io.tenure.manage")
	games := []string{"setpriv", "--reuid=games", "--regid=games", "--clear-groups", "tenure"}
	m.run(append(games, "set", "system", "refresh.retain=3")...)
	if got := m.Run(m.t.Context(), append(games, "disable", "hello")...); got.Status != 1 || !strings.Contains(got.Stderr, "access denied") {
		m.t.Errorf("who may only configure disables hello: %+v", got)
	}
}

// expectUpgrade fails the test if the daemon is not upgraded by a reload of its unit, or one that does
// not start is not taken back, or systemd sees more of either than a reload.
func (m machine) expectUpgrade(before hello.Answer) {
	m.t.Helper()
	next, err := rig.BuildNext(m.t.Context())
	if err != nil {
		m.t.Fatal(err)
	}
	restarts := m.property("NRestarts")
	for _, dir := range []string{"root/hangs-at-rehearsal", "root/exits-at-ready", "root/panics-at-start", "usr/local/bin"} {
		if out, err := exec.CommandContext(m.t.Context(), "install", "-D", "-t", m.Path(dir), next).CombinedOutput(); err != nil {
			m.t.Fatalf("install the next tenured: %v\n%s", err, out)
		}
	}
	for dir, why := range map[string]string{"hangs-at-rehearsal": "not ready", "exits-at-ready": "fails on purpose", "panics-at-start": "before it was ready"} {
		got := m.Run(m.t.Context(), "tenure", "daemon", "upgrade", "--patience=2s", "/root/"+dir+"/tenured")
		if got.Status != 1 || !strings.Contains(got.Stderr, why) {
			m.t.Errorf("an upgrade to a tenured that %s: %+v", dir, got)
		}
		m.expect("after an upgrade that was taken back", "ActiveState", "active")
	}
	// It may be the one that has waited beside a start.
	pid := m.property("MainPID")
	m.expect("after upgrades that were taken back", "NRestarts", restarts)
	m.run("systemctl", "reload", "tenured.service")
	if status := m.run("tenure", "daemon", "status"); !regexp.MustCompile(`version +next\nprocess +` + pid).MatchString(status) {
		m.t.Errorf("after the upgrade of process %s the daemon is\n%s", pid, status)
	}
	for name, want := range map[string]string{"ActiveState": "active", "MainPID": pid, "NRestarts": restarts, "StatusText": "Idle."} {
		m.expect("after an upgrade", name, want)
	}
	m.expectSame("after an upgrade", before)
}

// expectStop fails the test if a daemon that is stopped while another one begins in its place does not end, or systemd does not see that
// it has ended well.
func (m machine) expectStop(before hello.Answer) {
	m.t.Helper()
	next, err := rig.BuildNext(m.t.Context())
	if err != nil {
		m.t.Fatal(err)
	}
	const dir = "root/waits-at-start"
	if out, err := exec.CommandContext(m.t.Context(), "install", "-D", "-t", m.Path(dir), next).CombinedOutput(); err != nil {
		m.t.Fatalf("install the next tenured: %v\n%s", err, out)
	}
	m.upgrade(dir)
	m.run("systemctl", "stop", "tenured.socket", "tenured-snapctl.socket", "tenured.service")
	m.Run(m.t.Context(), "systemctl", "stop", "asks.service") // It may have seen that there is no daemon.
	for name, want := range map[string]string{"ActiveState": "inactive", "Result": "success", "MainPID": "0"} {
		m.expect("after a stop in an upgrade", name, want)
	}
	m.expectSame("after a stop in an upgrade", before)
	m.run("systemctl", "start", "tenured.socket", "tenured-snapctl.socket", "tenured.service")
	m.expectFailed("a stop in an upgrade", before)

	// The one that systemd knows is gone, so to systemd the daemon is: it starts another one, and no third one is left.
	m.upgrade(dir)
	m.run("systemctl", "kill", "--kill-who=main", "--signal=KILL", "tenured.service")
	m.expect("after the loss of a guard", "NRestarts", "1")
	m.Run(m.t.Context(), "systemctl", "stop", "asks.service")
	m.expectFailed("the loss of a guard", before)
}

// upgrade begins an upgrade to the program in a directory, and returns when its guard is known as the daemon.
func (m machine) upgrade(dir string) {
	m.t.Helper()
	guarded := m.property("MainPID")
	m.run("systemd-run", "--quiet", "--collect", "--unit=asks", "tenure", "daemon", "upgrade", "--patience=1h", "/"+dir+"/tenured")
	patience := time.After(rig.Patience)
	for m.property("MainPID") == guarded {
		select {
		case <-time.After(50 * time.Millisecond):
		case <-patience:
			m.t.Fatal("nobody guards the start")
		}
	}
}

// expectFailed fails the test if the daemon does not say that the last upgrade has failed, or the service has seen anything of it.
func (m machine) expectFailed(what string, before hello.Answer) {
	m.t.Helper()
	if status := m.run("tenure", "daemon", "status"); !strings.Contains(status, " failed at ") {
		m.t.Errorf("after %s the daemon is\n%s", what, status)
	}
	m.expectSame("after "+what, before)
}

// TestTenuredAsAUnit is a life of the daemon below systemd: whatever is done to it, the
// service lives, and whoever calls meanwhile is answered.
func TestTenuredAsAUnit(t *testing.T) {
	t.Parallel()
	m := install(t)
	m.expect("after the boot", "ActiveState", "active")
	m.expect("after the boot", "StatusText", "Idle.")
	m.run("tenure", "install", "--dangerous", "/mnt/hello_1.snap")
	before := m.ask()
	m.expectKept()
	m.expectPolkit()

	for _, call := range []string{"tenure ps", "snapctl services"} {
		m.run("systemctl", "stop", "tenured.service")
		m.expect("after a stop", "ActiveState", "inactive")
		m.expectSame("without the daemon", before)
		// What is answered to whom is the business of others.
		m.Run(t.Context(), strings.Fields(call)...)
		m.expect("after "+call, "ActiveState", "active")
		m.expectSame("after "+call, before)
	}
	if units := m.run("tenure", "ps"); !regexp.MustCompile(`hello\.hellod .* x1 .* running`).MatchString(units) {
		t.Errorf("the next daemon knows of:\n%s", units)
	}
	m.expect("so far", "NRestarts", "0")

	// The call waits at the socket, which is systemd's, until there is a daemon to answer.
	// systemd lets the daemon go on for the moment in which it says where it hangs: that can be enough to
	// accept who waits.
	m.run("kill", "-STOP", m.property("MainPID"))
	if got := m.Run(t.Context(), "tenure", "list"); got.Status != 0 && !strings.Contains(got.Stderr, "connection reset by peer") {
		t.Errorf("a call while the daemon hangs: %+v", got)
	}
	m.run("tenure", "list")
	m.expect("after a hang", "NRestarts", "1")
	m.expectSame("after a hang", before)
	m.run("systemctl", "kill", "--signal=KILL", "tenured.service")
	m.run("tenure", "list")
	m.expect("after a crash", "NRestarts", "2")
	m.expectSame("after a crash", before)
	const complaint = "level=(WARN|ERROR)"
	if got := m.Run(t.Context(), "journalctl", "--unit=tenured.service", "--grep="+complaint, "--quiet"); got.Stdout != "" {
		t.Errorf("the daemon complains:\n%s", got.Stdout)
	}

	m.expectUpgrade(before)
	m.expectStop(before)

	m.run("systemctl", "stop", "tenured.service")
	m.run("systemctl", "enable", "--now", "tenured-snapd.socket")
	if list := m.run(m.snap, "list", "hello"); !strings.Contains(list, "x1") {
		t.Errorf("snap list says:\n%s", list)
	}
	m.expectSame("after a call of snap", before)

	if err := m.Reboot(t.Context()); err != nil {
		t.Fatal(err)
	}
	m.expect("after a reboot", "ActiveState", "active")
	m.run(m.snap, "list", "hello")
	if events := m.run("tenure", "timeline", "hello"); !strings.Contains(events, "shutdown") {
		t.Errorf("the service was not shut down: %s", events)
	}
	if after := m.ask(); after.Revision != before.Revision {
		t.Errorf("after a reboot the service is %v, before it was %v", after, before)
	}
}
