package refresh

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"tenure"
	"tenure/internal/proc"
	"tenure/internal/supervise"
)

// told is a history in which something happens every second.
type told struct {
	b  *timelineBuilder
	at time.Time
}

func (h *told) add(unit tenure.UnitID, rev int, one Happening) {
	h.at = h.at.Add(time.Second)
	one.Time, one.Unit, one.Snap = h.at, unit, unit.Snap
	if rev > 0 {
		one.Revision = tenure.LocalRevision(rev)
	}
	h.b.add(one)
}

func (h *told) state(unit tenure.UnitID, rev int, states ...supervise.State) {
	for _, state := range states {
		h.add(unit, rev, Happening{Kind: string(supervise.EventState), State: state})
	}
}

func (h *told) ended(unit tenure.UnitID, rev int, exit proc.Exit) {
	h.add(unit, rev, Happening{Kind: string(supervise.EventEnded), Exit: &exit, Cause: supervise.CauseExit})
}

func (h *told) began(boot string) { h.add(tenure.UnitID{}, 0, Happening{Kind: kindBegan, Boot: boot}) }

// words are the lines as text: for each bar the revision, the seconds at which it began
// and ended, and how.
func (h *told) words(statuses map[tenure.UnitID]supervise.Status) string {
	var out strings.Builder
	h.b.meet(h.at.Add(time.Second), statuses, "")
	for _, line := range h.b.lines(time.Time{}) {
		fmt.Fprintf(&out, "%s:", line.Unit)
		for _, bar := range line.Bars {
			to := "now"
			if !bar.To.IsZero() {
				to = fmt.Sprint(bar.To.Unix())
			}
			fmt.Fprintf(&out, " %s[%d %s", bar.Revision, bar.From.Unix(), to)
			switch {
			case bar.Unseen:
				out.WriteString(" unseen")
			case bar.Reloaded:
				out.WriteString(" reloaded")
			case !bar.Became.IsZero():
				out.WriteString(" became " + bar.Became.String())
			case bar.Exit != nil:
				out.WriteString(" " + bar.Exit.String())
			}
			out.WriteString("]")
		}
		out.WriteString("\n")
	}
	return out.String()
}

func alive(rev int) supervise.Status {
	return supervise.Status{State: supervise.Running, Revision: tenure.LocalRevision(rev), Started: time.Unix(1, 0)}
}

func TestTimelineBars(t *testing.T) {
	t.Parallel()
	web, other := tenure.ServiceUnit("web", "web"), tenure.ServiceUnit("web", "other")
	successor, draining := web.Workload(tenure.Successor, 2), web.Workload(tenure.Draining, 7)
	vm := web.Workload("vm", 9)
	for name, test := range map[string]struct {
		happens func(h *told)
		lives   map[tenure.UnitID]supervise.Status
		want    string
	}{
		"a restart": {func(h *told) {
			h.state(web, 1, supervise.Starting, supervise.Running)
			h.ended(web, 1, proc.Exit{Known: true, Code: 3})
			h.state(web, 1, supervise.Backoff, supervise.Starting, supervise.Running)
		}, map[tenure.UnitID]supervise.Status{web: alive(1)}, "web.web: x1[1 3 exit status 3] x1[5 now]\n"},
		"a hand-over": {func(h *told) {
			h.state(web, 1, supervise.Starting, supervise.Running)
			h.state(successor, 2, supervise.Starting, supervise.Running)
			h.add(draining, 1, Happening{Kind: string(supervise.EventSplit), Parent: web})
			h.add(web, 2, Happening{Kind: string(supervise.EventMain), Parent: successor})
			h.ended(draining, 1, proc.Exit{Known: true})
		}, map[tenure.UnitID]supervise.Status{web: alive(2)}, "web.web: x1[1 5 became web.web/draining.7] x2[6 now]\n" +
			"web.web/draining.7: x1[5 7 exit status 0]\nweb.web/successor.2: x2[3 6 became web.web]\n"},
		"a reload": {func(h *told) {
			h.state(web, 1, supervise.Starting, supervise.Running)
			h.add(web, 2, Happening{Kind: string(supervise.EventSignal), Signal: "SIGHUP"})
		}, map[tenure.UnitID]supervise.Status{web: alive(2)}, "web.web: x1[1 3 reloaded] x2[3 now]\n"},
		"a workload that lives on": {func(h *told) {
			h.state(web, 1, supervise.Starting, supervise.Running)
			h.add(vm, 1, Happening{Kind: string(supervise.EventSplit), Parent: web})
			h.ended(web, 1, proc.Exit{Known: true})
			h.state(web, 2, supervise.Starting)
		}, map[tenure.UnitID]supervise.Status{web: alive(2), vm: alive(1)}, "web.web: x1[1 4 exit status 0] x2[5 now]\nweb.web/vm.9: x1[3 now]\n"},
		"a workload that is started": {func(h *told) {
			h.add(vm, 1, Happening{Kind: string(supervise.EventSplit), Parent: web, State: supervise.Starting})
			h.state(vm, 1, supervise.Starting, supervise.Running)
			h.ended(vm, 1, proc.Exit{Known: true})
			h.state(vm, 1, supervise.Starting)
			h.add(vm, 1, Happening{Kind: string(supervise.EventSplit), Parent: web, State: supervise.Running})
		}, map[tenure.UnitID]supervise.Status{vm: alive(1)}, "web.web/vm.9: x1[1 4 exit status 0] x1[5 now]\n"},
		"the daemon dies": {func(h *told) {
			h.began("boot")
			h.state(web, 1, supervise.Starting, supervise.Running)
			h.began("boot")
		}, map[tenure.UnitID]supervise.Status{web: alive(1)}, "web.web: x1[2 now]\n"},
		"the machine dies": {func(h *told) {
			h.began("boot")
			h.state(web, 1, supervise.Starting, supervise.Running)
			h.state(other, 1, supervise.Starting)
			h.began("another boot")
			h.state(web, 1, supervise.Starting)
		}, map[tenure.UnitID]supervise.Status{web: alive(1)}, "web.other: x1[4 4 unseen]\nweb.web: x1[2 4 unseen] x1[6 now]\n"},
		"what is older than the history": {func(h *told) {
			h.state(other, 1, supervise.Starting)
		}, map[tenure.UnitID]supervise.Status{web: alive(1), other: alive(1)}, "web.other: x1[1 now]\nweb.web: x1[1 now]\n"},
		"what has gone without a word": {func(h *told) {
			h.state(web, 1, supervise.Starting)
		}, nil, "web.web: x1[1 2 unseen]\n"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := &told{b: newTimelineBuilder(), at: time.Unix(0, 0)}
			test.happens(h)
			if diff := cmp.Diff(test.want, h.words(test.lives)); diff != "" {
				t.Errorf("lines (-want +got):\n%s", diff)
			}
		})
	}
}

// What a unit can say as often as it likes does not fill the history.
func TestChatterIsBounded(t *testing.T) {
	t.Parallel()
	var c chatter
	unit, kept := tenure.ServiceUnit("web", "web"), 0
	count := func(e supervise.Event) {
		e.Unit = unit
		if c.counts(e) {
			kept++
		}
	}
	count(supervise.Event{Kind: supervise.EventState, State: supervise.Starting})
	for range 1000 {
		count(supervise.Event{Kind: supervise.EventState, State: supervise.Running})
		count(supervise.Event{Kind: supervise.EventState, State: supervise.Reloading})
		count(supervise.Event{Kind: supervise.EventMain})
	}
	if kept != 1+1+maxMains {
		t.Errorf("%d events are kept", kept)
	}
	count(supervise.Event{Kind: supervise.EventSignal})
	count(supervise.Event{Kind: supervise.EventEnded})
	count(supervise.Event{Kind: supervise.EventState, State: supervise.Starting})
	count(supervise.Event{Kind: supervise.EventState, State: supervise.Running})
	if kept != 1+1+maxMains+4 {
		t.Errorf("%d events are kept", kept)
	}
}
