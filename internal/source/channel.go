package source

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"tenure"
)

// Channel is a channel by its full name: "latest/stable", or "2.0/edge/fix-17" for a
// branch.
type Channel string

const (
	defaultTrack = "latest"
	defaultRisk  = "stable"
	// maxPart is the longest name of a track or branch.
	maxPart = 128
)

// risks are all there are, the safest first.
func risks() []string { return []string{defaultRisk, "candidate", "beta", "edge"} }

// ParseChannel reads [TRACK/]RISK[/BRANCH], or TRACK alone, as snap does.
func ParseChannel(s string) (Channel, error) {
	bad := fmt.Errorf("%w: channel %q (want [TRACK/]RISK[/BRANCH], with a RISK of %s)", tenure.ErrName, s, strings.Join(risks(), ", "))
	parts := strings.Split(s, "/")
	if len(parts) > 3 || slices.ContainsFunc(parts, func(p string) bool { return !validPart(p) }) {
		return "", bad
	}
	isRisk := func(i int) bool { return i < len(parts) && slices.Contains(risks(), parts[i]) }
	switch {
	case isRisk(0) && len(parts) < 3:
		return Channel(defaultTrack + "/" + s), nil
	case isRisk(1):
		return Channel(s), nil
	case len(parts) == 1:
		return Channel(s + "/" + defaultRisk), nil
	}
	return "", bad
}

func validPart(s string) bool {
	if s == "" || len(s) > maxPart {
		return false
	}
	for i := range len(s) {
		c := s[i]
		letter := 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9'
		if !letter && (i == 0 || !strings.ContainsRune("._-", rune(c))) {
			return false
		}
	}
	return true
}

// Switch reads what somebody who tracks c wants to track instead: a risk alone keeps
// the track.
func (c Channel) Switch(s string) (Channel, error) {
	first, _, _ := strings.Cut(s, "/")
	if track, _, tracked := strings.Cut(string(c), "/"); tracked && slices.Contains(risks(), first) && strings.Count(s, "/") < 2 {
		s = track + "/" + s
	}
	return ParseChannel(s)
}

// safer is the channel that counts where c has nothing: without the branch, then that
// of the next safer risk. The zero Channel is none.
func (c Channel) safer() Channel {
	parts := strings.Split(string(c), "/")
	if len(parts) == 3 {
		return Channel(parts[0] + "/" + parts[1])
	}
	at := slices.Index(risks(), parts[len(parts)-1])
	if len(parts) != 2 || at <= 0 {
		return ""
	}
	return Channel(parts[0] + "/" + risks()[at-1])
}

// Line is what one channel has: its releases, in the order in which they were
// released. The last one is what somebody gets who asks for the channel.
type Line []Release

// Follow is what a channel has, or the next safer one that has anything.
func Follow(releases []Release, c Channel) Line {
	for ; c != ""; c = c.safer() {
		var line Line
		for i := range releases {
			if slices.Contains(releases[i].Channels, c) {
				line = append(line, releases[i])
			}
		}
		if len(line) > 0 {
			slices.SortFunc(line, func(a, b Release) int {
				return cmp.Or(a.Released.Compare(b.Released), a.Revision.Compare(b.Revision))
			})
			return line
		}
	}
	return nil
}

// After are the releases that somebody on a revision could go to, in their order: those
// after it, and all if the revision is none of the line.
func (l Line) After(current tenure.Revision) Line {
	at := slices.IndexFunc(l, func(r Release) bool { return r.Revision == current })
	return l[at+1:]
}

// Channels are all channels that releases are in, in order.
func Channels(releases []Release) []Channel {
	var channels []Channel
	for i := range releases {
		channels = append(channels, releases[i].Channels...)
	}
	slices.SortFunc(channels, func(a, b Channel) int {
		trackA, riskA, _ := strings.Cut(string(a), "/")
		trackB, riskB, _ := strings.Cut(string(b), "/")
		rank := func(risk string) int {
			name, _, _ := strings.Cut(risk, "/")
			return slices.Index(risks(), name)
		}
		return cmp.Or(cmp.Compare(trackA, trackB), rank(riskA)-rank(riskB), cmp.Compare(a, b))
	})
	return slices.Compact(channels)
}
