package refresh

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"tenure"
	"tenure/internal/change"
	"tenure/internal/journal"
	"tenure/internal/mount"
)

// keptValue is a value of a journal: a document of a collection or, without one, a change.
type keptValue struct {
	collection, key string
	text            []byte
}

// collections have documents on a machine on which everything has happened.
func collections() []string {
	return []string{
		"snaps", "settings", "waits", "instances", "allowances", "warnings", "auto-refresh", "aliases", "stop-estimates", "snapshot-sets",
		"snapshot-restores", "configuration", "configuration-of-revisions", "hook-runs", "health", "refresh-failures", "refresh-holds", "sources",
	}
}

// keptValues are all that a journal has.
func keptValues(t *testing.T, path string) (values []keptValue) {
	t.Helper()
	db, err := journal.Open(journal.Config{Path: path, BackupDelay: journal.NoBackups})
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range collections() {
		docs, docsErr := journal.NewCollection[json.RawMessage](db, name).All()
		err = errors.Join(err, docsErr)
		for _, key := range slices.Sorted(maps.Keys(docs)) {
			values = append(values, keptValue{name, key, docs[key]})
		}
	}
	saved, loadErr := db.Changes().Load(t.Context())
	for i := range saved.Changes {
		text, marshalErr := json.Marshal(&saved.Changes[i])
		err = errors.Join(err, marshalErr)
		values = append(values, keptValue{key: saved.Changes[i].ID.String(), text: text})
	}
	if err := errors.Join(err, loadErr, db.Close()); err != nil {
		t.Fatal(err)
	}
	return values
}

// put has a journal keep v; false is that nobody can write that.
func (v *keptValue) put(t *testing.T, path string) (there bool) {
	t.Helper()
	db, err := journal.Open(journal.Config{Path: path, BackupDelay: journal.NoBackups})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	}()
	if v.collection != "" {
		return journal.NewCollection[json.RawMessage](db, v.collection).Put(v.key, v.text) == nil
	}
	var c change.Change
	return json.Unmarshal(v.text, &c) == nil && db.Changes().Apply(t.Context(), change.Batch{Put: []change.Change{c}}) == nil
}

// another is a text of JSON with other instead of its value number at.
func another(text []byte, at int, other any) ([]byte, error) {
	var whole any
	decoder := json.NewDecoder(bytes.NewReader(text))
	decoder.UseNumber()
	if err := decoder.Decode(&whole); err != nil {
		return nil, err
	}
	at %= count(whole)
	return json.Marshal(replaced(whole, &at, other))
}

// count is how many values there are in one, with it.
func count(value any) int {
	n := 1
	switch value := value.(type) {
	case map[string]any:
		for _, below := range value {
			n += count(below)
		}
	case []any:
		for _, below := range value {
			n += count(below)
		}
	}
	return n
}

func replaced(value any, at *int, other any) any {
	if *at--; *at == -1 {
		return other
	}
	switch value := value.(type) {
	case map[string]any:
		for _, key := range slices.Sorted(maps.Keys(value)) {
			value[key] = replaced(value[key], at, other)
		}
	case []any:
		for i := range value {
			value[i] = replaced(value[i], at, other)
		}
	}
	return value
}

// eventful has happened to a machine of which a fuzz target changes the journal: something of everything is kept.
func eventful() []act {
	hooked := install(lasting+"  say: {command: bin/say}\n", allHooks()...)
	return asks(setting(System, optionRetention, `"30d"`), hooked, setting("probe", "a", `{"b":[1]}`), hooked, alias(actionAlias), save, onOne(ActionRestart), hooked,
		hold(false), installBoth(deferring, anotherSnap), installBoth(deferring, anotherSnap))
}

// FuzzState has a daemon start where somebody has written another value, with its checksum, in the place of one of the
// journal: it says what is wrong with it, or lives on, and whatever it is asked has an end.
func FuzzState(f *testing.F) {
	for i, value := range []string{`null`, `""`, `"../.."`, `-1`, `1e30`, `[]`, `{}`, `[null]`, `{"":null}`, `"x1"`, `"Wait"`, `"Doing"`, `"2024-02-29T01:02:03Z"`, `true`} {
		for which := range 4 {
			f.Add(uint16(which*5+i), uint16(which*7+i*3), []byte(value))
		}
	}
	top := workplace(f)
	var once sync.Once
	var machine *grave
	var values []keptValue
	f.Fuzz(func(t *testing.T, which, at uint16, text []byte) {
		once.Do(func() {
			synctest.Test(t, func(t *testing.T) {
				m := newMortal(t, filepath.Join(top, "machine"), nil)
				m.boot(-1)
				m.carryOut(eventful()...)
				machine = m.bury()
				values = keptValues(t, filepath.Join(m.dir, stateFile(0)))
			})
		})
		var other any
		if json.Unmarshal(text, &other) != nil {
			return
		}
		value := values[int(which)%len(values)]
		var err error
		if value.text, err = another(value.text, int(at), other); err != nil {
			return // No text of JSON, such as "\xff".
		}
		ended := make(chan struct{})
		defer close(ended)
		go bounded(ended, used(), time.Minute)
		synctest.Test(t, func(t *testing.T) {
			m := newMortal(t, filepath.Join(top, "machine"), machine)
			// Processes in memory are none whose ends the kernel tells: whoever waited for them would be told at once, again and again.
			m.table = machine.table.Copy(func(string) []mount.Use { return nil })
			if value.put(t, filepath.Join(m.dir, stateFile(0))) {
				m.livesOn()
			}
		})
	})
}

// bounded panics when more than so much time of processors has been used since began, and something has not ended.
func bounded(ended <-chan struct{}, began, most time.Duration) {
	for {
		select {
		case <-ended:
			return
		case <-time.After(time.Second):
			if used()-began > most {
				panic("there is no end to it")
			}
		}
	}
}

// used is the time of processors that this process has used, which does not depend on how many others want to.
func used() time.Duration {
	var usage syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &usage) // It cannot fail.
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
}

// livesOn has a daemon start, if it can, and be asked for all sorts of things.
func (m *mortal) livesOn() {
	m.t.Helper()
	var refused error
	m.failed = func(err error) { refused = err }
	m.boot(-1)
	defer m.close()
	<-time.After(time.Hour)
	synctest.Wait()
	if m.panicked(refused); refused != nil {
		return
	}
	ctx, cancel := context.WithTimeout(m.t.Context(), 24*time.Hour)
	defer cancel()
	_, snaps := m.Snaps(ctx, true)
	_, units := m.Units(ctx)
	_, services := m.Services(ctx, nil)
	_, timeline := m.Timeline(ctx, probe, time.Time{})
	_, warnings := m.Warnings(ctx)
	_, schedule := m.Schedule()
	_, updates, updatesErr := m.Updates(ctx)
	_, plan := m.Plan(ctx, Request{Action: ActionRemove, Snaps: []tenure.Instance{probe, "other"}})
	m.panicked(snaps, units, services, timeline, warnings, schedule, updatesErr, plan, errors.Join(updates...))
	for _, ask := range asks(onOne(ActionRestart), installBoth(oneService, anotherSnap), alias(actionUnalias), onProbe(ActionRevert), setting("probe", "a", "2"), onProbe(ActionRemove)) {
		m.panicked(ask(ctx, m))
		<-time.After(time.Hour)
		synctest.Wait()
	}
	for _, c := range m.engine.List(change.Filter{}) {
		m.panicked(errors.New(c.Err)) //nolint:err113 // It is one.
	}
}

// panicked fails the test if an error is a panic.
func (m *mortal) panicked(errs ...error) {
	m.t.Helper()
	for _, err := range errs {
		if err != nil && strings.Contains(err.Error(), "step panicked") {
			m.t.Error(err)
		}
	}
}
