package rules

import (
	"runtime"
	"slices"
	"sync"
	"sync/atomic"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/common/types"

	"tenure"
	"tenure/internal/policy"
)

// Evaluate gives what the rules say about f, but for how long units may endure.
func (s *Set) Evaluate(f *Facts) Result {
	return s.evaluate(f, func(key string) bool { return !outlasts(key) })
}

// Endurance gives how long the units of f may endure on an old revision, and what becomes
// of those that have for longer. It is asked for outside of changes, and in a change about
// the facts as they will be after it: then the snap is what it will be, and Change and
// Update, of which no such rule speaks, are passed over.
func (s *Set) Endurance(f *Facts) Result {
	after := *f
	after.Change, after.Update = Change{}, nil
	return s.evaluate(&after, outlasts)
}

func (s *Set) evaluate(f *Facts, asked func(key string) bool) Result {
	e := s.evaluation(f)
	e.asked = asked
	for i := range s.rules {
		e.rule(&s.rules[i])
	}
	return e.result
}

// evaluation is one use of a Set.
type evaluation struct {
	facts *Facts
	// common are the variables that are the same for all units.
	common cel.Activation
	// units are those of facts, with what is known of each.
	units  []*variables
	spent  uint64
	result Result
	// asked are the aspects that are asked for.
	asked func(key string) bool
	// note, if set, hears of every condition that was evaluated, and of what its rule
	// gave: the keys that it gave, and for others the rule that had given them before.
	note func(r *rule, unit *Unit, m match, gave []string, taken map[string]string)
}

// match is what came of a condition.
type match struct {
	yes bool
	// failed says why it could not be evaluated; missing that a fact is not known here.
	failed  string
	missing bool
}

func (s *Set) evaluation(f *Facts) *evaluation {
	update := (*updateView)(nil)
	if f.Update != nil {
		update = &updateView{f.Update, f.Now}
	}
	e := &evaluation{facts: f, common: activation(map[string]any{
		"now":      f.Now,
		typeSnap:   object{typeSnap, &f.Snap},
		typeChange: object{typeChange, &f.Change},
		typeNode:   object{typeNode, &f.Node},
		typeUpdate: object{typeUpdate, update},
	})}
	e.asked = func(string) bool { return true }
	e.result.Units = make(map[tenure.UnitID]Outcome, len(f.Units))
	for i := range f.Units {
		e.result.Units[f.Units[i].ID] = Outcome{}
		e.units = append(e.units, e.variables(&f.Units[i]))
	}
	return e
}

func activation(bindings map[string]any) cel.Activation {
	a, err := cel.NewActivation(bindings)
	if err != nil {
		return cel.NoVars() // It takes every map.
	}
	return a
}

// rule adds what one rule gives.
func (e *evaluation) rule(r *rule) {
	if !r.speaks(e.asked) {
		return
	}
	if !r.when.units {
		m := e.match(r, nil, func() finding { return r.eval(e.common) })
		e.give(r, nil, m, func(key string) bool { return !aboutUnits(key) })
		for _, unit := range e.units {
			e.give(r, unit.Unit, m, aboutUnits)
		}
		return
	}
	m, settled := e.settled(r)
	any := m
	var found []finding
	if !settled {
		found = e.evalAll(r)
	}
	for i, unit := range e.units {
		if !settled {
			m = e.match(r, unit, func() finding {
				if !found[i].done {
					return r.eval(unit) // It was left out for what came after it.
				}
				return found[i]
			})
		}
		any.yes = any.yes || m.yes
		e.give(r, unit.Unit, m, func(key string) bool { return aboutUnits(key) || key == doRefuse })
	}
	e.give(r, nil, any, func(key string) bool { return !aboutUnits(key) && key != doRefuse })
}

// settled evaluates the condition of a rule on units without one. What comes of it then is so for
// every unit: in a condition nothing that fails is true or false, and && and || take
// either side, so that most rules about other snaps are not asked for every unit.
func (e *evaluation) settled(r *rule) (m match, settled bool) {
	if e.spent >= maxTotal {
		return m, false
	}
	f := r.eval(e.common)
	e.spent += f.spent
	return match{yes: f.yes}, f.err == nil
}

// finding is what the evaluation of a condition gave, and took, if it was done.
type finding struct {
	done  bool
	yes   bool
	err   error
	spent uint64
}

// eval evaluates the condition of a rule once.
func (r *rule) eval(about cel.Activation) (f finding) {
	out, details, err := r.when.program.Eval(about)
	if details != nil && details.ActualCost() != nil {
		f.spent = *details.ActualCost()
	}
	f.done, f.yes, f.err = true, err == nil && out == types.True, err
	return f
}

// evalAll evaluates the condition of a rule for all units, on all processors, until they have spent together what may be. What it gives for
// each is what it gives alone.
func (e *evaluation) evalAll(r *rule) []finding {
	found := make([]finding, len(e.units))
	var working sync.WaitGroup
	var spent atomic.Uint64
	share := max(aside, (len(e.units)+runtime.GOMAXPROCS(0)-1)/runtime.GOMAXPROCS(0))
	for from := 0; from < len(e.units); from += share {
		working.Go(func() {
			for i := from; i < min(from+share, len(e.units)) && e.spent+spent.Load() < maxTotal; i++ {
				found[i] = r.eval(e.units[i])
				spent.Add(found[i].spent)
			}
		})
	}
	working.Wait()
	return found
}

// aside is for how many units at least a processor more is of use.
const aside = 32

// match is what comes of the condition of a rule that was evaluated, for a unit if it speaks of units.
func (e *evaluation) match(r *rule, unit *variables, found func() finding) match {
	m := match{}
	if e.spent >= maxTotal {
		m.failed = "the rules together take too many steps"
	} else {
		f := found()
		e.spent += f.spent
		if m.yes = f.yes; f.err != nil {
			m.failed, m.missing = failure(f.err)
		}
	}
	// What is not known because there is no update is not missed.
	if m.failed != "" && (!m.missing || e.facts.Update != nil) {
		f := Failure{Rule: r.name, Text: m.failed, Absent: m.missing}
		if unit != nil {
			f.Unit = unit.ID
		}
		e.result.Failures = append(e.result.Failures, f)
	}
	return m
}

// variables are what conditions can speak of for one unit.
type variables struct {
	*Unit
	common    cel.Activation
	app, unit object
	process   object
}

func (e *evaluation) variables(unit *Unit) *variables {
	view := &unitView{unit, e.facts.Now}
	process := (*processView)(nil)
	if main := unit.main(); main != nil {
		process = &processView{main, main.Process == unit.Main, e.facts.Now}
	}
	return &variables{unit, e.common, object{typeApp, view}, object{typeUnit, view}, object{typeProcess, process}}
}

// about is what a condition can speak of, for a unit if there is one.
func (e *evaluation) about(unit *Unit) cel.Activation {
	if unit == nil {
		return e.common
	}
	return e.variables(unit)
}

func (v *variables) ResolveName(name string) (any, bool) {
	switch name {
	case typeApp:
		return v.app, true
	case typeUnit:
		return v.unit, true
	case typeProcess:
		return v.process, true
	}
	return v.common.ResolveName(name)
}

func (v *variables) Parent() cel.Activation { return v.common }

// give adds the effects of a rule that has matched to the outcome of a unit, or of the
// snap.
func (e *evaluation) give(r *rule, unit *Unit, m match, about func(key string) bool) {
	if !m.yes && e.note == nil {
		return
	}
	outcome := e.result.Snap
	if unit != nil {
		outcome = e.result.Units[unit.ID]
	}
	var gave []string
	taken := map[string]string{}
	for i := range r.effects {
		effect := &r.effects[i]
		if !m.yes || !about(effect.key) || !e.asked(effect.key) || !e.applies(r, effect.key) || !suits(effect, unit) {
			continue
		}
		if before := effect.given(&outcome); before != "" {
			taken[effect.key] = before
			continue
		}
		effect.apply(&outcome, r.name)
		gave = append(gave, effect.key)
	}
	if unit == nil {
		e.result.Snap = outcome
	} else {
		e.result.Units[unit.ID] = outcome
	}
	if e.note != nil && slices.ContainsFunc(r.effects, func(f effect) bool { return about(f.key) }) {
		e.note(r, unit, m, gave, taken)
	}
}

// suits reports whether an effect can be meant for a unit: only services are renewed, so
// that a rule that restarts a manager does not end its machines, and a hook that runs is
// waited for in any case. What people run is not taken away from them at a date.
func suits(f *effect, unit *Unit) bool {
	switch {
	case unit == nil:
		return true
	case outlasts(f.key):
		return policy.Endures(unit.ID) && (unit.ID.Kind != tenure.AppRun || f.text != string(policy.OverdueEnd))
	case f.key != doVerdict:
		return true
	}
	switch unit.ID.Kind {
	case tenure.Service:
		return true
	case tenure.Workload, tenure.AppRun:
		return f.text != "restart" && f.text != "reload" && f.text != "handover"
	case tenure.HookRun:
	}
	return false
}

// applies reports whether what a rule does is about the change at all.
func (e *evaluation) applies(r *rule, key string) bool {
	reason := e.facts.Change.Reason
	return !aboutSwitch(key) || r.when.changes || reason == tenure.ReasonRefresh || reason == tenure.ReasonRevert
}
