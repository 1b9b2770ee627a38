package systemd

import (
	"fmt"

	"tenure/internal/schedule"
	"tenure/internal/supervise"
)

// timerFile is the unit file of a timer.
func (h *host) timerFile(spec *supervise.Spec, c schedule.Calendar) string {
	settings := make([]setting, 0, len(c.Events)+2)
	for _, event := range c.Events {
		settings = append(settings, setting{"OnCalendar", event})
	}
	settings = append(settings, setting{"AccuracySec", "1us"})
	if c.Delay > 0 {
		settings = append(settings, setting{"RandomizedDelaySec", span(c.Delay, 0)})
	}
	return render(
		section{"Unit", []setting{{"Description", percents(fmt.Sprintf("Timer of %s (%s)", spec.Unit, spec.Timer))}}},
		section{"Timer", settings},
		section{"Install", []setting{{"WantedBy", timersTarget}}},
	)
}

// wind has systemd watch the timer of a service, and no other one for it. It reports false for a timer
// that systemd has no words for.
func (h *host) wind(spec *supervise.Spec) (bool, error) {
	timer, err := schedule.ParseTimer(spec.Timer)
	if err != nil {
		return false, err
	}
	stem, id := h.names.stem(spec.Unit), hashed(clockMark, spec.Timer)
	calendar, ok := timer.Calendar()
	for _, other := range h.files.doors(stem, clockMark) {
		if !ok || other != stem+"."+id {
			h.Disarm(spec.Unit)
			break
		}
	}
	if !ok {
		return false, nil
	}
	name := stem + "." + id + timerUnit
	if err := h.Closed(h.life, spec.Unit); err != nil {
		return false, err
	}
	alias := stem + timerUnit
	err = h.writeDoor(h.life, &door{
		name: name, alias: alias, target: timersTarget,
		text: h.timerFile(spec, calendar), teller: h.tellerFile(spec.Unit, verbStrike),
	})
	if err != nil {
		return false, err
	}
	// It is not waited for: when the machine boots a timer waits until the clock is set.
	if _, err = h.bus.begin(name, startPlain(h.life, name, "replace")); err != nil {
		return false, err
	}
	return true, h.nameDoor(alias, name)
}
