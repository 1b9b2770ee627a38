package policy

import (
	"cmp"
	"strings"

	"tenure"
)

// age is how a workload stands to the oldest one that a manager can handle.
type age int

const (
	ageUnknown age = iota
	ageTooOld
	ageFine
)

// compatible tells whether a workload of revision rev, which calls itself
// version, is at least oldest: a revision where that reads as one, else a
// version. Revisions of different origin cannot be compared.
func compatible(oldest string, rev tenure.Revision, version string) age {
	if bound, err := tenure.ParseRevision(oldest); err == nil {
		switch {
		case bound.Local() != rev.Local():
			return ageUnknown
		case rev.Number() < bound.Number():
			return ageTooOld
		}
		return ageFine
	}
	switch {
	case version == "":
		return ageUnknown
	case compareVersions(version, oldest) < 0:
		return ageTooOld
	}
	return ageFine
}

// compareVersions orders versions as people read them: runs of digits by their
// value, "~" before the end, letters before other characters (deb-version(7),
// without epochs and revisions, which snaps do not have).
func compareVersions(a, b string) int {
	for a != "" || b != "" {
		var textA, textB, numberA, numberB string
		textA, a = cutRun(a, false)
		textB, b = cutRun(b, false)
		if order := compareText(textA, textB); order != 0 {
			return order
		}
		numberA, a = cutRun(a, true)
		numberB, b = cutRun(b, true)
		numberA, numberB = strings.TrimLeft(numberA, "0"), strings.TrimLeft(numberB, "0")
		if order := cmp.Or(cmp.Compare(len(numberA), len(numberB)), cmp.Compare(numberA, numberB)); order != 0 {
			return order
		}
	}
	return 0
}

func cutRun(s string, digits bool) (run, rest string) {
	end := strings.IndexFunc(s, func(r rune) bool { return ('0' <= r && r <= '9') != digits })
	if end < 0 {
		return s, ""
	}
	return s[:end], s[end:]
}

func compareText(a, b string) int {
	for i := range max(len(a), len(b)) {
		if order := cmp.Compare(weight(a, i), weight(b, i)); order != 0 {
			return order
		}
	}
	return 0
}

func weight(s string, i int) int {
	if i >= len(s) {
		return 0
	}
	switch c := s[i]; {
	case c == '~':
		return -1
	case 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z':
		return int(c)
	default:
		return int(c) + 256
	}
}
