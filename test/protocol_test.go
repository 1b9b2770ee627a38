package test

import (
	"bufio"
	"fmt"
	"net"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"tenure"
	"tenure/client"
	"tenure/internal/proc"
	"tenure/test/rig"
)

// The commands of a service run around its end and its reload, each told of the
// main process and of the reason; the main process can read the reason itself.
func TestCommandsOfAService(t *testing.T) {
	t.Parallel()
	i := rig.New(t, rig.Config{})
	trace := listen(t, i)
	const yaml = `
server:
	daemon: notify
	command: PROBE trap ignore:SIGUSR2 report:up notify:READY:1 run reason
	stop-command: PROBE.stop env:SNAP_LIFECYCLE_REASON env:SNAP_LIFECYCLE_FROM env:SNAP_LIFECYCLE_TO signal:SIGINT wait:100ms report:done
	post-stop-command: PROBE.post env:SNAP_LIFECYCLE_REASON report:done
	reload-command: PROBE.reload signal:SIGUSR2 report:done
`
	i.Tenure("install", "--dangerous", probeSnap(t, i, probeYAML("1", yaml)))
	main := i.Main("probe.server")
	i.Tenure("restart", "--reload", "probe.server")
	trace.expect("server", "up", "heard SIGUSR2")
	trace.expect("server.reload", "done")
	if again := i.Main("probe.server"); again != main {
		t.Errorf("a reload replaced process %v by %v", main, again)
	}
	ends := func(reason, from, to string) {
		t.Helper()
		trace.expect("server.stop", "env SNAP_LIFECYCLE_REASON="+reason, "env SNAP_LIFECYCLE_FROM="+from, "env SNAP_LIFECYCLE_TO="+to)
		trace.expect("server", "heard SIGINT", "reason "+reason)
		trace.expect("server.stop", "done")
		trace.expect("server.post", "env SNAP_LIFECYCLE_REASON="+reason, "done")
	}
	i.Tenure("refresh", "--dangerous", probeSnap(t, i, probeYAML("2", yaml)))
	ends("refresh", "x1", "x2")
	trace.expect("server", "up")
	i.Tenure("revert", "probe")
	ends("revert", "x2", "x1")
	trace.expect("server", "up")
	i.Tenure("restart", "probe")
	ends("restart", "x1", "x1")
	trace.expect("server", "up")
	i.Tenure("stop", "probe.server")
	ends("stop", "x1", "x1")
	i.Tenure("start", "probe")
	trace.expect("server", "up")
	i.Tenure("disable", "probe")
	ends("disable", "x1", "")
	i.Tenure("enable", "probe")
	trace.expect("server", "up")
	i.Tenure("remove", "probe")
	trace.expect("server.stop", "env SNAP_LIFECYCLE_REASON=remove")
}

// What takes longer than its time is ended, and what the supervisor was asked for
// then fails, or goes on, as the service says.
func TestTimeouts(t *testing.T) {
	t.Parallel()
	// On a busy machine a process may not get to what it says for a while.
	i := rig.New(t, rig.Config{})
	trace := listen(t, i)
	i.Tenure("install", "--dangerous", probeSnap(t, i, probeYAML("1", `
stubborn:
	daemon: notify
	command: PROBE ignore:SIGTERM child:child/ignore:SIGTERM/report:up/run notify:READY:1 run
	stop-timeout: 2s
`, `
patient:
	daemon: notify
	command: PROBE trap notify:EXTEND_TIMEOUT_USEC:60000000 wait:1500ms report:ready notify:READY:1 run
	start-timeout: 1s
`, `
slow:
	daemon: notify
	command: PROBE trap report:up run
	start-timeout: 1s
	install-mode: disable
	restart-condition: never
`, `
watched:
	daemon: notify
	command: PROBE count:1 env:WATCHDOG_USEC notify:READY:1 alive:3/100ms wait:1h
	watchdog-timeout: 1s
	restart-condition: on-watchdog
`, `
stuck:
	daemon: simple
	command: PROBE run
	stop-command: PROBE.stop trap report:up run
	stop-timeout: 1s
`)))
	trace.expect("patient", "ready")
	trace.expect("watched", "launch 1", "env WATCHDOG_USEC=1000000", "alive no more", "launch 2")
	trace.expect("stubborn.child", "up")
	result := i.Try("start", "probe.slow")
	if result.Status == 0 || !strings.Contains(result.Stderr, "within 1s") {
		t.Errorf("start of a service that is never ready: status %d, %s", result.Status, result.Stderr)
	}
	trace.expect("slow", "up", "heard SIGTERM")
	i.Tenure("stop", "probe.stubborn")
	trace.expect("stubborn", "heard SIGTERM")
	trace.expect("stubborn.child", "heard SIGTERM")
	i.Tenure("stop", "probe.stuck")
	trace.expect("stuck.stop", "up")
	for name := range i.Units() {
		if name != "probe.patient" && name != "probe.watched" {
			t.Errorf("%s still lives", name)
		}
	}
}

// lastStep is a way in which a process ends by itself.
type lastStep struct{ name, steps string }

func lastSteps() []lastStep {
	return []lastStep{
		{"clean", "exit:0"},
		{"term", "die:SIGTERM"},
		{"code", "exit:5"},
		{"kill", "die:SIGKILL"},
		{"dog", "notify:WATCHDOG:trigger wait:1h"},
	}
}

// A service that ends by itself is started again where its condition says so for the
// way in which it has ended, and else is not.
func TestRestartConditions(t *testing.T) {
	t.Parallel()
	i := rig.New(t, rig.Config{})
	trace := listen(t, i)
	again := map[string]string{
		"on-success": "clean term", "on-failure": "code kill dog", "on-abnormal": "kill dog",
		"on-abort": "kill", "on-watchdog": "dog", "always": "clean term code kill dog", "never": "",
	}
	var services []string
	for condition := range again {
		for _, e := range lastSteps() {
			services = append(services, fmt.Sprintf(
				"\n%s-%s:\n\tdaemon: notify\n\twatchdog-timeout: 1h\n\tcommand: PROBE count:1 notify:READY:1 %s\n\tpost-stop-command: PROBE.post report:done\n\trestart-condition: %s\n\trestart-delay: 10ms\n",
				condition, e.name, e.steps, condition))
		}
	}
	for _, status := range []string{"5", "SIGKILL"} {
		services = append(services, fmt.Sprintf(
			"\nok-%s:\n\tdaemon: notify\n\tcommand: PROBE count:1 notify:READY:1 %s\n\tpost-stop-command: PROBE.post report:done\n\tsuccess-exit-status: [%s]\n\trestart-delay: 10ms\n",
			strings.ToLower(status), map[string]string{"5": "exit:5", "SIGKILL": "die:SIGKILL"}[status], status))
	}
	i.Tenure("install", "--dangerous", probeSnap(t, i, probeYAML("1", services...)))
	final := map[string]string{"ok-5": "inactive", "ok-sigkill": "inactive"}
	for condition, wanted := range again {
		for _, e := range lastSteps() {
			name := condition + "-" + e.name
			trace.expect(name, "launch 1")
			trace.expect(name+".post", "done")
			switch {
			case strings.Contains(wanted, e.name):
				trace.expect(name, "launch 2")
			case e.name == "clean" || e.name == "term":
				final[name] = "inactive"
			default:
				final[name] = "failed"
			}
		}
	}
	for name := range final {
		if strings.HasPrefix(name, "ok-") {
			trace.expect(name, "launch 1")
			trace.expect(name+".post", "done")
		}
	}
	// A stop is carried out after what has begun: then all states are final.
	before := map[string]string{}
	for name := range final {
		before[name] = service(t, i, name).State
	}
	i.Tenure("stop", "probe")
	for name, state := range final {
		trace.silent(name)
		if before[name] != state && before[name] != "stopping" {
			t.Errorf("%s is %s, want %s", name, before[name], state)
		}
	}
}

// What a service says by sd_notify(3) is heard from it and its processes, and
// changes what is shown, who is its main process, and how it ends.
func TestNotifications(t *testing.T) {
	t.Parallel()
	i := rig.New(t, rig.Config{})
	trace := listen(t, i)
	i.Tenure("install", "--dangerous", probeSnap(t, i, probeYAML("1", `
heir:
	daemon: notify
	command: PROBE notify:READY:1#STATUS:old child:new/trap/notify:MAINPID:SELF#STATUS:new/report:up/run wait:100ms trap report:leaves exit:0
	restart-condition: always
`, `
leaver:
	daemon: notify
	command: PROBE count:1 notify:READY:1 trap notify:STOPPING:1 report:stopping run
	stop-timeout: 200ms
	restart-condition: on-failure
	restart-delay: 10ms
`, `
store:
	daemon: notify
	command: PROBE passed store:one store:two store:three notify:FDSTOREREMOVE:1#FDNAME:two trap notify:READY:1 report:up run
	restart-condition: always
	restart-delay: 10ms
`)))
	trace.expect("heir.new", "up")
	trace.expect("heir", "leaves")
	if s := service(t, i, "heir"); s.Text != "new" || s.State != "running" {
		t.Errorf("heir is %s and says %q", s.State, s.Text)
	}
	i.Tenure("stop", "probe.heir")
	trace.expect("heir.new", "heard SIGTERM")
	// It says that it ends, and does not: it is ended, which is a failure.
	trace.expect("leaver", "launch 1", "stopping", "launch 2")
	trace.expect("store", "passed ", "up")
	first := strconv.Itoa(i.Main("probe.store").PID)
	kept := "passed one=one of " + first + ",three=three of " + first
	signal(t, i, "probe.store", "SIGKILL")
	trace.expect("store", kept)
	second := strconv.Itoa(i.Main("probe.store").PID)
	trace.expect("store", "up")
	// What it said before READY=1 has been taken in then; what a daemon has read when it is
	// killed, and has not handed to the holder, is lost.
	i.Await("probe.store", "is running", func(u client.Unit) bool { return u.State == "running" })
	i.Kill()
	i.Start()
	i.Tenure("restart", "probe.store")
	trace.expect("store", "heard SIGTERM", kept+",one=one of "+second+",three=three of "+second)
	i.Tenure("stop", "probe.store")
	i.Tenure("start", "probe.store")
	trace.expect("store", "up", "heard SIGTERM", "passed ")
}

// signal sends a signal to the main process of a unit.
func signal(t *testing.T, i *rig.Instance, unit, name string) {
	t.Helper()
	signalTo(t, i.Main(unit), name)
}

// signalTo sends a signal to a process.
func signalTo(t *testing.T, process tenure.Process, name string) {
	t.Helper()
	handle, err := proc.Open(process)
	if err != nil {
		t.Fatal(err)
	}
	defer handle.Close()
	if err := handle.Signal(unix.SignalNum(name)); err != nil {
		t.Fatal(err)
	}
}

// connect connects to a socket and returns what is answered, without its pid, as
// soon as it is.
func connect(t *testing.T, network, address string) <-chan string {
	t.Helper()
	conn, err := net.Dial(network, address)
	if err != nil {
		t.Fatalf("connect: %v", err)
	}
	answer := make(chan string, 1)
	go func() {
		defer close(answer)
		defer conn.Close()
		line, err := bufio.NewReader(conn).ReadString('\n')
		if err != nil {
			line = err.Error()
		}
		fields := strings.Fields(line)
		answer <- strings.Join(fields[:len(fields)-1], " ")
	}()
	return answer
}

// Who connects to a declared socket is never refused: the first connection starts
// the service, and those in the gap of a restart, a refresh or a crash, and while no daemon runs, wait.
func TestDeclaredSockets(t *testing.T) {
	t.Parallel()
	i := rig.New(t, rig.Config{})
	trace := listen(t, i)
	const yaml = `
server:
	daemon: notify
	command: PROBE report:start wait:300ms serve notify:READY:1 trap report:up run
	restart-delay: 10ms
	sockets:
		file: {listen-stream: $SNAP_COMMON/sock, socket-mode: 0600}
		name: {listen-stream: '@snap.probe.name'}
`
	i.Tenure("install", "--dangerous", probeSnap(t, i, probeYAML("1", yaml)))
	if s := service(t, i, "server"); s.State != "listening" {
		t.Errorf("before the first connection it is %s", s.State)
	}
	trace.silent("server")
	sock := i.Path("var/snap/probe/common/sock")
	expect := func(answer <-chan string, want string) {
		t.Helper()
		if got := <-answer; got != want {
			t.Errorf("answer %q, want %q", got, want)
		}
	}
	expect(connect(t, "unix", sock), "file x1")
	trace.expect("server", "start", "up")
	expect(connect(t, "unix", "@snap.probe.name"), "name x1")

	done := make(chan rig.Result)
	next := probeSnap(t, i, probeYAML("2", yaml))
	go func() { done <- i.Try("refresh", "--dangerous", next) }()
	trace.expect("server", "heard SIGTERM")
	expect(connect(t, "unix", sock), "file x2")
	if result := <-done; result.Status != 0 {
		t.Error(result.Stderr)
	}
	trace.expect("server", "start", "up")

	go func() { done <- i.Try("restart", "probe") }()
	trace.expect("server", "heard SIGTERM")
	expect(connect(t, "unix", sock), "file x2")
	if result := <-done; result.Status != 0 {
		t.Error(result.Stderr)
	}
	trace.expect("server", "start", "up")

	signal(t, i, "probe.server", "SIGKILL")
	expect(connect(t, "unix", sock), "file x2")
	trace.expect("server", "start", "up")

	i.Kill()
	expect(connect(t, "unix", sock), "file x2")
	i.Start()
	i.Tenure("stop", "probe")
	if conn, err := net.Dial("unix", sock); err == nil {
		conn.Close()
		t.Error("a stopped service's socket takes connections")
	}
}
