package refresh

import (
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	"tenure"
	"tenure/internal/change"
	"tenure/internal/journal"
	"tenure/internal/policy"
	"tenure/internal/supervise"
)

// estimates are how long stopping units took the last time, measured from what the
// supervisor reports: whether the next time fits into the grace period is known beforehand.
//
// What was cut short, or ended by itself, is no measurement. Nor is what was stopped to be
// gone: a manager that shuts its machines down when it is removed may leave them alone when
// it is refreshed.
type estimates struct {
	db   *journal.DB
	docs *journal.Collection[pastStops]

	mu sync.Mutex
	// stops are the stops that go on, and those of services that are just over.
	stops map[tenure.UnitID]*stopWatch
	// fresh are measurements that are not in the journal yet: whoever reports must not wait
	// for the disk.
	fresh []measurement
}

// pastStops are the last stops of the units of a snap, by policy.EstimateKey and occasion.
type pastStops map[string]map[occasion]pastStop

type pastStop struct {
	policy.Estimate

	Change change.ID `json:"change,omitzero"`
	Time   time.Time `json:"time"`
}

type measurement struct {
	unit tenure.UnitID
	on   occasion
	stop pastStop
}

// occasion is what stops have in common that are done alike (DESIGN.md section 3).
type occasion string

const (
	// onSwitch is refresh and revert, onPause restart and stop.
	onSwitch occasion = "refresh"
	onPause  occasion = "restart"
)

// occasionOf is that of a reason; empty for one after which the snap is gone or the machine
// is down.
func occasionOf(reason tenure.Reason) occasion {
	switch reason {
	case tenure.ReasonRefresh, tenure.ReasonRevert:
		return onSwitch
	case tenure.ReasonRestart, tenure.ReasonStop:
		return onPause
	case tenure.ReasonDisable, tenure.ReasonRemove, tenure.ReasonShutdown:
	}
	return ""
}

func newEstimates(db *journal.DB) estimates {
	return estimates{db: db, docs: journal.NewCollection[pastStops](db, "stop-estimates"), stops: make(map[tenure.UnitID]*stopWatch)}
}

// stopWatch is one stop.
type stopWatch struct {
	on     occasion
	change change.ID
	// began is when it began, told when the signal was sent after the stop command, and over
	// when the unit had ended.
	began, told, over time.Time
	// took is how much of its grace period it needed, and given what its package gave it.
	took, given time.Duration
	// extended is that it has asked for more time, as it will again: nothing needs to be
	// foreseen.
	extended bool
	// with are the workloads of a service that ended by its doing, and ends when each did.
	with []string
	ends []time.Time
}

// belated is how long after the end of a service the ends of those that it has ended may be
// reported.
const belated = time.Second

// maxPastStops is of how many units of a snap the last stops are kept; the oldest go.
const maxPastStops = 64

// observe takes in what a supervisor reports. It does not wait for the disk.
func (e *estimates) observe(event supervise.Event) {
	unit := event.Unit
	if unit.Kind != tenure.Service && unit.Kind != tenure.Workload || unit.Overlaps() {
		return
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	switch event.Kind {
	case supervise.EventState:
		on := occasionOf(event.Reason)
		if event.State == supervise.Stopping && event.Cause == supervise.CauseRequest && on != "" {
			maps.DeleteFunc(e.stops, func(_ tenure.UnitID, w *stopWatch) bool { return w.late(event.Time) })
			e.stops[unit] = &stopWatch{on: on, change: event.Change, began: event.Time}
		}
	case supervise.EventSignal:
		if w := e.stops[unit]; w != nil && event.Helper == "" && w.told.IsZero() {
			w.told = event.Time
		}
	case supervise.EventEnded:
		e.ended(event)
	case supervise.EventEmpty, supervise.EventSplit, supervise.EventMain, supervise.EventLost:
	}
}

func (e *estimates) ended(event supervise.Event) {
	unit := event.Unit
	if w := e.stops[unit]; w != nil && w.over.IsZero() {
		w.over, w.took, w.given, w.extended = event.Time, event.Took, event.Given, event.Extended
		e.measured(unit, w)
	}
	if unit.Kind != tenure.Workload {
		return
	}
	delete(e.stops, unit)
	service := unit.Service()
	w := e.stops[service]
	// What the change itself ends besides is none of the service's doing.
	if w == nil || event.Cause == supervise.CauseRequest && event.Change == w.change && w.change != 0 {
		return
	}
	switch {
	case w.over.IsZero():
		w.ends = append(w.ends, event.Time)
		w.with = append(w.with, unit.Name)
	case event.Cause == supervise.CauseExit && !w.late(event.Time):
		w.ends = append(w.ends, w.over)
		w.with = append(w.with, unit.Name)
		e.measured(service, w)
	}
}

// measured notes a stop that is over.
func (e *estimates) measured(unit tenure.UnitID, w *stopWatch) {
	estimate, known := w.estimate()
	if !known {
		return
	}
	stop := pastStop{Estimate: estimate, Change: w.change, Time: w.over.UTC()}
	e.fresh = append(e.fresh, measurement{policy.EstimateKey(unit), w.on, stop})
}

// late reports whether what happens at a time has nothing to do with the stop any more.
func (w *stopWatch) late(at time.Time) bool {
	return !w.over.IsZero() && at.Sub(w.over) > belated
}

// base is when the grace period began in which workloads were ended: that of the stop
// command or that after the signal, whichever took longer.
func (w *stopWatch) base() time.Time {
	if w.told.IsZero() || w.told.Sub(w.began) >= w.over.Sub(w.told) {
		return w.began
	}
	return w.told
}

// estimate is what a stop says about the next one. When a service ended workloads, the time
// between the first end and the last tells whether it did so one after another; of a
// single one the whole time counts.
func (w *stopWatch) estimate() (policy.Estimate, bool) {
	if w.extended {
		return policy.Estimate{}, true
	}
	if len(w.ends) == 0 {
		return policy.Estimate{Took: w.took, Of: w.given}, w.took > 0
	}
	first := max(0, slices.MinFunc(w.ends, time.Time.Compare).Sub(w.base()))
	last := max(first, slices.MaxFunc(w.ends, time.Time.Compare).Sub(w.base()))
	e := policy.Estimate{
		Took: first + max(0, w.took-last), With: slices.Compact(slices.Sorted(slices.Values(w.with))), Each: first, Alone: len(w.ends) == 1, Of: w.given,
	}
	if more := len(w.ends) - 1; more > 0 {
		e.Each = (last - first) / time.Duration(more)
	}
	return e, true
}

// keep puts into the journal what has been measured since the last time.
func (e *estimates) keep() error {
	e.mu.Lock()
	fresh := e.fresh
	e.fresh = nil
	e.mu.Unlock()
	if len(fresh) == 0 {
		return nil
	}
	err := e.db.Update(func(tx *journal.Tx) error {
		docs, changed := e.docs.In(tx), map[tenure.Instance]pastStops{}
		for _, m := range fresh {
			snap := m.unit.Snap
			if changed[snap] == nil {
				past, _, err := docs.Get(string(snap))
				if err != nil {
					return err
				}
				changed[snap] = pastStops{}
				maps.Copy(changed[snap], past)
			}
			changed[snap].add(m)
		}
		for snap, past := range changed {
			past.prune()
			if err := docs.Put(string(snap), past); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("record how long stops took: %w", err)
	}
	return nil
}

// add replaces the last stop of a unit. Of several of a kind that one change has stopped
// the longest counts.
func (p pastStops) add(m measurement) {
	key := m.unit.String()
	if p[key] == nil {
		p[key] = map[occasion]pastStop{}
	}
	before, known := p[key][m.on]
	if known && m.unit.Kind == tenure.Workload && m.stop.Change != 0 && before.Change == m.stop.Change && before.Took > m.stop.Took {
		return
	}
	p[key][m.on] = m.stop
}

func (p pastStops) prune() {
	latest := func(key string) (last time.Time) {
		for _, stop := range p[key] {
			last = later(last, stop.Time)
		}
		return last
	}
	keys := slices.SortedFunc(maps.Keys(p), func(a, b string) int { return latest(b).Compare(latest(a)) })
	for _, key := range keys[min(len(keys), maxPastStops):] {
		delete(p, key)
	}
}

// of are those of a snap for a reason. A refresh goes by the last one, or, if there
// was none, by the last restart, and the other way round.
func (e *estimates) of(snap tenure.Instance, reason tenure.Reason) (map[tenure.UnitID]policy.Estimate, error) {
	on := occasionOf(reason)
	if on == "" || snap == "" {
		return nil, nil
	}
	if err := e.keep(); err != nil {
		return nil, err
	}
	past, _, err := e.docs.Get(string(snap))
	if err != nil {
		return nil, fmt.Errorf("see how long stopping %s took: %w", snap, err)
	}
	known := make(map[tenure.UnitID]policy.Estimate, len(past))
	for name, stops := range past {
		unit, err := tenure.ParseUnit(name)
		if err != nil {
			return nil, fmt.Errorf("see how long stopping %s took: %w", snap, err)
		}
		stop, alike := stops[on]
		if !alike {
			stop = stops[map[occasion]occasion{onSwitch: onPause, onPause: onSwitch}[on]]
		}
		known[unit] = stop.Estimate
	}
	return known, nil
}

// drop forgets those of a snap that is gone.
func (e *estimates) drop(snap tenure.Instance) error {
	e.mu.Lock()
	e.fresh = slices.DeleteFunc(e.fresh, func(m measurement) bool { return m.unit.Snap == snap })
	maps.DeleteFunc(e.stops, func(unit tenure.UnitID, _ *stopWatch) bool { return unit.Snap == snap })
	e.mu.Unlock()
	if err := e.docs.Delete(string(snap)); err != nil {
		return fmt.Errorf("forget how long stopping %s took: %w", snap, err)
	}
	return nil
}

// keepEstimates is keep for those who can do nothing about its error.
func (m *Manager) keepEstimates() {
	if err := m.estimates.keep(); err != nil {
		m.cfg.Logger.Error("cannot record how long stops took", slog.Any("error", err))
	}
}
