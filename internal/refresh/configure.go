package refresh

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"tenure"
	"tenure/internal/change"
	"tenure/internal/hook"
	"tenure/internal/journal"
	"tenure/internal/policy"
	"tenure/internal/revision"
	"tenure/internal/snapfile"
)

// System is the name under which people find the options of the system itself.
const System = "system"

// The options of the system.
const (
	// optionRetain is how many revisions of a snap are kept to be reverted to.
	optionRetain = "refresh.retain"
	// optionStopTimeout is the longest grace period that any stop is given.
	optionStopTimeout = "lifecycle.max-stop-timeout"
	// optionDeferral is how long the packages may make a change wait.
	optionDeferral = "lifecycle.max-deferral"
	// optionObserve is for how long services are observed after a refresh, whatever
	// their packages say.
	optionObserve = "refresh.observe"
)

// The bounds of refresh.retain, which are snapd's.
const minRetain, maxRetain = 2, 20

// optionKind says what an option is.
type optionKind struct {
	// check gives what is stored for the text of a value.
	check func(text string) (any, error)
	// unset says what holds where it is not set.
	unset string
}

// options are all options of the system, by their dotted names.
func options() map[string]optionKind {
	return withAuto(map[string]optionKind{
		optionRetain:      {checkRetain, fmt.Sprintf("its default holds: %d", revision.DefaultRetain)},
		optionStopTimeout: {checkLimit, "there is no limit"},
		optionDeferral:    {checkLimit, "there is no limit"},
		optionEndure:      {checkLimit, "there is no limit"},
		optionEndured:     {checkEndured, "its default holds: " + string(policy.OverdueWarn)},
		optionRetention:   {checkRetention, "its default holds: 31d"},
		optionEvacuate:    {checkLimit, fmt.Sprintf("its default holds: %s", hook.Evacuate.Timeout())},
		optionObserve: {
			checkObserve, fmt.Sprintf("what packages say holds, and %s for those that say nothing", snapfile.DefaultObserve),
		},
	})
}

func optionNames() []string { return slices.Sorted(maps.Keys(options())) }

func checkRetain(text string) (any, error) {
	n, err := strconv.Atoi(text)
	if err != nil || n < minRetain || n > maxRetain {
		return nil, fmt.Errorf("retain must be a number between %d and %d, not %q", minRetain, maxRetain, text)
	}
	return n, nil
}

// maxObserve is the longest time that services may be observed for.
const maxObserve = 24 * time.Hour

func checkObserve(text string) (any, error) {
	window, err := time.ParseDuration(text)
	if err != nil || window < 0 || window > maxObserve {
		return nil, fmt.Errorf("observe must be a time between 0s and %s, not %q", maxObserve, text)
	}
	return text, nil
}

func checkLimit(text string) (any, error) {
	if _, err := parseLimit(text); err != nil {
		return nil, err
	}
	return text, nil
}

// parseLimit reads a duration as Go writes it, or a whole number of days: "90s", "1h30m", "7d".
func parseLimit(text string) (time.Duration, error) {
	const day, most = 24 * time.Hour, 3650
	limit, err := time.ParseDuration(text)
	if days, isDays := strings.CutSuffix(text, "d"); isDays {
		var n int
		n, err = strconv.Atoi(days)
		limit = time.Duration(min(n, most+1)) * day
	}
	if err != nil || limit <= 0 || limit > most*day {
		return 0, fmt.Errorf("a limit must be a time like 90s, 1h30m or 7d, not %q", text)
	}
	return limit, nil
}

// limits are what caps what packages and rules ask for.
func (m *Manager) limits() policy.Limits {
	return policy.Limits{
		MaxStopTimeout: m.limit(optionStopTimeout), MaxDeferral: m.limit(optionDeferral),
		MaxEvacuation: m.maxEvacuation(), MaxInhibition: m.inhibition(), MaxEndure: m.limit(optionEndure), EndEndured: m.endsEndured(),
	}
}

// limit is an option that is a time; 0 is that there is none.
func (m *Manager) limit(key string) time.Duration {
	raw, found, err := m.settings.Get(key)
	var text string
	if err != nil || !found || json.Unmarshal(raw, &text) != nil {
		return 0
	}
	limit, err := parseLimit(text)
	if err != nil {
		return 0
	}
	return limit
}

// retain is refresh.retain.
func (m *Manager) retain() int {
	raw, found, err := m.settings.Get(optionRetain)
	n := 0
	if err != nil || !found || json.Unmarshal(raw, &n) != nil {
		return revision.DefaultRetain
	}
	return n
}

// Conf are options of a snap: those named by keys, each by its dotted name, or all as
// one document. An option that is not set has no value.
func (m *Manager) Conf(snap string, keys []string) (map[string]any, error) {
	if snap != System {
		return m.snapConf(snap, keys)
	}
	set, err := m.settings.All()
	if err != nil {
		return nil, fmt.Errorf("read the configuration: %w", err)
	}
	document := map[string]any{}
	for key, raw := range set {
		var value any
		if err := json.Unmarshal(raw, &value); err != nil {
			return nil, fmt.Errorf("read the configuration: %s: %w", key, err)
		}
		nest(document, strings.Split(key, "."), value)
	}
	if len(keys) == 0 {
		return document, nil
	}
	values := map[string]any{}
	for _, key := range keys {
		value, found := lookup(document, strings.Split(key, "."))
		if !found {
			return nil, noOption(key)
		}
		values[key] = value
	}
	return values, nil
}

func noOption(key string) error {
	failed := &Error{Kind: KindOption, Op: "get", Object: key, Err: fmt.Errorf("snap %q has no %q configuration option", System, key)}
	if kind, known := options()[key]; known {
		failed.Err, failed.Hint = errors.New("it is not set"), kind.unset
	}
	return failed
}

// nest puts value into nested documents.
func nest(document map[string]any, path []string, value any) {
	for ; len(path) > 1; path = path[1:] {
		inner, ok := document[path[0]].(map[string]any)
		if !ok {
			inner = map[string]any{}
			document[path[0]] = inner
		}
		document = inner
	}
	document[path[0]] = value
}

func lookup(document map[string]any, path []string) (value any, found bool) {
	value = document
	for _, name := range path {
		inner, ok := value.(map[string]any)
		if !ok {
			return nil, false
		}
		if value, found = inner[name]; !found {
			return nil, false
		}
	}
	return value, true
}

// Configure begins a change of options, by their dotted names; null unsets one. All
// of them are checked before any is changed.
func (m *Manager) Configure(ctx context.Context, snap string, patch map[string]json.RawMessage) (change.ID, error) {
	if len(patch) == 0 {
		return 0, &Error{Kind: KindBad, Op: "configure", Object: snap, Err: errors.New("no option was named")}
	}
	if snap != System {
		return m.configureSnap(ctx, snap, patch)
	}
	params := configureParams{Before: map[string]json.RawMessage{}, Values: map[string]json.RawMessage{}}
	for _, key := range slices.Sorted(maps.Keys(patch)) {
		value, err := option(key, patch[key])
		if err != nil {
			return 0, &Error{Kind: KindBad, Op: "set", Object: key, Err: err}
		}
		params.Values[key] = value
		if params.Before[key], err = m.setting(key); err != nil {
			return 0, err
		}
	}
	id, err := m.engine.Start(ctx, change.NewChange{
		Kind:    "configure-snap",
		Summary: fmt.Sprintf("Change configuration of %q snap", snap),
		Snaps:   []tenure.Instance{System},
		Tasks:   []change.TaskSpec{change.NewTask(taskConfigure, "Set "+strings.Join(slices.Sorted(maps.Keys(patch)), ", "), params)},
	})
	if err != nil {
		return 0, conflict("configure", snap, err)
	}
	return id, nil
}

// none is that an option is not set.
const none = "null"

func isNone(value json.RawMessage) bool { return len(value) == 0 || string(value) == none }

// option checks the value of one option, and gives what is stored.
func option(key string, raw json.RawMessage) (json.RawMessage, error) {
	kind, known := options()[key]
	if !known {
		return nil, fmt.Errorf("unsupported system option; there are: %s", strings.Join(optionNames(), ", "))
	}
	text := strings.TrimSpace(string(raw))
	if text == none {
		return json.RawMessage(none), nil
	}
	var quoted string
	if err := json.Unmarshal(raw, &quoted); err == nil {
		text = quoted
	}
	value, err := kind.check(text)
	if err != nil {
		return nil, err
	}
	return json.Marshal(value)
}

// setting is the value of one option, or null.
func (m *Manager) setting(key string) (json.RawMessage, error) {
	value, found, err := m.settings.Get(key)
	if err != nil {
		return nil, fmt.Errorf("read the configuration: %w", err)
	}
	if !found {
		return json.RawMessage(none), nil
	}
	return value, nil
}

// configureStep makes options durable. They hold from the next time that they are
// looked at.
type configureStep struct{ m *Manager }

// configureParams are values of options; null is none.
type configureParams struct {
	Before map[string]json.RawMessage `json:"before"`
	Values map[string]json.RawMessage `json:"values"`
}

func (s configureStep) Do(_ context.Context, p configureParams) (nothing, error) {
	for key, value := range p.Values {
		now, err := s.m.setting(key)
		if err != nil {
			return nothing{}, err
		}
		if !bytes.Equal(now, p.Before[key]) && !bytes.Equal(now, value) {
			return nothing{}, fmt.Errorf("configure: somebody else has changed %s meanwhile; try again", key)
		}
	}
	return nothing{}, s.m.putSettings(p.Values)
}

func (s configureStep) Undo(_ context.Context, p configureParams, _ nothing) error {
	return s.m.putSettings(p.Before)
}

// putSettings makes all of values durable, or none.
func (m *Manager) putSettings(values map[string]json.RawMessage) error {
	err := m.cfg.Journal.Update(func(tx *journal.Tx) error {
		settings := m.settings.In(tx)
		for key, value := range values {
			var err error
			if isNone(value) {
				err = settings.Delete(key)
			} else {
				err = settings.Put(key, value)
			}
			if err != nil {
				return err
			}
		}
		return nil
	})
	m.snapshots.made.raise() // They may be kept for another time.
	if err != nil {
		return fmt.Errorf("configure: %w", err)
	}
	return nil
}
