package rules

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"

	"tenure/internal/policy"
)

// The bounds of a file. MaxFile is in bytes.
const (
	MaxFile     = 64 << 10
	maxRules    = 256
	maxWhen     = 2000
	maxProblems = 20
)

// rule is one rule of a file, checked.
type rule struct {
	name    string
	when    *condition
	effects []effect
}

// speaks reports whether r gives anything to one of the aspects.
func (r *rule) speaks(of func(key string) bool) bool {
	return slices.ContainsFunc(r.effects, func(e effect) bool { return of(e.key) })
}

// Set is the rules of a file, in its order. The zero value has none.
type Set struct {
	rules []rule
}

// Names are the rules, in their order.
func (s *Set) Names() []string {
	names := make([]string, 0, len(s.rules))
	for i := range s.rules {
		names = append(names, s.rules[i].name)
	}
	return names
}

// MayForbidKill reports whether a rule may say that something must not be killed.
func (s *Set) MayForbidKill() bool {
	return s.speaks(func(e effect) bool { return e.key == doKill && e.text == string(policy.KillNever) })
}

// Dates reports whether a rule speaks of how long units may endure.
func (s *Set) Dates() bool {
	return s.speaks(func(e effect) bool { return outlasts(e.key) })
}

// DatesVary reports whether what such a rule says of a unit can change without anything
// that anybody hears of: its condition speaks of ages, of the time, or of processes.
func (s *Set) DatesVary() bool {
	return slices.ContainsFunc(s.rules, func(r rule) bool { return r.when.varies && r.speaks(outlasts) })
}

// Retains reports whether a rule speaks of how many revisions are kept.
func (s *Set) Retains() bool {
	return s.speaks(func(e effect) bool { return e.key == doRetain })
}

func (s *Set) speaks(of func(effect) bool) bool {
	return slices.ContainsFunc(s.rules, func(r rule) bool { return slices.ContainsFunc(r.effects, of) })
}

// Parse reads and checks a file that is called name in errors. What is wrong with it is
// an InvalidError.
func Parse(name string, data []byte) (*Set, error) {
	p := &parser{file: name, data: data, lines: strings.Split(string(data), "\n"), seen: map[string]int{}}
	root := p.read()
	if len(p.problems) > 0 {
		return nil, &InvalidError{p.problems}
	}
	set := &Set{}
	if len(root.Content) == 0 {
		return set, nil
	}
	var err error
	if p.compiler, err = newCompiler(); err != nil {
		return nil, fmt.Errorf("read %s: %w", name, err)
	}
	for i, node := range root.Content {
		if r := p.rule(i, node); r != nil {
			set.rules = append(set.rules, *r)
		}
		if len(p.problems) >= maxProblems {
			break
		}
	}
	if len(p.problems) > 0 {
		return nil, &InvalidError{p.problems}
	}
	return set, nil
}

// parser is the reading of one file.
type parser struct {
	file     string
	data     []byte
	lines    []string
	compiler *compiler
	// seen has the lines of names.
	seen     map[string]int
	problems []*ValueError
}

func (p *parser) fail(node *yaml.Node, rule, key, found, accepted string) {
	problem := &ValueError{File: p.file, Rule: rule, Key: key, Found: found, Accepted: accepted}
	if node != nil {
		problem.Line, problem.Column = node.Line, node.Column
	}
	p.problems = append(p.problems, problem)
}

// read gives the list of rules.
func (p *parser) read() *yaml.Node {
	const list = "a list of rules, or [] for none"
	if len(p.data) > MaxFile {
		p.fail(nil, "", "", "the file is too large", fmt.Sprintf("at most %d bytes", MaxFile))
		return nil
	}
	decoder := yaml.NewDecoder(bytes.NewReader(p.data))
	var document, more yaml.Node
	switch err := decoder.Decode(&document); {
	case errors.Is(err, io.EOF):
		// A file that is being written is empty for a moment.
		p.fail(nil, "", "", "the file is empty", list)
		return nil
	case err != nil:
		p.malformed(err)
		return nil
	}
	if err := decoder.Decode(&more); !errors.Is(err, io.EOF) {
		p.fail(nil, "", "", "there is a second document in the file", "one document")
		return nil
	}
	root := document.Content[0]
	switch {
	case root.Kind != yaml.SequenceNode:
		p.fail(root, "", "", "found "+describe(root), list)
	case len(root.Content) > maxRules:
		p.fail(root, "", "", fmt.Sprintf("found %d rules", len(root.Content)), fmt.Sprintf("at most %d", maxRules))
	}
	return root
}

// malformed is what is no YAML at all.
func (p *parser) malformed(err error) {
	text := strings.TrimPrefix(err.Error(), "yaml: ")
	problem := &ValueError{File: p.file, Found: "it is no YAML: " + text}
	var rest string
	if n, _ := fmt.Sscanf(text, "line %d:%s", &problem.Line, &rest); n == 2 { //nolint:mnd // Both.
		_, after, _ := strings.Cut(text, ": ")
		problem.Found = "it is no YAML: " + after
	}
	p.problems = append(p.problems, problem)
}

func describe(node *yaml.Node) string {
	switch node.Kind {
	case yaml.MappingNode:
		return "a map"
	case yaml.SequenceNode:
		return "a list"
	case yaml.AliasNode:
		return "an alias"
	case yaml.ScalarNode:
		if node.Tag == "!!null" {
			return "nothing"
		}
		return quote(node.Value)
	case yaml.DocumentNode:
	}
	return "something else"
}

// rule reads one rule; it is nil if anything is wrong with it.
func (p *parser) rule(index int, node *yaml.Node) *rule {
	before := len(p.problems)
	r := &rule{}
	name := fmt.Sprintf("#%d", index+1)
	if node.Kind != yaml.MappingNode {
		p.fail(node, name, "", "found "+describe(node), "a map with name, when and do")
		return nil
	}
	keys := p.keys(node, name, "", []string{"name", "when", "do"})
	if value := p.need(node, keys, name, "name"); value != nil {
		r.name = p.name(value, name)
		if r.name != "" {
			name = r.name
		}
	}
	if value := p.need(node, keys, name, "when"); value != nil {
		r.when = p.when(value, name)
	}
	if value := p.need(node, keys, name, "do"); value != nil {
		r.effects = p.do(value, name)
	}
	if len(p.problems) > before {
		return nil
	}
	if r.speaks(outlasts) && (r.when.changes || r.when.updates) {
		p.fail(keys["when"], name, "when", "the condition speaks of a change, and how long a unit may endure is asked for when there is none",
			"a condition without change and update; what the rule does to changes stands in one of its own")
		return nil
	}
	return r
}

// keys are the values of a map by their keys, each of which is known and stands there once.
func (p *parser) keys(node *yaml.Node, rule, path string, known []string) map[string]*yaml.Node {
	found := map[string]*yaml.Node{}
	for i := 0; i+1 < len(node.Content); i += 2 {
		key, value := node.Content[i], node.Content[i+1]
		switch {
		case !slices.Contains(known, key.Value) || key.Kind != yaml.ScalarNode:
			p.fail(key, rule, path, "unknown key "+describe(key), strings.Join(known, ", "))
		case found[key.Value] != nil:
			p.fail(key, rule, path, fmt.Sprintf("the key %s stands there twice", key.Value), "once")
		default:
			found[key.Value] = value
		}
	}
	return found
}

func (p *parser) need(node *yaml.Node, keys map[string]*yaml.Node, rule, key string) *yaml.Node {
	want := map[string]string{
		"name": "a name for the rule",
		"when": "a condition, or true for always",
		"do":   "what the rule does: " + strings.Join(doKeys(), ", "),
	}[key]
	value := keys[key]
	if value == nil {
		p.fail(node, rule, "", "there is no "+key, want)
		return nil
	}
	if (key == "do") != (value.Kind == yaml.MappingNode) || key != "do" && (value.Kind != yaml.ScalarNode || value.Tag == "!!null") {
		p.fail(value, rule, key, "found "+describe(value), want)
		return nil
	}
	return value
}

// name is empty if it is not accepted.
func (p *parser) name(node *yaml.Node, rule string) string {
	if !regexp.MustCompile(`^[a-zA-Z0-9]([a-zA-Z0-9._-]{0,62}[a-zA-Z0-9])?$`).MatchString(node.Value) {
		p.fail(node, rule, "name", "found "+quote(node.Value), "1 to 64 letters, digits, dashes, dots and underscores")
		return ""
	}
	if line, twice := p.seen[node.Value]; twice {
		p.fail(node, node.Value, "name", fmt.Sprintf("another rule has this name, in line %d", line), "a name of its own for each rule")
		return ""
	}
	p.seen[node.Value] = node.Line
	return node.Value
}

func (p *parser) do(node *yaml.Node, rule string) []effect {
	keys := p.keys(node, rule, "do", doKeys())
	var effects []effect
	for _, key := range doKeys() {
		value := keys[key]
		if value == nil {
			continue
		}
		if value.Kind != yaml.ScalarNode || value.Tag == "!!null" {
			p.fail(value, rule, "do."+key, "found "+describe(value), accepted(key))
			continue
		}
		e, ok := readEffect(key, value.Value)
		if !ok {
			p.fail(value, rule, "do."+key, "found "+quote(value.Value), accepted(key))
			continue
		}
		effects = append(effects, e)
	}
	if len(node.Content) == 0 {
		p.fail(node, rule, "do", "the rule does nothing", strings.Join(doKeys(), ", "))
	}
	return effects
}

// when compiles a condition. Its mistakes are told by their place in the file where
// that is known: not inside of text that YAML has folded.
func (p *parser) when(node *yaml.Node, rule string) *condition {
	if n := len([]rune(node.Value)); n > maxWhen {
		p.fail(node, rule, "when", fmt.Sprintf("the condition has %d characters", n), fmt.Sprintf("at most %d", maxWhen))
		return nil
	}
	compiled, mistakes := p.compiler.compile(node.Value)
	for _, m := range mistakes {
		problem := &ValueError{File: p.file, Rule: rule, Key: "when", Found: m.found, Accepted: m.accepted}
		problem.Line, problem.Column = p.place(node, m.line, m.column)
		p.problems = append(p.problems, problem)
	}
	return compiled
}

// place is where a place in the text of node is in the file.
func (p *parser) place(node *yaml.Node, line, column int) (inFile, columnInFile int) {
	switch {
	case line < 1:
		return node.Line, node.Column
	case node.Style&yaml.LiteralStyle != 0:
		at := node.Line + line
		if at > len(p.lines) {
			return node.Line, node.Column
		}
		first := p.lines[node.Line]
		return at, len(first) - len(strings.TrimLeft(first, " ")) + column
	case node.Style&yaml.FoldedStyle != 0, line > 1:
		return node.Line, node.Column
	case node.Style&(yaml.DoubleQuotedStyle|yaml.SingleQuotedStyle) != 0:
		return node.Line, node.Column + column
	}
	return node.Line, node.Column + column - 1
}
