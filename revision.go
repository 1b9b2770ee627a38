package tenure

import (
	"cmp"
	"fmt"
	"strconv"
	"strings"
)

// Revision identifies one immutable snap file of an instance: a number given
// by a source ("12"), or one given here to a local file ("x1"). The zero value
// is no revision.
type Revision struct {
	n     uint32
	local bool
}

// maxRevision keeps a revision and its successor within every integer that
// clients of the API read it into.
const maxRevision = 1<<31 - 2

// LocalRevision is the n-th revision made from a local file, n from 1.
func LocalRevision(n int) Revision { return Revision{n: uint32(n), local: true} } //nolint:gosec // Bounded by every caller; ParseRevision checks.

// SourceRevision is the revision that a source calls n, n from 1.
func SourceRevision(n int) Revision { return Revision{n: uint32(n)} } //nolint:gosec // Bounded by every caller; ParseRevision checks.

// ParseRevision reads "x1" or "12": decimal, from 1, without leading zeros.
func ParseRevision(s string) (Revision, error) {
	digits, local := strings.CutPrefix(s, "x")
	n, err := strconv.ParseUint(digits, 10, 32)
	if err != nil || n == 0 || n > maxRevision || digits[0] == '0' || digits[0] == '+' {
		return Revision{}, fmt.Errorf("%w: revision %q (want a number like 12, or x and a number like x1)", ErrName, s)
	}
	return Revision{n: uint32(n), local: local}, nil
}

// Number is the revision's number, without its kind; 0 for no revision.
func (r Revision) Number() int { return int(r.n) }

// Local reports whether the revision was made from a local file.
func (r Revision) Local() bool { return r.local }

// IsZero reports whether r is no revision.
func (r Revision) IsZero() bool { return r.n == 0 }

// Compare orders revisions for display: local ones first, then by number. It
// says nothing about which one is newer.
func (r Revision) Compare(other Revision) int {
	if r.local != other.local {
		if r.local {
			return -1
		}
		return 1
	}
	return cmp.Compare(r.n, other.n)
}

// String is the form that ParseRevision reads; "unset" for no revision.
func (r Revision) String() string {
	switch {
	case r.IsZero():
		return "unset"
	case r.local:
		return "x" + strconv.FormatUint(uint64(r.n), 10)
	default:
		return strconv.FormatUint(uint64(r.n), 10)
	}
}

// MarshalText writes no revision as the empty string.
func (r Revision) MarshalText() ([]byte, error) {
	if r.IsZero() {
		return nil, nil
	}
	return []byte(r.String()), nil
}

// UnmarshalText reads what MarshalText writes.
func (r *Revision) UnmarshalText(text []byte) error {
	if len(text) == 0 {
		*r = Revision{}
		return nil
	}
	parsed, err := ParseRevision(string(text))
	if err != nil {
		return err
	}
	*r = parsed
	return nil
}
