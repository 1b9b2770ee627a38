package source

import (
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"time"
	"unicode"
	"unicode/utf8"

	"tenure"
)

// Release is one revision of a snap that a source has.
type Release struct {
	// Snap is the snap's own name.
	Snap     string          `json:"snap"`
	Revision tenure.Revision `json:"revision"`
	// Version and Summary are what the source says, for people; the snap itself may say
	// something else. They may be empty.
	Version string `json:"version,omitempty"`
	Summary string `json:"summary,omitempty"`
	// Channels are those that it was released to, at least one.
	Channels []Channel `json:"channels"`
	Released time.Time `json:"released"`
	Urgency  Urgency   `json:"urgency"`
	// Size is that of the file in bytes, Digest its SHA-256 in hex.
	Size   int64  `json:"size"`
	Digest string `json:"sha256"`
}

// String is "hello (12)".
func (r Release) String() string { return fmt.Sprintf("%s (%s)", r.Snap, r.Revision) }

// Urgency is how soon the publisher wants a release to be everywhere.
type Urgency string

// The urgencies, from the least.
const (
	Low      Urgency = "low"
	Normal   Urgency = "normal"
	High     Urgency = "high"
	Critical Urgency = "critical"
)

// Urgencies are all there are, from the least.
func Urgencies() []Urgency { return []Urgency{Low, Normal, High, Critical} }

// Bounds of what a source may say.
const (
	maxChannels = 64
	maxVersion  = 32
	maxSummary  = 128
	// MaxSize is the largest snap file that is taken, in bytes.
	MaxSize = 64 << 30
)

// Check reports what is wrong with a release. Implementations pass on none that it
// finds anything in.
func (r Release) Check() error {
	failures := []error{tenure.CheckSnapName(r.Snap)}
	fault := func(wrong bool, format string, args ...any) {
		if wrong {
			failures = append(failures, fmt.Errorf(format, args...))
		}
	}
	fault(r.Revision.IsZero() || r.Revision.Local(), "revision %q: want a number like 12", r.Revision)
	fault(len(r.Channels) == 0 || len(r.Channels) > maxChannels, "%d channels: want 1 to %d", len(r.Channels), maxChannels)
	for _, c := range r.Channels {
		parsed, err := ParseChannel(string(c))
		fault(err != nil || parsed != c, "channel %q: want TRACK/RISK or TRACK/RISK/BRANCH", c)
	}
	fault(r.Released.Year() < 2000 || r.Released.Year() > 9999, "released %s: want a date", r.Released)
	fault(!slices.Contains(Urgencies(), r.Urgency), "urgency %q: want one of %v", r.Urgency, Urgencies())
	fault(r.Size <= 0 || r.Size > MaxSize, "size %d: want 1 to %d", r.Size, int64(MaxSize))
	sum, err := hex.DecodeString(r.Digest)
	fault(err != nil || len(sum) != 32 || hex.EncodeToString(sum) != r.Digest, "sha256 %q: want 64 digits of 0-9 and a-f", r.Digest)
	fault(!plain(r.Version, maxVersion), "version %q: want at most %d printable characters", r.Version, maxVersion)
	fault(!plain(r.Summary, maxSummary), "summary %q: want at most %d printable characters", r.Summary, maxSummary)
	return errors.Join(failures...)
}

// plain reports whether a text can be shown on a terminal, in one line.
func plain(s string, most int) bool {
	if !utf8.ValidString(s) || utf8.RuneCountInString(s) > most {
		return false
	}
	for _, r := range s {
		if !unicode.IsPrint(r) {
			return false
		}
	}
	return true
}
