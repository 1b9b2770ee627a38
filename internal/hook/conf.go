package hook

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"tenure"
)

// Document is the configuration of a snap: JSON objects in one another. Values in
// it are never changed, only replaced.
type Document map[string]any

// Patch are values by their dotted names; nil unsets one.
type Patch map[string]any

// Then is p followed by later: what was set below a name that is set again is gone.
func (p Patch) Then(later Patch) Patch {
	merged := Patch{}
	for key, value := range p {
		if !later.covers(key) {
			merged[key] = value
		}
	}
	maps.Copy(merged, later)
	return merged
}

// covers reports whether p sets a name, or one above it.
func (p Patch) covers(key string) bool {
	for at, c := range key {
		if _, above := p[key[:at]]; c == '.' && above {
			return true
		}
	}
	_, same := p[key]
	return same
}

// ErrKey is that something cannot be the name of an option.
var ErrKey = errors.New("invalid option name")

// optionName reports whether name may be one between dots; the rule is snapd's: a-z, 0-9
// and single dashes between them, and a letter at least.
func optionName(name string) bool {
	letter := false
	for at, c := range name {
		switch {
		case c >= 'a' && c <= 'z':
			letter = true
		case c >= '0' && c <= '9':
		case c != '-', at == 0, at == len(name)-1, name[at-1] == '-':
			return false
		}
	}
	return letter && len(name) <= maxName
}

// SplitKey checks a dotted name and takes it apart.
func SplitKey(key string) ([]string, error) {
	if strings.Count(key, ".") >= maxDepth {
		return nil, fmt.Errorf("%w: more than %d names with dots between them", ErrKey, maxDepth)
	}
	names := strings.Split(key, ".")
	for _, name := range names {
		if !optionName(name) {
			return nil, fmt.Errorf("%w: %q", ErrKey, name)
		}
	}
	return names, nil
}

// Check refuses what cannot be set in any snap, and what would take too long to set.
func (p Patch) Check() error {
	if len(p) > maxKeys {
		return fmt.Errorf("more than %d options are set at a time", maxKeys)
	}
	for _, key := range slices.Sorted(maps.Keys(p)) {
		if _, err := SplitKey(key); err != nil {
			return err
		}
	}
	return nil
}

const (
	// maxName bounds a name between dots, maxDepth how many there are of them, maxKeys the
	// dotted names of a patch, and maxDocument the configuration of one snap.
	maxName     = 256
	maxDepth    = 64
	maxKeys     = 1024
	maxDocument = 1 << 20
)

// Get is the value of a dotted name, and whether there is one.
func (d Document) Get(key string) (value any, found bool, err error) {
	names, err := SplitKey(key)
	if err != nil {
		return nil, false, err
	}
	value = map[string]any(d)
	for at, name := range names {
		inner, ok := value.(map[string]any)
		if !ok {
			return nil, false, fmt.Errorf("option %q is not a map", strings.Join(names[:at], "."))
		}
		if value, found = inner[name]; !found {
			return nil, false, nil
		}
	}
	return value, true, nil
}

// With is d with the values of patch, shorter names first, so that what is set below
// a value is set in the new one.
func (d Document) With(snap tenure.Instance, patch Patch) (Document, error) {
	if err := patch.Check(); err != nil {
		return nil, fmt.Errorf("snap %q: %w", snap, err)
	}
	after := clone(d)
	for _, key := range slices.Sorted(maps.Keys(patch)) {
		names, err := SplitKey(key)
		if err == nil {
			err = put(after, names, patch[key])
		}
		if err != nil {
			return nil, fmt.Errorf("snap %q: %w", snap, err)
		}
	}
	raw, err := json.Marshal(after)
	if err != nil || len(raw) > maxDocument {
		return nil, errors.Join(fmt.Errorf("snap %q: the configuration is larger than %d bytes", snap, maxDocument), err)
	}
	if !json.Valid(raw) { // Nothing as deep can be read again.
		return nil, fmt.Errorf("snap %q: the values are too deep in one another", snap)
	}
	return after, nil
}

// clone copies the objects of a document.
func clone(from map[string]any) map[string]any {
	to := make(map[string]any, len(from))
	for name, value := range from {
		if inner, ok := value.(map[string]any); ok {
			value = clone(inner)
		}
		to[name] = value
	}
	return to
}

func put(document map[string]any, path []string, value any) error {
	for at, name := range path[:len(path)-1] {
		inner, isMap := document[name].(map[string]any)
		if _, there := document[name]; there && !isMap && document[name] != nil {
			return fmt.Errorf("option %q is not a map", strings.Join(path[:at+1], "."))
		}
		if !isMap {
			if value == nil {
				return nil
			}
			inner = map[string]any{}
			document[name] = inner
		}
		document = inner
	}
	last := path[len(path)-1]
	if value = withoutNull(value); value == nil {
		delete(document, last)
		return nil
	}
	document[last] = value
	return nil
}

// withoutNull is value without what is null in it: null is that there is no value.
func withoutNull(value any) any {
	document, ok := value.(map[string]any)
	if !ok {
		return value
	}
	kept := make(map[string]any, len(document))
	for name, inner := range document {
		if inner = withoutNull(inner); inner != nil {
			kept[name] = inner
		}
	}
	return kept
}

// ParseValue reads JSON, with numbers as they are written.
func ParseValue(text string) (value any, err error) {
	decoder := json.NewDecoder(strings.NewReader(text))
	decoder.UseNumber()
	if err := decoder.Decode(&value); err != nil {
		return nil, err
	}
	if decoder.More() {
		return nil, errors.New("more than one value")
	}
	return value, nil
}

// UnmarshalJSON reads a document with numbers as they are written.
func (d *Document) UnmarshalJSON(text []byte) error {
	return unmarshalObject((*map[string]any)(d), text)
}

// UnmarshalJSON reads a patch with numbers as they are written.
func (p *Patch) UnmarshalJSON(text []byte) error { return unmarshalObject((*map[string]any)(p), text) }

func unmarshalObject(into *map[string]any, text []byte) error {
	decoder := json.NewDecoder(strings.NewReader(string(text)))
	decoder.UseNumber()
	return decoder.Decode(into)
}
