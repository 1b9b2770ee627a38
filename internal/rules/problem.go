package rules

import (
	"fmt"
	"strconv"
	"strings"
)

// ValueError is one mistake in a file.
type ValueError struct {
	File string `json:"file"`
	// Line and Column count from 1, and are 0 where there are none.
	Line   int `json:"line,omitempty"`
	Column int `json:"column,omitempty"`
	// Rule is the name of the rule, or its number ("#3") where it has none.
	Rule string `json:"rule,omitempty"`
	// Key is the path of keys inside the rule: "when", "do.grace".
	Key string `json:"key,omitempty"`
	// Found says what is wrong; Accepted what could stand there, where that can be said.
	Found    string `json:"found"`
	Accepted string `json:"accepted,omitempty"`
}

// Error is one line: file, line, column, rule, key, what was found and what is accepted.
func (p *ValueError) Error() string {
	var b strings.Builder
	b.WriteString(p.File)
	if p.Line > 0 {
		fmt.Fprintf(&b, ":%d", p.Line)
	}
	if p.Column > 0 {
		fmt.Fprintf(&b, ":%d", p.Column)
	}
	if p.Rule != "" {
		b.WriteString(": rule " + p.Rule)
	}
	if p.Key != "" {
		b.WriteString(": " + p.Key)
	}
	b.WriteString(": " + p.Found)
	if p.Accepted != "" {
		b.WriteString("; accepted: " + p.Accepted)
	}
	return b.String()
}

// InvalidError is every mistake in a file, in its order, up to a bound.
type InvalidError struct {
	Problems []*ValueError
}

// Error is one line: the first problem, and how many there are besides.
func (e *InvalidError) Error() string {
	text := e.Problems[0].Error()
	if more := len(e.Problems) - 1; more > 0 {
		text += fmt.Sprintf(" (and %d more)", more)
	}
	return text
}

// Unwrap gives the problems to errors.As.
func (e *InvalidError) Unwrap() []error {
	errs := make([]error, len(e.Problems))
	for i, problem := range e.Problems {
		errs[i] = problem
	}
	return errs
}

// quote is s as it stands in an error, shortened.
func quote(s string) string {
	const most = 60
	if runes := []rune(s); len(runes) > most {
		s = string(runes[:most]) + "…"
	}
	return strconv.Quote(s)
}
