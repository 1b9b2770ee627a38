package rules

import (
	"cmp"
	"strings"
)

// numbers are the leading numbers of a version, between dots and without leading
// zeros: "v1.20.3-rc1" has 1, 20 and 3. A zero is empty.
func numbers(version string) []string {
	version = strings.TrimPrefix(version, "v")
	var found []string
	for part := range strings.SplitSeq(version, ".") {
		end := strings.IndexFunc(part, func(r rune) bool { return r < '0' || r > '9' })
		digits := part
		if end >= 0 {
			digits = part[:end]
		}
		if digits == "" {
			break
		}
		found = append(found, strings.TrimLeft(digits, "0"))
		if end >= 0 {
			break
		}
	}
	return found
}

// compareNumbers orders numbers of any length without leading zeros.
func compareNumbers(a, b string) int { return cmp.Or(cmp.Compare(len(a), len(b)), cmp.Compare(a, b)) }
