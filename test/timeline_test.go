package test

import (
	"bufio"
	"context"
	"encoding/json"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"tenure"
	"tenure/client"
	"tenure/examples/clients/unixdial"
	"tenure/test/rig"
)

// history is what tenure timeline says of the snap probe.
func history(t *testing.T, i *rig.Instance) (units map[string]client.TimelineUnit, changes map[string]client.TimelineChange) {
	t.Helper()
	return historyOf(t, i, "probe")
}

func historyOf(t *testing.T, i *rig.Instance, snap string) (units map[string]client.TimelineUnit, changes map[string]client.TimelineChange) {
	t.Helper()
	var timeline client.Timeline
	if err := json.Unmarshal([]byte(i.Tenure("timeline", "--json", snap)), &timeline); err != nil {
		t.Fatal(err)
	}
	units, changes = map[string]client.TimelineUnit{}, map[string]client.TimelineChange{}
	for _, unit := range timeline.Units {
		units[unit.Unit] = unit
	}
	for _, change := range timeline.Changes {
		changes[change.ID] = change
	}
	return units, changes
}

// bars are those of a unit in words: revision, and how it ended, for which change.
func bars(u client.TimelineUnit) []string {
	var all []string
	for _, bar := range u.Bars {
		text := bar.Revision
		switch {
		case bar.To.IsZero():
			text += " lives"
		case bar.Became != "":
			text += " became " + strings.TrimRight(bar.Became, "0123456789")
		case bar.Reloaded:
			text += " reloaded"
		case bar.Exit != nil:
			text += fmt.Sprintf(" %s by %s", bar.Exit.Text, bar.Cause)
		}
		all = append(all, strings.TrimSpace(text+" "+bar.EndedBy))
	}
	return all
}

// signals are those that a unit was sent, in words.
func signals(u client.TimelineUnit) []string {
	var all []string
	for _, e := range u.Events {
		if e.Kind == "signal" {
			late := ""
			if e.Late {
				late = "late"
			}
			all = append(all, strings.Join(nonEmpty(e.Signal, late, e.Helper, e.Cause, e.Reason, e.Change, e.Verdict, e.Rule.Name), ", "))
		}
	}
	return all
}

func nonEmpty(words ...string) []string {
	return slices.DeleteFunc(words, func(word string) bool { return word == "" })
}

func wantWords(t *testing.T, what string, got, want []string) {
	t.Helper()
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("%s (-want +got):\n%s", what, diff)
	}
}

// patrons ask a service that endures again and again, each time on a new connection,
// and keep every word that is not what its one process says.
type patrons struct {
	mu      sync.Mutex
	answers map[string]int
	failed  []error
	moved   chan struct{}
}

func startPatrons(t *testing.T, socket string) *patrons {
	t.Helper()
	p := &patrons{answers: map[string]int{}, moved: make(chan struct{}, 1)}
	ctx, cancel := context.WithCancel(t.Context())
	var asking sync.WaitGroup
	t.Cleanup(func() { cancel(); asking.Wait() })
	asking.Go(func() {
		at := time.NewTicker(pace)
		defer at.Stop()
		for ctx.Err() == nil {
			<-at.C
			answer, err := askOnce(ctx, socket)
			if ctx.Err() != nil {
				return
			}
			p.mu.Lock()
			p.answers[answer]++
			if err != nil {
				p.failed = append(p.failed, err)
			}
			p.mu.Unlock()
			select {
			case p.moved <- struct{}{}:
			default:
			}
		}
	})
	return p
}

func askOnce(ctx context.Context, socket string) (string, error) {
	conn, err := unixdial.Dial(ctx, socket)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	answer, err := io.ReadAll(conn)
	if err == nil && len(answer) == 0 {
		err = net.ErrClosed
	}
	return string(answer), err
}

// asked waits for one more answer, and returns how many there were.
func (p *patrons) asked() int {
	<-p.moved
	p.mu.Lock()
	defer p.mu.Unlock()
	sum := 0
	for _, n := range p.answers {
		sum += n
	}
	return sum
}

// lodger is one client that stays connected to a service that endures, and talks to it
// all the time: it counts the answers, and stops at the first thing that goes wrong.
type lodger struct {
	conn    net.Conn
	answers int
	leaving atomic.Bool
	// served is closed with the first answer: by then the service runs.
	served chan struct{}
	left   chan error
}

func startLodger(t *testing.T, socket string) *lodger {
	t.Helper()
	conn, err := unixdial.Dial(t.Context(), socket)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	l := &lodger{conn: conn, served: make(chan struct{}), left: make(chan error, 1)}
	go func() { l.left <- l.talk() }()
	select {
	case <-l.served:
	case err := <-l.left:
		t.Fatal(err)
	}
	return l
}

func (l *lodger) talk() error {
	words := bufio.NewReader(l.conn)
	pace := time.NewTicker(10 * time.Millisecond)
	defer pace.Stop()
	first := ""
	for ; !l.leaving.Load(); <-pace.C {
		if err := l.conn.SetDeadline(time.Now().Add(rig.Patience)); err != nil {
			return err
		}
		if _, err := fmt.Fprintln(l.conn, "and you?"); err != nil {
			return err
		}
		word, err := words.ReadString('\n')
		if err != nil {
			return err
		}
		if l.answers++; l.answers == 1 {
			first = word
			close(l.served)
		}
		if word != first {
			return fmt.Errorf("answer %d is %q, the first was %q", l.answers, word, first)
		}
	}
	return nil
}

// leave ends the talk, and says how many answers there were and what went wrong.
func (l *lodger) leave() (int, error) {
	l.leaving.Store(true)
	err := <-l.left
	return l.answers, err
}

// A service that breaks five seconds after its refresh is back on the old revision with its
// old data, who asks the one next to it has noticed nothing, and the timeline tells the
// story.
func TestTimelineTellsOfABrokenRefresh(t *testing.T) {
	t.Parallel()
	i := rig.New(t, rig.Config{Observe: true})
	trace := listen(t, i)
	version := func(version, one string) string {
		return probeSnap(t, i, probeYAML(version, "one:\n\tdaemon: notify\n\tcommand: "+one+"\n\trestart-condition: never\n",
			"two:\n\tdaemon: notify\n\tcommand: PROBE serve notify:READY:1 run\n\trefresh-mode: endure\n"+
				"\tsockets:\n\t\tdoor:\n\t\t\tlisten-stream: $SNAP_COMMON/two.sock\n",
			"three:\n\tdaemon: notify\n\tcommand: PROBE converse notify:READY:1 run\n\trefresh-mode: endure\n"+
				"\tsockets:\n\t\tdoor:\n\t\t\tlisten-stream: $SNAP_COMMON/three.sock\n"))
	}
	i.Tenure("install", "--dangerous", version("1", steadyService))
	trace.expect("one", "up")
	mark := i.Path("var/snap/probe/x1/mark")
	write(t, mark, oneMark)
	p := startPatrons(t, i.Common("probe")+"/two.sock")
	p.asked()
	l := startLodger(t, i.Common("probe")+"/three.sock")
	endures := i.Main("probe.two")
	const breaks = 5 * time.Second
	// A machine that is busy may see the end of it all here.
	i.Try("refresh", "--dangerous", version("2", "PROBE report:up notify:READY:1 wait:"+breaks.String()+" exit:7"))
	trace.expect("one", "up")
	before := p.asked()
	if watched := i.Try("watch", "2"); watched.Status == 0 || !strings.Contains(watched.Stderr, "exit status 7") {
		t.Errorf("watch: status %d, it says %s", watched.Status, watched.Stderr)
	}
	if content, err := os.ReadFile(mark); err != nil || string(content) != oneMark {
		t.Errorf("the data is %q, %v", content, err)
	}
	if unit := i.Units()["probe.one"]; unit.Revision != "x1" || unit.State != "running" {
		t.Errorf("the service is on %s and %s", unit.Revision, unit.State)
	}
	if after := p.asked(); after <= before+1 || i.Main("probe.two") != endures {
		t.Errorf("%d answers before the failure, %d after, of %v and %v", before, after, endures, i.Main("probe.two"))
	}
	p.mu.Lock()
	if len(p.failed) > 0 || len(p.answers) != 1 {
		t.Errorf("who asked was answered %v, with %v", p.answers, errors.Join(p.failed...))
	}
	p.mu.Unlock()
	if answers, err := l.leave(); err != nil || answers < 2 {
		t.Errorf("who was connected all the time had %d answers, and then %v", answers, err)
	}

	units, changes := history(t, i)
	wantWords(t, "bars of probe.one", bars(units["probe.one"]), []string{"x1 killed by SIGTERM by request 2", "x2 exit status 7 by exit", "x1 lives"})
	if bar := units["probe.one"].Bars[1]; bar.To.Sub(bar.From) < breaks {
		t.Errorf("it broke %s after its start, not %s", bar.To.Sub(bar.From), breaks)
	}
	wantWords(t, "signals to probe.one", signals(units["probe.one"]), []string{"SIGTERM, request, refresh, 2, restart, default for services on refresh"})
	wantWords(t, "bars of probe.two", bars(units["probe.two"]), []string{"x1 lives"})
	wantWords(t, "bars of probe.three", bars(units["probe.three"]), []string{"x1 lives"})
	if events := append(units["probe.two"].Events, units["probe.three"].Events...); len(events) > 0 {
		t.Errorf("what endures has %+v", events)
	}
	var verdicts []string
	for _, v := range changes["2"].Verdicts {
		verdicts = append(verdicts, v.Unit+" "+v.Verdict+" by "+v.Rule.Name)
	}
	wantWords(t, "verdicts", verdicts, []string{"probe.one restart by default for services on refresh", "probe.three endure by apps.three.refresh-mode", "probe.two endure by apps.two.refresh-mode"})
	if c := changes["2"]; c.Status != "Error" || !strings.Contains(c.Err, "exit status 7") {
		t.Errorf("change 2 is %s: %s", c.Status, c.Err)
	}
	wantStory(t, i.Tenure("timeline", "probe"),
		`^probe\.one +\S`, `^probe\.three +\S`, `^probe\.two +\S`,
		`change 2 begins: Refresh`, `probe\.one \(x1\): restart, by default for services on refresh`, `probe\.two \(x1\): endure, by apps\.two\.refresh-mode \(package: `,
		`SIGTERM to probe\.one \(process \d+\), because of refresh, for change 2$`, `restart, by default for services on refresh`,
		`probe\.one ends: killed by SIGTERM, after .* on x1, for change 2$`, `probe\.one begins on x2 \(process \d+\), for change 2, ready after `,
		`probe\.one ends: exit status 7, by itself, after \S+ on x2$`, `probe\.one begins on x1 \(process \d+\), for change 2`, `change 2 ends: Error$`)
	image := filepath.Join(t.TempDir(), "probe.svg")
	i.Tenure("timeline", "--svg="+image, "probe")
	if words := svgWords(t, image); !strings.Contains(words, "exit status 7") || !strings.Contains(words, "SIGTERM to probe.one") {
		t.Errorf("the image says %q", words)
	}
}

// wantStory finds lines that match, each after the one before.
func wantStory(t *testing.T, story string, patterns ...string) {
	t.Helper()
	lines := strings.Split(story, "\n")
	for _, pattern := range patterns {
		re := regexp.MustCompile(pattern)
		at := slices.IndexFunc(lines, re.MatchString)
		if at < 0 {
			t.Errorf("the story does not go on with %s:\n%s", pattern, story)
			return
		}
		lines = lines[at+1:]
	}
}

// svgWords are the texts of an image, which must be well-formed.
func svgWords(t *testing.T, path string) string {
	t.Helper()
	file, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	var words strings.Builder
	for decoder := xml.NewDecoder(file); ; {
		token, err := decoder.Token()
		if errors.Is(err, io.EOF) {
			return words.String()
		}
		if err != nil {
			t.Fatal(err)
		}
		if text, ok := token.(xml.CharData); ok {
			words.Write(text)
		}
	}
}

// Every signal is in the timeline with what it was by, whichever way it was sent, and
// whatever happens to the daemon: a stop that must kill, a hook that hangs, a watchdog,
// a stray, a workload, and the death of the daemon with the order already given.
func TestTimelineHasEverySignal(t *testing.T) {
	t.Parallel()
	i := rig.New(t, rig.Config{})
	trace := listen(t, i)
	i.Tenure("install", "--dangerous", probeSnap(t, i, probeYAML("1",
		"deaf:\n\tdaemon: notify\n\tcommand: PROBE ignore:SIGTERM report:up notify:READY:1 run\n\tstop-timeout: 100ms\n",
		"slow:\n\tdaemon: notify\n\tcommand: PROBE report:up notify:READY:1 run\n\tstop-timeout: 200ms\n\tstop-command: PROBE ignore:SIGTERM report:stopping run\n",
		"mute:\n\tdaemon: notify\n\tcommand: PROBE ignore:SIGABRT report:up notify:READY:1 run\n\tstop-timeout: 200ms\n\twatchdog-timeout: 300ms\n\trestart-condition: never\n",
	)))
	for _, name := range []string{"deaf", "slow", "mute"} {
		trace.expect(name, "up")
	}
	trace.expect("mute", "heard SIGABRT")
	units, _ := history(t, i)
	main := units["probe.mute"].Bars[0].Main
	if err := rig.Gone(t.Context(), tenure.Process{PID: main.PID, Start: main.Start}); err != nil {
		t.Fatal(err)
	}
	i.Tenure("stop", "probe.deaf")
	slow := i.Main("probe.slow")
	result := make(chan rig.Result, 1)
	go func() { result <- i.Try("stop", "probe.slow") }()
	trace.expect("slow", "stopping")
	i.Kill()
	i.Start()
	<-result
	if err := rig.Gone(t.Context(), slow); err != nil {
		t.Fatal(err)
	}
	i.Tenure("watch", "3")
	units, _ = history(t, i)
	wantWords(t, "signals to probe.mute", signals(units["probe.mute"]), []string{
		"SIGABRT, watchdog, apps.mute.watchdog-timeout", "SIGKILL, late, watchdog, apps.mute.watchdog-timeout",
	})
	wantWords(t, "signals to probe.deaf", signals(units["probe.deaf"]), []string{
		"SIGTERM, request, stop, 2, stop, named in the request", "SIGKILL, late, request, stop, 2, stop, named in the request",
	})
	wantWords(t, "signals to probe.slow", signals(units["probe.slow"]), []string{
		"SIGKILL, late, stop, request, stop, 3, stop, named in the request", "SIGTERM, request, stop, 3, stop, named in the request",
	})
	wantWords(t, "bars of probe.deaf", bars(units["probe.deaf"]), []string{"x1 killed by SIGKILL by request 2"})
	// The machine ends, and nothing is said of what it was before.
	trace.expect("deaf", "heard SIGTERM")
	i.Tenure("start", "probe.deaf")
	trace.expect("deaf", "up")
	reboot(t, i)
	units, _ = history(t, i)
	if got := signals(units["probe.deaf"]); len(got) < 4 || got[2] != "SIGTERM, request, shutdown, stop, default for units on shutdown" {
		t.Errorf("signals over the end of the machine: %q", got)
	}
}
