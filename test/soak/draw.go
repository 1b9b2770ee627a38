package soak

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"time"
)

// op is one thing that is done to one snap, or to several in one command.
type op struct {
	Kind string
	Snap string
	// Others are further snaps that the command names.
	Others []string
	// Variant is what is installed or refreshed to.
	Variant variant
	// Now, IgnoreRunning and the like are those of the command line.
	Now, IgnoreRunning bool
	// Name is a service, a process or a workload, by what it is called.
	Name string
	// Value is what is written or set.
	Value string
	// Set is a snapshot.
	Set uint64
	// Abort, if it is not 0, is when the change is told to stop in the midst.
	Abort time.Duration
	// Want is what must come of it when nothing comes between.
	Want outcome
}

// outcome is what has come of an op.
type outcome string

const (
	done    outcome = "done"
	undone  outcome = "undone"  // A change was begun, and everything was undone.
	refused outcome = "refused" // There was an error, and no change.
	waits   outcome = "waits"   // The revision is staged.
	lost    outcome = "lost"    // The daemon died before there was a change.
)

// result is what has come of an op, and how that is known.
type result struct {
	Outcome outcome
	Change  string
	Err     string
	// Revisions are those that are current afterwards, or staged, by their snaps.
	Revisions map[string]int
	Set       uint64
}

func (o *op) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s %s", o.Kind, o.Snap)
	for _, other := range o.Others {
		b.WriteString(" " + other)
	}
	if o.Name != "" {
		b.WriteString(" " + o.Name)
	}
	switch o.Kind {
	case "install", "refresh", "many":
		fmt.Fprintf(&b, " (%s)", o.Variant)
	}
	if o.Now {
		b.WriteString(" now")
	}
	if o.IgnoreRunning {
		b.WriteString(" ignore-running")
	}
	if o.Abort != 0 {
		fmt.Fprintf(&b, " aborted after %s", o.Abort)
	}
	return b.String()
}

// drawn are the numbers of one op, before it is known what there is.
type drawn struct {
	snap, kind int
	a, b       int
	abort      time.Duration
}

// draw takes always as many numbers, so that a step depends on nothing before it.
func draw(random *rand.Rand, snaps int) drawn {
	d := drawn{snap: random.IntN(snaps), kind: random.IntN(totalWeight()), a: random.IntN(1000), b: random.IntN(1000)}
	wait := time.Duration(random.IntN(300)) * time.Millisecond
	if random.IntN(12) == 0 {
		d.abort = wait + 1
	}
	return d
}

// weighted is a kind of op, how often it is drawn, and what it is for a snap that is
// installed and enabled; false if it cannot be.
type weighted struct {
	kind   string
	weight int
	choose func(w *world, s *snap, d drawn, o *op) bool
}

func kinds() []weighted {
	return []weighted{
		{"refresh", 18, chooseRefresh},
		{"broken", 6, chooseBroken},
		{"many", 4, func(*world, *snap, drawn, *op) bool { return true }},
		{"revert", 6, chooseRevert},
		{"apply", 5, func(_ *world, s *snap, _ drawn, o *op) bool {
			o.Want = done
			return s.Staged != 0 && s.Procs[app] == nil
		}},
		{"abandon", 1, func(_ *world, s *snap, _ drawn, o *op) bool { o.Want = undone; return s.Staged != 0 }},
		{"remove", 3, always},
		{"disable", 2, func(_ *world, s *snap, _ drawn, _ *op) bool { return s.Staged == 0 }},
		{"stop", 3, func(_ *world, s *snap, _ drawn, _ *op) bool { return s.Staged == 0 }},
		{"start", 3, always},
		{"restart", 4, func(_ *world, s *snap, _ drawn, _ *op) bool { return s.Staged == 0 }},
		{"set", 4, func(_ *world, _ *snap, d drawn, o *op) bool { o.Value = fmt.Sprint(d.a); return true }},
		{"unset", 2, always},
		{"hold", 2, always},
		{"alias", 2, always},
		{"run", 5, func(_ *world, s *snap, _ drawn, _ *op) bool { return s.Procs[app] == nil }},
		{"quit", 3, func(_ *world, s *snap, _ drawn, _ *op) bool { return s.Procs[app] != nil }},
		{"spawn", 10, chooseSpawn},
		{"end", 5, func(_ *world, s *snap, d drawn, o *op) bool { return chooseProcess(s, d, o, isWorkload) }},
		{"kill", 5, func(_ *world, s *snap, d drawn, o *op) bool { return s.Staged == 0 && chooseProcess(s, d, o, isMain) }},
		{"murder", 4, func(_ *world, s *snap, d drawn, o *op) bool { return chooseProcess(s, d, o, isWorkload) }},
		{"rule", 2, always},
		{"save", 2, func(w *world, _ *snap, _ drawn, _ *op) bool { return len(w.Sets) < 3 }},
		{"restore", 4, chooseRestore},
		{"write", 5, func(_ *world, _ *snap, d drawn, o *op) bool { o.Value = fmt.Sprint(d.a); return true }},
		{"instance", 4, chooseInstance},
		{"poke", 4, choosePoke},
	}
}

func always(*world, *snap, drawn, *op) bool { return true }

func totalWeight() int {
	total := 0
	for _, k := range kinds() {
		total += k.weight
	}
	return total
}

// choose is the op that was drawn, as the world is. Each snap is in one op of a step.
func (w *world) choose(d drawn, names []string, busy map[string]bool) (op, bool) {
	s := w.Snaps[names[d.snap]]
	o := op{Snap: s.Name, Abort: d.abort, Want: done}
	if busy[s.Name] {
		return o, false
	}
	switch {
	case !s.installed():
		o.Kind, o.Variant = "install", goodVariant(d.a)
		if d.b < 120 {
			o.Variant, o.Want = badVariant(d.a), undone
		}
		return o, true
	case !s.Enabled && d.b < 700:
		o.Kind, o.Abort = "enable", 0
		return o, true
	}
	at := d.kind
	for _, k := range kinds() {
		if at -= k.weight; at >= 0 {
			continue
		}
		o.Kind = k.kind
		if !k.choose(w, s, d, &o) || !s.Enabled && !resting(k.kind) {
			o = w.otherwise(s, d)
		}
		break
	}
	switch o.Kind {
	case "broken":
		o.Kind = "refresh"
	case "many":
		w.chooseMany(&o, d, names, busy)
	}
	// What waits would be given up whenever it is aborted, also after the step; and what is staged is taken when the services have
	// ended for which it waits, also for a change that is undone then.
	if o.Kind != "refresh" && o.Kind != "revert" || o.Want == refused || o.Want == waits || s.Staged != 0 {
		o.Abort = 0
	}
	return o, o.Kind != "rule" || !busy[theRules]
}

// theRules are busy when the one file of rules is written.
const theRules = "the rules"

// otherwise is what is done instead of something that cannot be.
func (w *world) otherwise(s *snap, d drawn) op {
	o := op{Snap: s.Name, Abort: d.abort, Want: done}
	switch {
	case d.a%4 == 0:
		o.Kind, o.Value = "write", fmt.Sprint(d.a)
	case !s.Enabled || s.Staged != 0 || d.a%4 == 1:
		o.Kind = "refresh"
		chooseRefresh(w, s, d, &o)
	default:
		o.Kind = "restart"
	}
	return o
}

// resting reports whether an op can be done to a snap that is disabled.
func resting(kind string) bool {
	switch kind {
	case "refresh", "revert", "remove", "write", "save", "restore", "hold", "rule":
		return true
	}
	return false
}

func goodVariant(n int) variant { return variant{Rich: n%3 == 0} }

func badVariant(n int) variant { return variant{Fault: []fault{mute, crash, badHook}[n%3]} }

func chooseRefresh(w *world, s *snap, d drawn, o *op) bool {
	o.Variant, o.Now, o.IgnoreRunning = goodVariant(d.a), d.b%2 == 0, d.b%3 != 0
	return w.expectSwitch(s, o)
}

// expectSwitch says what must come of a refresh or a revert.
func (w *world) expectSwitch(s *snap, o *op) bool {
	switch {
	case s.Procs[app] != nil && !o.IgnoreRunning:
		o.Want = refused
	case w.defers(s, o.Variant, o.Now):
		o.Want = waits
	case o.Variant.Fault != "" && s.breaks(o.Variant):
		o.Want = undone
	}
	return true
}

// breaks reports whether what is wrong with a variant is noticed: a service that does not
// start harms nobody.
func (s *snap) breaks(v variant) bool {
	return v.Fault == badHook || s.Enabled && !s.Stopped[ready] && s.Procs[ready] != nil
}

func chooseBroken(w *world, s *snap, d drawn, o *op) bool {
	o.Variant, o.Now, o.IgnoreRunning = badVariant(d.a), true, true
	// One that would be taken all the same stays with the snap, and is wrong later.
	if s.Staged != 0 || !s.Enabled || !s.breaks(o.Variant) || w.Ruled[s.Name] && o.Variant.Fault != badHook {
		return false
	}
	return w.expectSwitch(s, o)
}

func chooseRevert(w *world, s *snap, d drawn, o *op) bool {
	previous := s.previous()
	if previous == 0 || s.Staged != 0 {
		return false
	}
	o.Variant, o.Now, o.IgnoreRunning = s.Variants[previous], true, d.b%3 != 0
	// What still runs from there uses the data that would come back.
	for _, p := range s.Procs {
		if p.Revision == previous {
			return false
		}
	}
	return w.expectSwitch(s, o)
}

// chooseMany takes up to two more snaps that can be refreshed with the first.
func (w *world) chooseMany(o *op, d drawn, names []string, busy map[string]bool) {
	fits := func(s *snap) bool {
		return s.installed() && s.Enabled && s.Staged == 0 && s.Procs[app] == nil && !busy[s.Name] && !w.defers(s, variant{}, false)
	}
	o.Variant = goodVariant(d.a)
	if !fits(w.Snaps[o.Snap]) {
		*o = w.otherwise(w.Snaps[o.Snap], d)
		return
	}
	for n := range names {
		other := w.Snaps[names[(d.b+n)%len(names)]]
		if len(o.Others) < 2 && other.Name != o.Snap && fits(other) {
			o.Others = append(o.Others, other.Name)
		}
	}
}

// chooseSpawn has a service start something that is to outlive it.
func chooseSpawn(_ *world, s *snap, d drawn, o *op) bool {
	var of []string
	for _, name := range []string{manager, careless} {
		if s.Procs[name] != nil {
			of = append(of, name)
		}
	}
	if len(of) == 0 {
		return false
	}
	service := of[d.a%len(of)]
	kinds := map[string][]string{manager: {"vm", "job"}, careless: {"left"}}[service]
	o.Name = fmt.Sprintf("%s.%s%d", service, kinds[d.b%len(kinds)], d.a%3)
	return s.Procs[o.Name] == nil
}

func isWorkload(p *process) bool { return p.Kind == "workload" }

func isMain(p *process) bool { return p.Main && p.Service != careless }

// chooseProcess takes one of the processes of a kind.
func chooseProcess(s *snap, d drawn, o *op, is func(*process) bool) bool {
	var names []string
	for _, name := range slices.Sorted(maps.Keys(s.Procs)) {
		if is(s.Procs[name]) {
			names = append(names, name)
		}
	}
	if len(names) == 0 {
		return false
	}
	o.Name = names[d.a%len(names)]
	return true
}

func chooseRestore(w *world, s *snap, d drawn, o *op) bool {
	var sets []uint64
	for _, set := range slices.Sorted(maps.Keys(w.Sets)) {
		if w.Sets[set].Snap == s.Name {
			sets = append(sets, set)
		}
	}
	if len(sets) == 0 || s.Staged != 0 {
		return false
	}
	o.Set = sets[d.a%len(sets)]
	for _, p := range s.Procs {
		if p.Revision != s.Current {
			return false // Whether it is in the way depends on what it uses.
		}
		o.Want = refused
	}
	return true
}

func chooseInstance(_ *world, s *snap, d drawn, o *op) bool {
	_, has := s.service(template)
	o.Name = fmt.Sprintf("%s@%c", template, 'a'+d.a%2)
	return has
}

// choosePoke takes a service that waits for somebody to connect.
func choosePoke(_ *world, s *snap, d drawn, o *op) bool {
	var names []string
	for _, r := range s.Roles {
		if r.Socket && s.Procs[r.Name] == nil && !s.Stopped[r.Name] {
			names = append(names, r.Name)
		}
	}
	if len(names) > 0 {
		o.Name = names[d.a%len(names)]
	}
	return len(names) > 0
}
