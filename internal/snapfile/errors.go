package snapfile

import (
	"fmt"
	"strings"
)

// ValueError is one wrong value in a description.
type ValueError struct {
	// File is meta/snap.yaml, or meta/hooks for a file there.
	File string
	// Line counts from 1; it is 0 where there is none.
	Line int
	// Key is the path of keys that leads to the value ("apps.web.stop-mode").
	Key string
	// Found is what stands there, quoted and shortened.
	Found string
	// Accepted says what could stand there.
	Accepted string
}

// Error is one line: file, line, key, what was found and what is accepted.
func (e *ValueError) Error() string {
	var b strings.Builder
	b.WriteString(e.File)
	if e.Line > 0 {
		fmt.Fprintf(&b, ":%d", e.Line)
	}
	if e.Key != "" {
		b.WriteString(": " + e.Key)
	}
	b.WriteString(": found " + e.Found)
	if e.Accepted != "" {
		b.WriteString("; accepted: " + e.Accepted)
	}
	return b.String()
}

// InvalidError is every wrong value of a description, in the order of the file.
type InvalidError struct {
	// Problems is never empty and bounded.
	Problems []*ValueError
	// More counts the wrong values beyond Problems.
	More int
}

// Error is one line: the first problem, and how many there are besides. Lines
// gives all of them.
func (e *InvalidError) Error() string {
	text := e.Problems[0].Error()
	switch more := len(e.Problems) - 1 + e.More; more {
	case 0:
		return text
	case 1:
		return text + " (and 1 more wrong value)"
	default:
		return fmt.Sprintf("%s (and %d more wrong values)", text, more)
	}
}

// Lines are the problems, one a line, and how many there are beyond them: what
// an author wants to see at once.
func (e *InvalidError) Lines() []string {
	lines := make([]string, 0, len(e.Problems)+1)
	for _, problem := range e.Problems {
		lines = append(lines, problem.Error())
	}
	if e.More > 0 {
		lines = append(lines, fmt.Sprintf("and %d more", e.More))
	}
	return lines
}

// Unwrap gives the problems to errors.As.
func (e *InvalidError) Unwrap() []error {
	errs := make([]error, len(e.Problems))
	for i, problem := range e.Problems {
		errs[i] = problem
	}
	return errs
}
