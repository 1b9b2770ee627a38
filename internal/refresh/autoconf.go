package refresh

import (
	"encoding/json"
	"fmt"
	"maps"
	"strconv"
	"time"

	"tenure/internal/schedule"
)

// The options of the system about automatic refreshes.
const (
	// optionTimer is when automatic refreshes may begin.
	optionTimer = "refresh.timer"
	// optionHold holds all automatic refreshes until a time, or "forever".
	optionHold = "refresh.hold"
	// optionAge is how old a release has to be before it is refreshed to by itself.
	optionAge = "refresh.minimum-age"
	// optionInhibition is how long an automatic refresh waits for people at most.
	optionInhibition = "refresh.max-inhibition-days"
)

// The bounds of refresh.max-inhibition-days, and what holds where it is not set.
const minInhibition, maxInhibition, defaultInhibition = 1, 21, 14

// defaultTimer is refresh.timer where it is not set: four times a day, at random.
const defaultTimer = "00:00~24:00/4"

// forever is the value of a hold without an end.
const forever = "forever"

// withAuto adds the options about automatic refreshes to others.
func withAuto(others map[string]optionKind) map[string]optionKind {
	maps.Copy(others, map[string]optionKind{
		optionTimer:      {checkTimer, "its default holds: " + defaultTimer},
		optionHold:       {checkHold, "nothing is held"},
		optionAge:        {checkLimit, "releases may be new"},
		optionInhibition: {checkInhibition, fmt.Sprintf("its default holds: %d", defaultInhibition)},
	})
	return others
}

func checkTimer(text string) (any, error) {
	if _, err := schedule.ParseTimer(text); err != nil {
		return nil, err
	}
	return text, nil
}

func checkHold(text string) (any, error) {
	if text == forever {
		return text, nil
	}
	if _, err := time.Parse(time.RFC3339, text); err != nil {
		return nil, fmt.Errorf("hold must be %q or a time like 2030-01-02T15:04:05Z, not %q", forever, text)
	}
	return text, nil
}

func checkInhibition(text string) (any, error) {
	n, err := strconv.Atoi(text)
	if err != nil || n < minInhibition || n > maxInhibition {
		return nil, fmt.Errorf("max-inhibition-days must be a number between %d and %d, not %q", minInhibition, maxInhibition, text)
	}
	return n, nil
}

// text is an option that is one; empty where it is not set.
func (m *Manager) text(key string) string {
	raw, found, err := m.settings.Get(key)
	var text string
	if err != nil || !found || json.Unmarshal(raw, &text) != nil {
		return ""
	}
	return text
}

// timer is refresh.timer.
func (m *Manager) timer() schedule.Timer {
	for _, text := range []string{m.text(optionTimer), defaultTimer} {
		if timer, err := schedule.ParseTimer(text); text != "" && err == nil {
			return timer
		}
	}
	return schedule.Timer{}
}

// holdOfAll is refresh.hold, if it is set and has not passed.
func (m *Manager) holdOfAll(now time.Time) (schedule.Hold, bool) {
	text := m.text(optionHold)
	if text == "" {
		return schedule.Hold{}, false
	}
	hold := schedule.Hold{By: "all automatic refreshes are held (" + optionHold + ")"}
	if until, err := time.Parse(time.RFC3339, text); err == nil {
		hold.Until = until
	}
	return hold, hold.Until.IsZero() || hold.Until.After(now)
}

// inhibition is refresh.max-inhibition-days.
func (m *Manager) inhibition() time.Duration {
	const day = 24 * time.Hour
	raw, found, err := m.settings.Get(optionInhibition)
	n := 0
	if err != nil || !found || json.Unmarshal(raw, &n) != nil {
		n = defaultInhibition
	}
	return time.Duration(n) * day
}
