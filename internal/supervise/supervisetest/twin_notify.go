package supervisetest

import (
	"strconv"
	"strings"
	"time"

	"tenure"
	"tenure/internal/supervise"
)

// say is what a process tells the supervisor of its unit, each text a datagram.
func (p *process) say(all ...string) {
	for _, text := range all {
		for words := range strings.Lines(text) {
			name, value, _ := strings.Cut(strings.ReplaceAll(strings.TrimSpace(words), childWord, strconv.Itoa(p.child)), "=")
			p.notify(func(u *twinUnit) { u.said(name, value) })
		}
	}
}

// said is one word of sd_notify(3).
func (u *twinUnit) said(name, value string) {
	switch name {
	case "READY":
		u.saidReady()
	case "STATUS":
		u.status.Text = value
	case "STOPPING":
		u.saidStopping()
	case "MAINPID":
		u.saidMain(value)
	case "EXTEND_TIMEOUT_USEC":
		u.extend(microseconds(value))
	case "FDSTOREREMOVE": // Its name is on the line before.
	case "FDNAME":
		u.drop(value)
	case "WATCHDOG_USEC":
		u.every = microseconds(value)
	case "WATCHDOG":
		if value == "trigger" {
			u.missed()
		} else {
			u.feed()
		}
	}
}

func microseconds(value string) time.Duration {
	n, _ := strconv.Atoi(value)
	return time.Duration(n) * time.Microsecond
}

// saidStopping is told when the unit ends of its own accord.
func (u *twinUnit) saidStopping() {
	if u.status.State != supervise.Running && u.status.State != supervise.Reloading {
		return
	}
	u.disarm()
	u.ending = &twinEnding{signals: true, signalled: map[*process]bool{}}
	u.waitGrace()
	u.state(supervise.Stopping)
}

// saidMain is told which process of the unit is the main one now.
func (u *twinUnit) saidMain(value string) {
	pid, _ := strconv.Atoi(value)
	p := u.t.processes[pid]
	if p == nil || p.unit != u || p == u.main {
		return
	}
	u.setMain(p)
	u.tellMain()
}

// tellMain says that another process is the main one.
func (u *twinUnit) tellMain() {
	u.t.send(supervise.Event{
		Kind: supervise.EventMain, Unit: u.status.Unit, Revision: u.status.Revision, Processes: []tenure.Process{u.status.Main},
	})
}

// extend moves the end of a start or of a stop.
func (u *twinUnit) extend(by time.Duration) {
	if u.due == nil || u.status.State != supervise.Starting && u.status.State != supervise.Stopping {
		return
	}
	if u.ending != nil {
		u.ending.extended = true
	}
	if e := u.ending; e != nil && e.Limit > 0 {
		by = min(by, e.Limit-time.Since(e.told))
	}
	due := u.due
	u.disarm()
	u.clock(by, due)
}

// drop forgets the descriptors that are stored under a name.
func (u *twinUnit) drop(name string) {
	var rest []string
	for _, stored := range u.stored {
		if stored != name {
			rest = append(rest, stored)
		}
	}
	u.stored = rest
}

// feed starts the time until the next sign of life anew.
func (u *twinUnit) feed() {
	u.muzzle()
	every := u.spec().Watchdog
	if every > 0 && u.every > 0 {
		every = u.every
	}
	if every > 0 && u.ready && u.ending == nil {
		u.watchdog = u.t.after(every, u.missed)
	}
}

func (u *twinUnit) muzzle() {
	if u.watchdog != nil {
		u.watchdog()
		u.watchdog = nil
	}
}

// missed is told when there was no sign of life in time.
func (u *twinUnit) missed() {
	if u.status.State == supervise.Running || u.status.State == supervise.Reloading {
		u.end(twinEnding{silent: true})
	}
}
