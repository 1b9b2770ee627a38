package test

import (
	"path/filepath"
	"strings"
	"testing"

	"tenure/test/rig"
)

// reboot ends all that runs, as the end of the machine does, and starts the daemon
// again.
func reboot(t *testing.T, i *rig.Instance) {
	t.Helper()
	out := i.Exec(filepath.Join(i.Bin, "tenured"), "shutdown", "--root", i.Root)
	if out.Status != 0 {
		t.Fatalf("tenured shutdown: %s%s", out.Stdout, out.Stderr)
	}
	<-i.Ended()
	i.Start()
}

// active are the services of the snap called probe that have a main process.
func active(t *testing.T, i *rig.Instance, names ...string) string {
	t.Helper()
	var found []string
	for _, name := range names {
		if service(t, i, name).Active {
			found = append(found, name)
		}
	}
	return strings.Join(found, " ")
}

// A service with install-mode: disable starts when it is told to, and not before. What
// is enabled and disabled by start and stop holds over the end of the daemon, which
// touches nothing, and of the machine, after which what is enabled runs; what was only
// started or stopped is as if it had not been.
func TestEnabledAndDisabledServices(t *testing.T) {
	t.Parallel()
	i := rig.New(t, rig.Config{})
	trace := listen(t, i)
	const up = "\n\tdaemon: notify\n\tcommand: PROBE trap report:up notify:READY:1 run"
	i.Tenure("install", "--dangerous", probeSnap(t, i, probeYAML("1",
		"\neager:"+up, "\nlazy:"+up+"\n\tinstall-mode: disable", "\nplain:"+up, "\nidle:"+up+"\n\tinstall-mode: disable")))
	all := []string{"eager", "lazy", "plain", "idle"}
	now := func(when, want string) {
		t.Helper()
		if got := active(t, i, all...); got != want {
			t.Fatalf("%s, %q run, want %q:\n%s", when, got, want, i.Tenure("services", "probe"))
		}
	}
	now("after the installation", "eager plain")
	trace.expect("eager", "up")
	trace.silent("lazy", "idle")

	i.Tenure("start", "--enable", "probe.lazy")
	i.Tenure("stop", "--disable", "probe.eager")
	i.Tenure("start", "probe.idle")
	i.Tenure("stop", "probe.plain")
	now("after start and stop", "lazy idle")
	main := i.Main("probe.lazy")
	i.Kill()
	i.Start()
	now("with another daemon", "lazy idle")
	if again := i.Main("probe.lazy"); again != main {
		t.Errorf("the main process is %+v, want %+v", again, main)
	}

	reboot(t, i)
	now("after a start of the machine", "lazy plain")
	trace.expect("lazy", "up", "heard SIGTERM", "up")
	i.Tenure("refresh", "--dangerous", probeSnap(t, i, probeYAML("2",
		"\neager:"+up, "\nlazy:"+up+"\n\tinstall-mode: disable", "\nplain:"+up, "\nidle:"+up+"\n\tinstall-mode: disable")))
	now("after a refresh", "lazy plain")
	i.Tenure("start", "--enable", "probe.eager")
	reboot(t, i)
	now("after another start of the machine", "eager lazy plain")
}
