package snapfile

import (
	"regexp"
	"regexp/syntax"
	"slices"
	"strings"

	"tenure"
)

const (
	maxWorkloads = 32
	maxPattern   = 1024
	// maxPatternCost bounds the instructions of a compiled pattern; repetitions
	// such as (a{100}){10} multiply. maxPatternsCost bounds those of all
	// patterns of a snap, which somebody keeps in memory.
	maxPatternCost  = 5000
	maxPatternsCost = 50000
)

// handover is how the file writes the verdict HandOver.
const handover = "handover"

func (o *object) lifecycle() Lifecycle {
	v, found := o.take("lifecycle")
	if !found {
		return Lifecycle{}
	}
	inner := v.object(0)
	life := Lifecycle{
		Refresh:   choice[tenure.Verdict](inner, "refresh", tenure.Restart, tenure.Reload, handover, tenure.Endure, tenure.Defer),
		Kill:      choice(inner, "kill", KillAfterTimeout, KillNever),
		Data:      choice(inner, "data", DataReadWrite, DataReadOnly, DataNone),
		Instances: inner.flag("instances"),
		Workloads: inner.workloads(),
	}
	if life.Refresh == handover {
		life.Refresh = tenure.HandOver
	}
	life.DeferWhile = inner.pattern("defer-while")
	if v, found := inner.take("defer-while"); found && life.Refresh != tenure.Defer {
		v.fail(v.describe()+" without refresh: defer", "a pattern that says when it defers")
	}
	life.DrainTimeout, _ = inner.duration("drain-timeout")
	life.ReloadTimeout, _ = inner.duration("reload-timeout")
	if observe, set := inner.duration("observe"); set {
		life.Observe = &observe
	}
	inner.finish()
	return life
}

// workloads keeps the order of the file: the first pattern that matches counts.
func (o *object) workloads() []Workload {
	v, found := o.take("workloads")
	if !found {
		return nil
	}
	var workloads []Workload
	for _, f := range v.object(maxWorkloads).fields {
		if tenure.CheckUnitName(f.name) != nil || slices.Contains(tenure.Reserved(), f.name) {
			f.fail("the name "+quote(f.name), acceptedApp+", and not "+strings.Join(tenure.Reserved(), ", "))
			continue
		}
		inner := f.object(0)
		workloads = append(workloads, inner.workload(f.name))
		inner.finish()
	}
	return workloads
}

func (o *object) workload(name string) Workload {
	w := Workload{
		Name:           name,
		Match:          o.pattern("match"),
		StopCommand:    o.command("stop-command"),
		Kill:           choice(o, "kill", KillAfterTimeout, KillNever),
		CompatibleFrom: o.text("compatible-from", "a revision such as 12 or x3, or a version", versionForm.matches),
	}
	w.StopTimeout, _ = o.duration("stop-timeout")
	w.ReloadSignal = Signal(strings.ToLower(o.text("reload-signal", "sighup, sigusr1, sigusr2, sigwinch", isReloadSignal)))
	w.StopSignal = Signal(strings.ToLower(o.text("stop-signal", "sigterm, sighup, sigint, sigquit, sigusr1, sigusr2, sigwinch, sigpwr", isStopSignal)))
	for _, reason := range tenure.Reasons() {
		accepted := []tenure.Verdict{tenure.Endure, tenure.Stop}
		switch reason {
		case tenure.ReasonShutdown:
			accepted = []tenure.Verdict{tenure.Stop}
		case tenure.ReasonRefresh, tenure.ReasonRevert:
			accepted = append(accepted, tenure.Reload)
		case tenure.ReasonRestart, tenure.ReasonStop, tenure.ReasonDisable, tenure.ReasonRemove:
		}
		verdict := choice(o, string(reason), accepted...)
		if verdict == "" {
			continue
		}
		if w.OnReason == nil {
			w.OnReason = make(map[tenure.Reason]tenure.Verdict)
		}
		w.OnReason[reason] = verdict
	}
	return w
}

func isStopSignal(s string) bool {
	switch strings.ToLower(s) {
	case "sigterm", "sighup", "sigint", "sigquit", "sigusr1", "sigusr2", "sigwinch", "sigpwr":
		return true
	}
	return false
}

func isReloadSignal(s string) bool {
	return slices.Contains([]string{"sighup", "sigusr1", "sigusr2", "sigwinch"}, strings.ToLower(s))
}

// pattern is an RE2 expression that is worth its memory.
func (o *object) pattern(key string) string {
	return o.text(key, "an RE2 pattern of at most 1024 characters, without large repetitions", func(s string) bool {
		if len(s) > maxPattern {
			return false
		}
		tree, err := syntax.Parse(s, syntax.Perl)
		if err != nil {
			return false
		}
		cost := patternCost(tree)
		o.p.patterns += cost
		if cost > maxPatternCost || o.p.patterns > maxPatternsCost {
			return false
		}
		_, err = regexp.Compile(s)
		return err == nil
	})
}

// patternCost estimates the size of tree once its repetitions are written out.
func patternCost(tree *syntax.Regexp) int {
	cost := 1 + len(tree.Rune)
	for _, sub := range tree.Sub {
		cost += patternCost(sub)
	}
	if tree.Op == syntax.OpRepeat {
		cost *= max(tree.Min, tree.Max, 1)
	}
	return min(cost, maxPatternCost+1)
}
