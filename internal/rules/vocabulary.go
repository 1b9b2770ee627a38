package rules

import (
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"time"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/common/types"
	"cel.dev/cel-go/common/types/ref"

	"tenure"
	"tenure/internal/policy"
)

// The names of the types that conditions see.
const (
	typeSnap    = "snap"
	typeApp     = "app"
	typeUnit    = "unit"
	typeProcess = "process"
	typeUpdate  = "update"
	typeChange  = "change"
	typeNode    = "node"
)

// unitVariables are those that differ from unit to unit.
func unitVariables() []string { return []string{typeApp, typeUnit, typeProcess} }

// field is one fact: its type, and how it is read. A word has a closed set of values.
type field struct {
	typ   *cel.Type
	get   func(target any) any
	words []string
}

// absent is what get returns of a fact that is not known.
type absent struct{}

// absentError is that a condition reads a fact that is not known here.
type absentError struct{ fact string }

func (e *absentError) Error() string { return e.fact + " is not known here" }

// fieldOf is a fact of values of type T.
func fieldOf[T any](typ *cel.Type, get func(*T) any, words ...string) field {
	return field{typ: typ, words: words, get: func(target any) any {
		value, ok := target.(*T)
		if !ok || value == nil {
			return absent{}
		}
		return get(value)
	}}
}

// unitView and processView are units and processes at a moment.
type unitView struct {
	*Unit
	now time.Time
}

type processView struct {
	*policy.Process
	main bool
	now  time.Time
}

type updateView struct {
	*Update
	now time.Time
}

// vocabulary is all that conditions can speak of, by type and name.
func vocabulary() map[string]map[string]field {
	text, number, yes, span, moment := cel.StringType, cel.IntType, cel.BoolType, cel.DurationType, cel.TimestampType
	return map[string]map[string]field{
		typeSnap: {
			"name":        fieldOf(text, func(s *Snap) any { return string(s.Name) }),
			"revision":    fieldOf(text, func(s *Snap) any { return s.Revision.String() }),
			"version":     fieldOf(text, func(s *Snap) any { return s.Version }),
			"type":        fieldOf(text, func(s *Snap) any { return s.Type }, "app", "base"),
			"base":        fieldOf(text, func(s *Snap) any { return s.Base }),
			"confinement": fieldOf(text, func(s *Snap) any { return s.Confinement }, "strict", "devmode", "classic"),
		},
		typeApp: {
			"name":    fieldOf(text, func(u *unitView) any { return string(u.ID.App) }),
			"service": fieldOf(yes, func(u *unitView) any { return u.IsService }),
		},
		typeUnit: {
			"id":        fieldOf(text, func(u *unitView) any { return u.ID.String() }),
			"kind":      fieldOf(text, func(u *unitView) any { return string(u.ID.Kind) }, "service", "workload", "app", "hook"),
			"name":      fieldOf(text, func(u *unitView) any { return u.ID.Name }),
			"label":     fieldOf(text, func(u *unitView) any { return u.ID.Label }),
			"instance":  fieldOf(text, func(u *unitView) any { return u.ID.At }),
			"revision":  fieldOf(text, func(u *unitView) any { return u.Revision.String() }),
			"stale":     fieldOf(yes, func(u *unitView) any { return u.Stale }),
			"age":       fieldOf(span, func(u *unitView) any { return age(u.now, u.Since) }),
			"memory":    fieldOf(number, func(u *unitView) any { return u.memory() }),
			"processes": fieldOf(cel.ListType(cel.ObjectType(typeProcess)), func(u *unitView) any { return u.processes() }),
		},
		typeProcess: {
			"pid":     fieldOf(number, func(p *processView) any { return int64(p.PID) }),
			"age":     fieldOf(span, func(p *processView) any { return age(p.now, p.Started) }),
			"command": fieldOf(text, func(p *processView) any { return p.CommandLine }),
			"memory":  fieldOf(number, func(p *processView) any { return p.Memory }),
			"main":    fieldOf(yes, func(p *processView) any { return p.main }),
		},
		typeUpdate: {
			"from":         fieldOf(text, func(u *updateView) any { return u.From.String() }),
			"to":           fieldOf(text, func(u *updateView) any { return u.toward(u.To.String()) }),
			"from_version": fieldOf(text, func(u *updateView) any { return u.FromVersion }),
			"to_version":   fieldOf(text, func(u *updateView) any { return u.toward(u.ToVersion) }),
			"step":         fieldOf(text, func(u *updateView) any { return u.toward(Step(u.FromVersion, u.ToVersion)) }, steps()...),
			"base_change":  fieldOf(yes, func(u *updateView) any { return u.toward(u.BaseChange) }),
			"released":     fieldOf(moment, func(u *updateView) any { return known(u.Released) }),
			"age":          fieldOf(span, func(u *updateView) any { return age(u.now, u.Released) }),
			"urgency":      fieldOf(text, func(u *updateView) any { return known(u.Urgency) }, "low", "normal", "high", "critical"),
		},
		typeChange: {
			"reason":    fieldOf(text, func(c *Change) any { return string(c.Reason) }, reasons()...),
			"automatic": fieldOf(yes, func(c *Change) any { return c.Automatic }),
		},
		typeNode: {
			"name":   fieldOf(text, func(n *Node) any { return n.Name }),
			"arch":   fieldOf(text, func(n *Node) any { return n.Arch }),
			"cpus":   fieldOf(number, func(n *Node) any { return int64(n.CPUs) }),
			"memory": fieldOf(number, func(n *Node) any { return n.Memory }),
		},
	}
}

// toward is a fact about the revision that is to become current, if there is one yet.
func (u *updateView) toward(fact any) any {
	if u.To.IsZero() {
		return absent{}
	}
	return fact
}

func steps() []string { return []string{"major", "minor", "patch", "same", "older", "other"} }

func reasons() []string {
	words := []string{""}
	for _, reason := range tenure.Reasons() {
		words = append(words, string(reason))
	}
	return words
}

// age is how long ago then was, unless that is not known.
func age(now, then time.Time) any {
	if then.IsZero() {
		return absent{}
	}
	return max(now.Sub(then), 0)
}

// known is v, unless it is zero.
func known[T comparable](v T) any {
	if v == *new(T) {
		return absent{}
	}
	return v
}

func (u *unitView) memory() int64 {
	var sum int64
	for i := range u.Processes {
		sum += u.Processes[i].Memory
	}
	return sum
}

func (u *unitView) processes() []ref.Val {
	views := make([]processView, len(u.Processes))
	list := make([]ref.Val, len(u.Processes))
	for i := range u.Processes {
		p := &u.Processes[i]
		views[i] = processView{p, p.Process == u.Main, u.now}
		list[i] = object{typeProcess, &views[i]}
	}
	return list
}

// object is a value of one of our types, as CEL sees it.
type object struct {
	name  string
	value any
}

func (o object) ConvertToNative(to reflect.Type) (any, error) {
	return nil, fmt.Errorf("%s cannot be %s", o.name, to)
}

func (o object) ConvertToType(to ref.Type) ref.Val {
	return types.NewErr("%s cannot be %s", o.name, to.TypeName())
}

func (o object) Equal(other ref.Val) ref.Val {
	same, ok := other.(object)
	return types.Bool(ok && same.name == o.name && same.value == o.value)
}

func (o object) Type() ref.Type { return cel.ObjectType(o.name) }
func (o object) Value() any     { return o.value }

// provider adds our types to those of CEL.
type provider struct {
	*types.Registry
	words map[string]map[string]field
}

func (p provider) FindStructType(name string) (*types.Type, bool) {
	if _, ours := p.words[name]; ours {
		return types.NewTypeTypeWithParam(types.NewObjectType(name)), true
	}
	return p.Registry.FindStructType(name)
}

func (p provider) FindStructFieldNames(name string) ([]string, bool) {
	if fields, ours := p.words[name]; ours {
		return slices.Sorted(maps.Keys(fields)), true
	}
	return p.Registry.FindStructFieldNames(name)
}

func (p provider) FindStructFieldType(name, wanted string) (*types.FieldType, bool) {
	fields, ours := p.words[name]
	if !ours {
		return p.Registry.FindStructFieldType(name, wanted)
	}
	f, found := fields[wanted]
	if !found {
		return nil, false
	}
	return &types.FieldType{
		Type: f.typ,
		IsSet: func(target any) bool {
			_, missing := f.get(target).(absent)
			return !missing
		},
		GetFrom: func(target any) (any, error) {
			value := f.get(target)
			if _, missing := value.(absent); missing {
				return nil, &absentError{name + "." + wanted}
			}
			return value, nil
		},
	}, true
}

// NewValue refuses to make one of our types: facts are found, not made.
func (p provider) NewValue(name string, fields map[string]ref.Val) ref.Val {
	if _, ours := p.words[name]; ours {
		return types.NewErr("%s cannot be made", name)
	}
	return p.Registry.NewValue(name, fields)
}

// namesOf are the fields of a type, for people.
func namesOf(words map[string]map[string]field, typ string) string {
	return strings.Join(slices.Sorted(maps.Keys(words[typ])), ", ")
}
