package native

import (
	"slices"
	"sync"

	"tenure"
	"tenure/internal/sandbox"
	"tenure/internal/supervise"
)

// common is what specs have in common: the services of a snap see the same mounts, and have nearly the same environment, and
// of a thousand of them each would have a copy of its own, half of what a unit needs. What is shared nobody modifies.
type common struct {
	mu   sync.Mutex
	last map[tenure.Instance]likeness
}

// likeness is what was last seen of a snap.
type likeness struct {
	mounts            []sandbox.Mount
	capabilities, env []string
}

// maxLikenesses bounds them: what is not known is not shared.
const maxLikenesses = 1024

// share has spec use what the one before it of the same snap has. Whoever appends to what it has copies it.
func (c *common) share(spec *supervise.Spec) {
	c.mu.Lock()
	defer c.mu.Unlock()
	before, profile := c.last[spec.Unit.Snap], &spec.Profile
	profile.Mounts = oneOf(before.mounts, profile.Mounts)
	profile.KeepCapabilities = oneOf(before.capabilities, profile.KeepCapabilities)
	spec.Command.Env = oneOf(nil, spec.Command.Env)
	for i, setting := range before.env {
		if i < len(spec.Command.Env) && spec.Command.Env[i] == setting {
			spec.Command.Env[i] = setting // The same text, kept once.
		}
	}
	if _, known := c.last[spec.Unit.Snap]; c.last == nil || !known && len(c.last) >= maxLikenesses {
		c.last = make(map[tenure.Instance]likeness)
	}
	c.last[spec.Unit.Snap] = likeness{profile.Mounts, profile.KeepCapabilities, spec.Command.Env}
}

// oneOf is before, if now is the same, and else a copy of now without room for more.
func oneOf[T comparable](before, now []T) []T {
	if before != nil && slices.Equal(before, now) {
		return before
	}
	return slices.Clip(slices.Clone(now))
}
