package snapfile

import (
	"fmt"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"
)

// object is a map of the tree while its keys are taken out of it.
type object struct {
	value
	fields []*field
	byName map[string]*field
}

type field struct {
	value
	name    string
	keyLine int
	taken   bool
}

// object reads the map at v, without limit when limit is 0. It is empty, never
// nil, when there is none.
func (v value) object(limit int) *object {
	o := &object{value: v, byName: make(map[string]*field)}
	switch {
	case v.isNull():
	case v.node.Kind != yaml.MappingNode:
		v.wants("a map")
	case limit > 0 && len(v.node.Content)/2 > limit:
		v.fail(fmt.Sprintf("%d entries", len(v.node.Content)/2), fmt.Sprintf("at most %d", limit))
	default:
		o.addAll(v.node, false)
	}
	return o
}

// addAll takes the entries of node. Those of a merge key (YAML 1.1, "<<") come
// after and never replace what the map itself says.
func (o *object) addAll(node *yaml.Node, merged bool) {
	var merges []*yaml.Node
	for i := 0; i+1 < len(node.Content); i += 2 {
		name, child := node.Content[i], node.Content[i+1]
		if name.ShortTag() == "!!merge" {
			merges = append(merges, child)
			continue
		}
		o.add(name, child, merged)
	}
	for _, child := range merges {
		from := o.at(child, o.path("<<"), child.Line)
		sources := []value{from}
		if from.node.Kind == yaml.SequenceNode {
			sources = from.list(maxValues, "")
		}
		for _, source := range sources {
			if source.node.Kind != yaml.MappingNode {
				source.wants("a map, or a list of maps")
				continue
			}
			o.addAll(source.node, true)
		}
	}
}

func (o *object) add(name, child *yaml.Node, merged bool) {
	known, twice := o.byName[name.Value]
	if twice {
		if !merged {
			again := o.at(child, o.path(name.Value), name.Line)
			again.fail(fmt.Sprintf("the key again, first in line %d", known.keyLine), "each key once")
		}
		return
	}
	line := child.Line
	if merged {
		line = o.line
	}
	f := &field{name: name.Value, keyLine: name.Line, value: o.at(child, o.path(name.Value), line)}
	if f.isNull() || f.node.Kind != yaml.ScalarNode {
		f.line = max(name.Line, 1) // A block starts below its key; nothing has no line.
	}
	o.fields = append(o.fields, f)
	o.byName[name.Value] = f
}

// path is where the entry called name stands; a name that is not plain is
// quoted, since it goes into messages.
func (o *object) path(name string) string {
	if quoted := quote(name); quoted != `"`+name+`"` || name == "" || strings.ContainsAny(name, " :") {
		name = quoted
	}
	if o.key == "" {
		return name
	}
	return o.key + "." + name
}

// isMap reports whether there is a map at all.
func (o *object) isMap() bool { return o.node.Kind == yaml.MappingNode }

// take gives the entry called name, unless it is missing or null.
func (o *object) take(name string) (value, bool) {
	f, ok := o.byName[name]
	if !ok {
		return value{}, false
	}
	f.taken = true
	return f.value, !f.isNull()
}

// missing reports that the entry called name has to be there.
func (o *object) missing(name, accepted string) {
	o.p.add(&ValueError{File: File, Line: o.line, Key: o.path(name), Found: "nothing", Accepted: accepted})
}

// finish notes the entries that nobody took, except the known ones that mean
// nothing here.
func (o *object) finish(meaningless ...string) {
	for _, name := range meaningless {
		o.take(name)
	}
	for _, f := range o.fields {
		if !f.taken {
			o.p.ignore(fmt.Sprintf("%s (line %d)", f.key, f.line))
		}
	}
}

// text is the checked text of the entry called name, or "". Empty text is as
// good as none, as authors expect of all optional keys.
func (o *object) text(name, accepted string, ok func(string) bool) string {
	v, found := o.take(name)
	if !found || v.isEmpty() {
		return ""
	}
	return v.text(accepted, ok)
}

// required is text of an entry that has to be there.
func (o *object) required(name, accepted string, ok func(string) bool) string {
	v, found := o.take(name)
	if !found || v.isEmpty() {
		o.missing(name, accepted)
		return ""
	}
	return v.text(accepted, ok)
}

func (v value) isEmpty() bool { return v.node.Kind == yaml.ScalarNode && v.node.Value == "" }

func (v value) text(accepted string, ok func(string) bool) string {
	s, isText := v.scalar(accepted)
	if !isText {
		return ""
	}
	if !ok(s) {
		v.wants(accepted)
		return ""
	}
	return s
}

// texts are the checked texts of the list called name, in its order.
func (o *object) texts(name string, limit int, accepted string, ok func(string) bool) []string {
	v, found := o.take(name)
	if !found {
		return nil
	}
	var texts []string
	for _, entry := range v.list(limit, "a list") {
		if s := entry.text(accepted, ok); s != "" {
			texts = append(texts, s)
		}
	}
	return texts
}

// choice is the entry called name, one of accepted, or "".
func choice[T ~string](o *object, name string, accepted ...T) T {
	v, found := o.take(name)
	if !found || v.isEmpty() {
		return ""
	}
	return choiceOf(v, accepted...)
}

func choiceOf[T ~string](v value, accepted ...T) T {
	words := make([]string, len(accepted))
	for i, word := range accepted {
		words[i] = string(word)
	}
	s, ok := v.scalar(strings.Join(words, ", "))
	if !ok {
		return ""
	}
	for _, word := range accepted {
		if s == string(word) {
			return word
		}
	}
	v.wants(strings.Join(words, ", "))
	return ""
}

const (
	maxDuration      = 365 * 24 * time.Hour
	acceptedDuration = "a duration with units ns, us, ms, s, m or h, such as 30s or 1m30s, up to 8760h"
)

// duration is the entry called name in the form that the public reference
// gives, which has no bare numbers.
func (o *object) duration(name string) (d time.Duration, found bool) {
	v, found := o.take(name)
	if !found {
		return 0, false
	}
	s, ok := v.scalar(acceptedDuration)
	if !ok {
		return 0, false
	}
	d, err := time.ParseDuration(s)
	if err != nil || d < 0 || d > maxDuration || strings.HasPrefix(s, "+") || strings.HasPrefix(s, "-") {
		v.wants(acceptedDuration)
		return 0, false
	}
	return d, true
}

// flag is the entry called name, false when it is missing.
func (o *object) flag(name string) bool {
	v, found := o.take(name)
	if !found {
		return false
	}
	if v.node.Kind != yaml.ScalarNode || v.node.ShortTag() != "!!bool" {
		v.wants("true, false")
		return false
	}
	var on bool
	if err := v.node.Decode(&on); err != nil {
		v.wants("true, false")
	}
	return on
}
