package policy

import (
	"cmp"
	"time"
)

// Stop is a stop protocol, in the terms of a declaration. The zero value is
// SIGTERM to the whole group, DefaultStopTimeout, then SIGKILL.
type Stop struct {
	// Command is that a stop command runs first.
	Command bool `json:"command,omitempty"`
	// Signal is a name like "SIGTERM"; empty is SIGTERM.
	Signal string `json:"signal,omitempty"`
	// Target is who gets the signal; empty is TargetGroup (DESIGN.md section 9, 8).
	Target Target `json:"target,omitempty"`
	// Timeout is the grace period; 0 is DefaultStopTimeout.
	Timeout time.Duration `json:"timeout,omitempty"`
	// Kill is whether SIGKILL may follow; empty is KillAfterTimeout.
	Kill Kill `json:"kill,omitempty"`
}

// Target tells whom a stop signal goes to.
type Target string

// The targets.
const (
	TargetGroup Target = "group"
	TargetMain  Target = "main"
)

// Kill tells whether SIGKILL may follow when the grace period is over.
type Kill string

// The two answers.
const (
	KillAfterTimeout Kill = "after-timeout"
	KillNever        Kill = "never"
)

// DefaultStopTimeout is the grace period of whom nobody gave one.
const DefaultStopTimeout = 30 * time.Second

// Protocol is the stop protocol that a plan will use: complete, within the
// limits, and with what was changed to get there.
type Protocol struct {
	Stop
	// Asked is the grace period before it was capped; 0 when it was not.
	Asked time.Duration `json:"asked,omitempty"`
	// Given is the grace period that the package gives, where the administrator has another
	// one used; else 0.
	Given time.Duration `json:"given,omitempty"`
	// Forced is that SIGKILL is allowed by the change although the protocol
	// forbids it.
	Forced bool `json:"forced,omitempty"`
	// GraceRule and KillRule are the rules of the administrator that gave Timeout, before it
	// was cut, and Kill.
	GraceRule string `json:"grace_rule,omitempty"`
	KillRule  string `json:"kill_rule,omitempty"`
	// Source is who gave the protocol: the key of the declaration, a rule, or
	// "default".
	Source string `json:"source"`
}

// given is the grace period that the package gives.
func (p Protocol) given() time.Duration { return cmp.Or(p.Given, p.Timeout) }
