package tenure

import (
	"errors"
	"fmt"
	"strings"
)

// Instance is the name under which a snap is installed: the snap's own name,
// or that name, an underscore and an instance key ("virt", "virt_dev").
// A value made by ParseInstance is safe in file names.
type Instance string

// App is the name of an app of a snap. A value made by ParseApp is safe in
// file names.
type App string

const (
	maxSnapName    = 40
	maxInstanceKey = 10
	maxAppName     = 40
)

// ErrName is the kind of every error about a malformed name.
var ErrName = errors.New("invalid name")

// ParseInstance checks an instance name: a snap name of 1 to 40 characters of
// a-z, 0-9 and "-" with at least one letter, neither starting nor ending with
// a dash nor having two in a row, and optionally "_" and a key of 1 to 10
// characters of a-z and 0-9. The rules are those of the public snap format.
func ParseInstance(s string) (Instance, error) {
	name, key, keyed := strings.Cut(s, "_")
	if err := CheckSnapName(name); err != nil {
		return "", err
	}
	if keyed && !validKey(key) {
		return "", fmt.Errorf("%w: instance key %q (want 1 to %d characters of a-z and 0-9)", ErrName, key, maxInstanceKey)
	}
	return Instance(s), nil
}

// Snap is the name of the snap that i is an instance of.
func (i Instance) Snap() string {
	name, _, _ := strings.Cut(string(i), "_")
	return name
}

// Key is the instance key, empty for the plain instance.
func (i Instance) Key() string {
	_, key, _ := strings.Cut(string(i), "_")
	return key
}

// UnmarshalText refuses what ParseInstance refuses.
func (i *Instance) UnmarshalText(text []byte) error {
	parsed, err := ParseInstance(string(text))
	if err != nil {
		return err
	}
	*i = parsed
	return nil
}

// CheckSnapName reports whether s is the name of a snap without a key.
func CheckSnapName(s string) error {
	if len(s) > maxSnapName || !dashed(s, false) || !strings.ContainsFunc(s, isLower) {
		return fmt.Errorf("%w: snap name %q (want 1 to %d characters of a-z, 0-9 and single inner dashes, with a letter)", ErrName, s, maxSnapName)
	}
	return nil
}

// ParseApp checks the name of an app: letters, digits and single inner dashes.
func ParseApp(s string) (App, error) {
	if len(s) > maxAppName || !dashed(s, true) {
		return "", fmt.Errorf("%w: app name %q (want 1 to %d characters of a-z, A-Z, 0-9 and single inner dashes)", ErrName, s, maxAppName)
	}
	return App(s), nil
}

// dashed reports whether s is runs of letters and digits joined by single dashes.
func dashed(s string, upper bool) bool {
	for run := range strings.SplitSeq(s, "-") {
		if run == "" {
			return false
		}
		for _, r := range run {
			if !isLower(r) && !isDigit(r) && (!upper || !isUpper(r)) {
				return false
			}
		}
	}
	return true
}

func validKey(s string) bool {
	if s == "" || len(s) > maxInstanceKey {
		return false
	}
	return !strings.ContainsFunc(s, func(r rune) bool { return !isLower(r) && !isDigit(r) })
}

func isLower(r rune) bool { return 'a' <= r && r <= 'z' }
func isUpper(r rune) bool { return 'A' <= r && r <= 'Z' }
func isDigit(r rune) bool { return '0' <= r && r <= '9' }
