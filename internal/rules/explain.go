package rules

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/common/ast"
	"cel.dev/cel-go/common/operators"
	"cel.dev/cel-go/common/types"
	"cel.dev/cel-go/common/types/ref"
)

// Explanation is what every rule says about a unit, or about the snap as a whole.
type Explanation struct {
	// Unit is empty for the snap.
	Unit  string     `json:"unit,omitempty"`
	Rules []RuleSaid `json:"rules"`
}

// RuleSaid is what one rule says, in its order.
type RuleSaid struct {
	Rule    string `json:"rule"`
	Matched bool   `json:"matched"`
	// Gives are the aspects that the rule gives, with their values.
	Gives map[string]string `json:"gives,omitempty"`
	// Taken are aspects that the rule would give and an earlier rule, named, has given.
	Taken map[string]string `json:"taken,omitempty"`
	// Elsewhere are aspects that it gives on refresh and revert alone.
	Elsewhere []string `json:"elsewhere,omitempty"`
	// Why says, of a rule that does not match, which part of its condition is not true,
	// with the facts in it.
	Why string `json:"why,omitempty"`
}

// Explain gives what every rule says about the snap, then about each unit of f, in
// their order.
func (s *Set) Explain(f *Facts) []Explanation {
	e := s.evaluation(f)
	all := make([]Explanation, len(f.Units)+1)
	at := map[*Unit]int{}
	for i := range f.Units {
		all[i+1].Unit = f.Units[i].ID.String()
		at[&f.Units[i]] = i + 1
	}
	e.note = func(r *rule, unit *Unit, m match, gave []string, taken map[string]string) {
		said := RuleSaid{Rule: r.name, Matched: m.yes, Taken: taken, Gives: map[string]string{}}
		for i := range r.effects {
			effect := &r.effects[i]
			if slices.Contains(gave, effect.key) {
				said.Gives[effect.key] = effect.text
			}
			if m.yes && !suits(effect, unit) {
				said.Why = effect.text + " is not for a unit of this kind"
			}
			if m.yes && aboutUnits(effect.key) == (unit != nil) && !e.applies(r, effect.key) {
				said.Elsewhere = append(said.Elsewhere, effect.key)
			}
		}
		switch {
		case m.failed != "":
			said.Why = m.failed
		case !m.yes && unit == nil && r.when.units:
			said.Why = "it is true of no unit"
		case !m.yes:
			said.Why = e.why(r.when, unit)
		}
		all[at[unit]].Rules = append(all[at[unit]].Rules, said)
	}
	for i := range s.rules {
		e.rule(&s.rules[i])
	}
	return all
}

// why names the part of a condition that is not true, and the facts in it.
func (e *evaluation) why(c *condition, unit *Unit) string {
	program, err := c.env.Program(c.ast, cel.EvalOptions(cel.OptTrackState), cel.CostLimit(maxCost))
	if err != nil {
		return err.Error()
	}
	_, details, err := program.Eval(e.about(unit))
	if err != nil || details == nil {
		return "it is not true"
	}
	native := c.ast.NativeRep()
	for _, part := range parts(native.Expr()) {
		if value, found := details.State().Value(part.ID()); !found || value != types.False {
			continue
		}
		text, err := cel.ExprToString(part, native.SourceInfo())
		if err != nil {
			return "it is not true"
		}
		return "not true: " + text + factsIn(part, func(id int64) (ref.Val, bool) { return details.State().Value(id) })
	}
	return "it is not true"
}

// parts are what must all be true for e to be.
func parts(e ast.Expr) []ast.Expr {
	if e.Kind() != ast.CallKind || e.AsCall().FunctionName() != operators.LogicalAnd {
		return []ast.Expr{e}
	}
	var all []ast.Expr
	for _, arg := range e.AsCall().Args() {
		all = append(all, parts(arg)...)
	}
	return all
}

// factsIn are the facts that e reads, with their values: " (unit.age is 3m2s)". What is
// read for each element of a list has no one value.
func factsIn(e ast.Expr, value func(id int64) (ref.Val, bool)) string {
	var said []string
	seen := map[string]bool{}
	ast.PreOrderVisit(e, ast.NewExprVisitor(func(e ast.Expr) {
		if e.Kind() != ast.SelectKind || e.AsSelect().IsTestOnly() || e.AsSelect().Operand().Kind() != ast.IdentKind {
			return
		}
		name := e.AsSelect().Operand().AsIdent() + "." + e.AsSelect().FieldName()
		found, known := value(e.ID())
		if _, ours := vocabulary()[e.AsSelect().Operand().AsIdent()]; !ours || seen[name] || !known {
			return
		}
		seen[name] = true
		if text := plain(found); text != "" {
			said = append(said, name+" is "+text)
		}
	}))
	if len(said) == 0 {
		return ""
	}
	return " (" + strings.Join(said, ", ") + ")"
}

// plain is a value for people; empty for what is too much to be shown.
func plain(value ref.Val) string {
	switch v := value.(type) {
	case types.String:
		return quote(string(v))
	case types.Duration:
		return v.Round(time.Second).String()
	case types.Timestamp:
		return v.UTC().Format(time.RFC3339)
	case types.Int, types.Bool:
		return fmt.Sprint(v.Value())
	}
	return ""
}
