package refresh

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"tenure"
	"tenure/internal/change"
	"tenure/internal/journal"
	"tenure/internal/revision"
)

// System is the name under which people find the options of the system itself.
const System = "system"

// optionRetain is how many revisions of a snap are kept to be reverted to.
const optionRetain = "refresh.retain"

// The bounds of refresh.retain, which are snapd's.
const minRetain, maxRetain = 2, 20

// options are all options of the system, by their dotted names.
func options() []string { return []string{optionRetain} }

// Conf are options of a snap: those named by keys, each by its dotted name, or all as
// one document. An option that is not set has no value.
func (m *Manager) Conf(snap string, keys []string) (map[string]any, error) {
	if snap != System {
		return nil, m.noConf("read the configuration of", snap)
	}
	set, err := m.settings.All()
	if err != nil {
		return nil, fmt.Errorf("read the configuration: %w", err)
	}
	document := map[string]any{}
	for key, value := range set {
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
	if slices.Contains(options(), key) {
		failed.Err = errors.New("it is not set")
		failed.Hint = fmt.Sprintf("its default holds: %d", revision.DefaultRetain)
	}
	return failed
}

func (m *Manager) noConf(op, snap string) error {
	name, err := tenure.ParseInstance(snap)
	if err == nil {
		_, err = m.installedSnap(op, name)
	}
	if err != nil {
		return err
	}
	return &Error{
		Kind: KindBad, Op: op, Object: snap,
		Err: fmt.Errorf("only %q can be configured yet", System),
	}
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
	if snap != System {
		return 0, m.noConf("configure", snap)
	}
	if len(patch) == 0 {
		return 0, &Error{Kind: KindBad, Op: "configure", Object: snap, Err: errors.New("no option was named")}
	}
	params := configureParams{Before: map[string]*int{}, Values: map[string]*int{}}
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

// option checks the value of one option; nil is that it is to be unset.
func option(key string, raw json.RawMessage) (*int, error) {
	if !slices.Contains(options(), key) {
		return nil, fmt.Errorf("unsupported system option; there are: %s", strings.Join(options(), ", "))
	}
	text := strings.TrimSpace(string(raw))
	if text == "null" {
		return nil, nil //nolint:nilnil // That is what null means.
	}
	var quoted string
	if err := json.Unmarshal(raw, &quoted); err == nil {
		text = quoted
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < minRetain || n > maxRetain {
		return nil, fmt.Errorf("retain must be a number between %d and %d, not %q", minRetain, maxRetain, text)
	}
	return &n, nil
}

// setting is the value of one option; nil is that it is not set.
func (m *Manager) setting(key string) (*int, error) {
	value, found, err := m.settings.Get(key)
	if err != nil {
		return nil, fmt.Errorf("read the configuration: %w", err)
	}
	if !found {
		return nil, nil //nolint:nilnil // That it is not set is no error.
	}
	return &value, nil
}

// configureStep makes options durable. They hold from the next time that they are
// looked at.
type configureStep struct{ m *Manager }

// configureParams are values of options; nil is none.
type configureParams struct {
	Before map[string]*int `json:"before"`
	Values map[string]*int `json:"values"`
}

func (s configureStep) Do(_ context.Context, p configureParams) (nothing, error) {
	for key, value := range p.Values {
		now, err := s.m.setting(key)
		if err != nil {
			return nothing{}, err
		}
		if !sameSetting(now, p.Before[key]) && !sameSetting(now, value) {
			return nothing{}, fmt.Errorf("configure: somebody else has changed %s meanwhile; try again", key)
		}
	}
	return nothing{}, s.m.putSettings(p.Values)
}

func (s configureStep) Undo(_ context.Context, p configureParams, _ nothing) error {
	return s.m.putSettings(p.Before)
}

func sameSetting(a, b *int) bool {
	return a == nil && b == nil || a != nil && b != nil && *a == *b
}

// putSettings makes all of values durable, or none.
func (m *Manager) putSettings(values map[string]*int) error {
	err := m.cfg.Journal.Update(func(tx *journal.Tx) error {
		settings := m.settings.In(tx)
		for key, value := range values {
			var err error
			if value == nil {
				err = settings.Delete(key)
			} else {
				err = settings.Put(key, *value)
			}
			if err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("configure: %w", err)
	}
	return nil
}
