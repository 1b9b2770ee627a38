package test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"tenure/test/rig"
)

// A timer goes off without anybody's doing, and waits for its next time. No timer is
// finer than a minute, and within it this one goes off at random: of so many services
// one is due in a moment.
func TestTimersGoOff(t *testing.T) {
	t.Parallel()
	const services = 40
	i := rig.New(t, rig.Config{})
	trace := listen(t, i)
	var blocks []string
	for n := range services {
		blocks = append(blocks, fmt.Sprintf("\nclock%d:\n\tdaemon: oneshot\n\tcommand: PROBE report:struck\n\ttimer: 00:00~24:00/1440", n))
	}
	i.Tenure("install", "--dangerous", probeSnap(t, i, probeYAML("1", blocks...)))
	begun := time.Now()
	name := trace.first("struck")
	t.Logf("%s went off after %s", name, time.Since(begun))
	if s := service(t, i, name); !s.Enabled || !slices.Contains(s.Notes, "timer-activated") {
		t.Errorf("service %+v, want one that a timer starts", s)
	}
	i.Tenure("stop", "--disable", "probe")
	if list := i.Tenure("services", "probe"); strings.Contains(list, "enabled") {
		t.Errorf("services are enabled after stop --disable:\n%s", list)
	}
}

// first is the name of the probe that is the first to report something.
func (r *trace) first(report string) string {
	r.t.Helper()
	// A minute that has just begun may be over first.
	patience := time.NewTimer(time.Minute + rig.Patience)
	defer patience.Stop()
	for {
		for _, line := range r.reports() {
			if name, rest, _ := strings.Cut(line, " "); rest == report {
				return name
			}
		}
		select {
		case <-r.more:
		case <-patience.C:
			r.t.Fatalf("nobody reports %q", report)
		}
	}
}
