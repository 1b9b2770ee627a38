package client

import (
	"context"
	"net/url"
	"time"
)

// Policy is how it stands with the administrator's rules.
type Policy struct {
	// Path is their file; Present that there is one.
	Path    string `json:"path"`
	Present bool   `json:"present"`
	// Rules are the names of those that hold, in their order, and Since the time when they
	// were read: zero for those that an earlier daemon has kept.
	Rules []string  `json:"rules"`
	Since time.Time `json:"since,omitzero"`
	// Broken is what is wrong with the file, in which case the rules of an earlier one hold.
	Broken []string `json:"broken,omitempty"`
}

// PolicyFile is a file of rules that is to be checked.
type PolicyFile struct {
	// Name is what it is called in what is said of it.
	Name    string `json:"name"`
	Content string `json:"content"`
}

// PolicyCheck is what a check of a file has found: its rules, or what is wrong with it.
type PolicyCheck struct {
	Rules    []string        `json:"rules"`
	Problems []PolicyProblem `json:"problems"`
}

// PolicyProblem is one mistake in a file of rules.
type PolicyProblem struct {
	File string `json:"file"`
	// Line and Column count from 1, and are 0 where there are none.
	Line   int `json:"line,omitempty"`
	Column int `json:"column,omitempty"`
	// Rule is the name of the rule, or its number; Key the path of keys in it.
	Rule     string `json:"rule,omitempty"`
	Key      string `json:"key,omitempty"`
	Found    string `json:"found"`
	Accepted string `json:"accepted,omitempty"`
	// Text is all of it in one line.
	Text string `json:"text"`
}

// PolicyExplanation is what every rule says about a unit; about the snap as a whole where
// Unit is empty.
type PolicyExplanation struct {
	Unit  string       `json:"unit,omitempty"`
	Rules []PolicyRule `json:"rules"`
}

// PolicyRule is what one rule says.
type PolicyRule struct {
	Rule    string `json:"rule"`
	Matched bool   `json:"matched"`
	// Gives are the aspects that it gives, with their values; Taken those that an earlier
	// rule, named, has given; Elsewhere those that it gives on refresh and revert alone.
	Gives     map[string]string `json:"gives,omitempty"`
	Taken     map[string]string `json:"taken,omitempty"`
	Elsewhere []string          `json:"elsewhere,omitempty"`
	// Why is why it does not match.
	Why string `json:"why,omitempty"`
}

// Policy says how it stands with the administrator's rules.
func (c *Client) Policy(ctx context.Context) (Policy, error) {
	return get[Policy](ctx, c, "/v2/policy", nil)
}

// CheckPolicy says what is wrong with a file of rules. Nothing becomes of the file.
func (c *Client) CheckPolicy(ctx context.Context, file PolicyFile) (PolicyCheck, error) {
	var found PolicyCheck
	_, err := c.post(ctx, "/v2/policy/check", file, &found)
	return found, err
}

// ExplainPolicy says what every rule says about a snap and its units, for a reason; an
// empty one is refresh.
func (c *Client) ExplainPolicy(ctx context.Context, snap, reason string) ([]PolicyExplanation, error) {
	return get[[]PolicyExplanation](ctx, c, "/v2/policy/explain", url.Values{"snap": {snap}, "reason": {reason}})
}
