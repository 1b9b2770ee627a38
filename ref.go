package tenure

import (
	"fmt"
	"strings"
)

// Ref is one revision of one instance; its text form is "virt@x1".
type Ref struct {
	Snap     Instance
	Revision Revision
}

// ParseRef reads "virt@x1".
func ParseRef(s string) (Ref, error) {
	snap, rev, found := strings.Cut(s, "@")
	if !found {
		return Ref{}, fmt.Errorf("%w: %q (want SNAP@REVISION, like virt@x1)", ErrName, s)
	}
	instance, err := ParseInstance(snap)
	if err != nil {
		return Ref{}, err
	}
	revision, err := ParseRevision(rev)
	if err != nil {
		return Ref{}, err
	}
	return Ref{Snap: instance, Revision: revision}, nil
}

// IsZero reports whether r names nothing.
func (r Ref) IsZero() bool { return r == Ref{} }

// String is the form that ParseRef reads.
func (r Ref) String() string { return string(r.Snap) + "@" + r.Revision.String() }

// MarshalText writes the text form; the zero Ref is empty.
func (r Ref) MarshalText() ([]byte, error) {
	if r.IsZero() {
		return nil, nil
	}
	return []byte(r.String()), nil
}

// UnmarshalText reads what MarshalText writes.
func (r *Ref) UnmarshalText(text []byte) error {
	if len(text) == 0 {
		*r = Ref{}
		return nil
	}
	parsed, err := ParseRef(string(text))
	if err != nil {
		return err
	}
	*r = parsed
	return nil
}
