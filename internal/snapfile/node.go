package snapfile

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"go.yaml.in/yaml/v3"
)

// What a description may hold. The numbers are far above what real snaps have;
// they keep a hostile one from costing memory or time.
const (
	maxBytes    = 64 << 10
	maxValues   = 16384
	maxDepth    = 24
	maxText     = 16 << 10
	maxProblems = 50
	maxIgnored  = 50
	maxFound    = 80
)

// parser collects what is wrong, and what is unknown, while the tree is read.
type parser struct {
	problems []*ValueError
	more     int
	ignored  []string
	// patterns is what the patterns so far cost.
	patterns int
}

// value is one node of the tree, and where it stands. Aliases are resolved.
type value struct {
	p    *parser
	node *yaml.Node
	key  string
	line int
}

func (p *parser) add(problem *ValueError) {
	if len(p.problems) == maxProblems {
		p.more++
		return
	}
	p.problems = append(p.problems, problem)
}

// ignore notes what means nothing here; text is printable already.
func (p *parser) ignore(text string) {
	if len(p.ignored) < maxIgnored {
		p.ignored = append(p.ignored, text)
	}
}

// err is nil when nothing is wrong.
func (p *parser) err() error {
	if len(p.problems) == 0 {
		return nil
	}
	slices.SortStableFunc(p.problems, func(a, b *ValueError) int { return a.Line - b.Line })
	return &InvalidError{Problems: p.problems, More: p.more}
}

// read gives the root of the only document in data.
func (p *parser) read(data []byte) (value, bool) {
	if len(data) > maxBytes {
		p.add(&ValueError{File: File, Found: fmt.Sprintf("%d bytes", len(data)), Accepted: fmt.Sprintf("at most %d bytes", maxBytes)})
		return value{}, false
	}
	var document, next yaml.Node
	decoder := yaml.NewDecoder(bytes.NewReader(data))
	err := decoder.Decode(&document)
	if err == nil {
		if err = decoder.Decode(&next); err == nil {
			p.add(&ValueError{File: File, Line: next.Line, Found: "a second document", Accepted: "one document"})
			return value{}, false
		}
	}
	if document.Kind != yaml.DocumentNode || len(document.Content) != 1 {
		if errors.Is(err, io.EOF) {
			p.add(&ValueError{File: File, Found: "nothing", Accepted: "a map of keys"})
		} else {
			p.add(syntaxError(err))
		}
		return value{}, false
	}
	if !errors.Is(err, io.EOF) {
		p.add(syntaxError(err))
		return value{}, false
	}
	root := value{p: p, node: document.Content[0], line: document.Content[0].Line}
	budget := maxValues
	return root, root.measure(&budget, 0)
}

//nolint:gochecknoglobals // As in words.go.
var yamlLine = compile(`^(?:yaml: )?(?:line (\d+): )?`)

// syntaxError takes the line out of an error of the yaml package, which has no
// other place for it.
func syntaxError(err error) *ValueError {
	text := fmt.Sprint(err)
	match := yamlLine().FindStringSubmatch(text)
	line, _ := strconv.Atoi(match[1]) // Zero, no line, when there is none.
	return &ValueError{File: File, Line: line, Found: "broken YAML (" + clip(text[len(match[0]):]) + ")", Accepted: "a map of keys"}
}

// measure walks the tree as it is when every alias is replaced by what it
// names, and stops at the first sign of a bomb, a cycle or a foreign tag.
func (v value) measure(budget *int, depth int) bool {
	*budget--
	if *budget < 0 {
		v.fail("more values than a description can need", fmt.Sprintf("at most %d values, aliases counted each time", maxValues))
		return false
	}
	if depth > maxDepth {
		v.fail("a value that is nested too deep, or within itself", fmt.Sprintf("at most %d levels", maxDepth))
		return false
	}
	node := v.node
	if node.Kind == yaml.AliasNode {
		return value{p: v.p, node: node.Alias, key: v.key, line: v.line}.measure(budget, depth+1)
	}
	for i, child := range node.Content {
		inner := value{p: v.p, node: child, key: v.key, line: child.Line}
		if node.Kind == yaml.MappingNode && i%2 == 0 && child.Kind != yaml.ScalarNode {
			inner.fail(inner.describe()+" as a key", "text")
			return false
		}
		if !inner.measure(budget, depth+1) {
			return false
		}
	}
	return true
}

func (v value) fail(found, accepted string) {
	v.p.add(&ValueError{File: File, Line: v.line, Key: v.key, Found: found, Accepted: accepted})
}

// wants reports what stands at v as wrong.
func (v value) wants(accepted string) { v.fail(v.describe(), accepted) }

// describe says what stands at v in a few words.
func (v value) describe() string {
	switch v.node.Kind {
	case yaml.MappingNode:
		return "a map"
	case yaml.SequenceNode:
		return "a list"
	case yaml.ScalarNode:
		switch {
		case v.isNull():
			return "nothing"
		case v.node.ShortTag() == "!!str" || v.node.Value == "":
			return quote(v.node.Value)
		default:
			return clip(v.node.Value)
		}
	case yaml.DocumentNode, yaml.AliasNode:
		return "something else"
	}
	return "something else"
}

// quote and clip keep what a hostile file says short and printable.
func quote(s string) string { return `"` + clip(s) + `"` }

func clip(s string) string {
	more := ""
	if runes := []rune(s); len(runes) > maxFound {
		s, more = string(runes[:maxFound]), "…"
	}
	quoted := strconv.Quote(s)
	return quoted[1:len(quoted)-1] + more
}

// isNull reports whether nothing stands at v; the format takes that as a key
// that is not there.
func (v value) isNull() bool {
	return v.node.Kind == yaml.ScalarNode && v.node.ShortTag() == "!!null"
}

// scalar is the text at v as it is written, so that 1.10 stays 1.10.
func (v value) scalar(accepted string) (string, bool) {
	if v.node.Kind == yaml.ScalarNode {
		switch v.node.ShortTag() {
		case "!!str", "!!int", "!!float", "!!bool", "!!timestamp":
			if checked := v.checkText(); checked != "" {
				v.wants(checked)
				return "", false
			}
			return v.node.Value, true
		}
	}
	v.wants(accepted)
	return "", false
}

// checkText says what is accepted if the text at v is not.
func (v value) checkText() string {
	switch {
	case utf8.RuneCountInString(v.node.Value) > maxText:
		return fmt.Sprintf("at most %d characters", maxText)
	case strings.ContainsFunc(v.node.Value, func(r rune) bool { return r != '\n' && r != '\t' && unicode.IsControl(r) }):
		return "text without control characters"
	default:
		return ""
	}
}

// list are the values of the list at v.
func (v value) list(limit int, accepted string) []value {
	if v.isNull() {
		return nil
	}
	if v.node.Kind != yaml.SequenceNode {
		v.wants(accepted)
		return nil
	}
	if len(v.node.Content) > limit {
		v.fail(fmt.Sprintf("%d entries", len(v.node.Content)), fmt.Sprintf("at most %d", limit))
		return nil
	}
	values := make([]value, 0, len(v.node.Content))
	for i, child := range v.node.Content {
		values = append(values, v.at(child, fmt.Sprintf("%s[%d]", v.key, i), child.Line))
	}
	return values
}

func (v value) at(node *yaml.Node, key string, line int) value {
	for node.Kind == yaml.AliasNode {
		node = node.Alias
	}
	return value{p: v.p, node: node, key: key, line: line}
}
