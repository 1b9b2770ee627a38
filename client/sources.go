package client

import (
	"context"
	"net/url"
	"time"
)

// Source is a place that packages come from.
type Source struct {
	Name string `json:"name"`
	// Kind says what it is, Location where: for "dir" the path of a directory.
	Kind     string    `json:"kind"`
	Location string    `json:"location"`
	Added    time.Time `json:"added,omitzero"`
	Snaps    int       `json:"snaps"`
	Releases int       `json:"releases"`
	// UsedBy are the installed snaps whose updates come from it.
	UsedBy []string `json:"used-by,omitempty"`
	// Problems are what is wrong with it.
	Problems []string `json:"problems,omitempty"`
}

// SourceAction adds or removes a source.
type SourceAction struct {
	Action   string `json:"action"`
	Name     string `json:"name,omitempty"`
	Kind     string `json:"kind,omitempty"`
	Location string `json:"location,omitempty"`
}

// Release is one revision of a snap that a source has.
type Release struct {
	Name     string    `json:"name"`
	Version  string    `json:"version"`
	Revision string    `json:"revision"`
	Summary  string    `json:"summary,omitempty"`
	Source   string    `json:"source"`
	Channel  string    `json:"channel"`
	Released time.Time `json:"released-at"`
	Urgency  string    `json:"urgency"`
	Size     int64     `json:"download-size"`
	Digest   string    `json:"sha256"`
}

// Offer is what a source has of a snap.
type Offer struct {
	Release

	// Channels are those that have something; Order gives their order.
	Channels map[string]Release `json:"channels"`
	Order    []string           `json:"channel-order"`
	Tracks   []string           `json:"tracks"`
}

// Candidate is a release that an installed snap could go to.
type Candidate struct {
	Release

	// Due is when it comes by itself, and Why says why not earlier; no time is never.
	Due time.Time `json:"due,omitzero"`
	Why string    `json:"why,omitempty"`
	// StagedBy is the change that waits to make it current.
	StagedBy string `json:"staged-by,omitempty"`
}

// Update is what there is to refresh an installed snap to by hand.
type Update struct {
	Candidate

	// Current is the revision that is installed.
	Current string `json:"current"`
	Type    string `json:"type"`
	// Next is what comes by itself before, where that is another revision.
	Next *Candidate `json:"next,omitempty"`
	// Held is until when the administrator holds the snap: a time, or "forever".
	Held string `json:"held,omitempty"`
}

// Begun is what has become of one snap when all were to be refreshed: a change, or a
// message that says why there is none.
type Begun struct {
	Snap    string `json:"snap"`
	Change  string `json:"change,omitempty"`
	Message string `json:"message,omitempty"`
}

// Sources are all sources.
func (c *Client) Sources(ctx context.Context) ([]Source, error) {
	return get[[]Source](ctx, c, "/v2/sources", nil)
}

// ChangeSource adds or removes a source.
func (c *Client) ChangeSource(ctx context.Context, action SourceAction) (Source, error) {
	var source Source
	_, err := c.post(ctx, "/v2/sources", action, &source)
	return source, err
}

// Find is what sources have of snaps with a text in their name or summary.
func (c *Client) Find(ctx context.Context, text string) ([]Offer, error) {
	return get[[]Offer](ctx, c, "/v2/find", url.Values{"q": {text}})
}

// Offers are what sources have of one snap.
func (c *Client) Offers(ctx context.Context, name string) ([]Offer, error) {
	return get[[]Offer](ctx, c, "/v2/find", url.Values{"name": {name}})
}

// Updates are what there is to refresh installed snaps to.
func (c *Client) Updates(ctx context.Context) ([]Update, error) {
	return get[[]Update](ctx, c, "/v2/find", url.Values{"select": {"refresh"}})
}

// RefreshAll begins a change for each snap with an update.
func (c *Client) RefreshAll(ctx context.Context, action Action) ([]Begun, error) {
	action.Action, action.Snaps, action.Files = "refresh", nil, nil
	var begun []Begun
	_, err := c.send(ctx, action, &begun)
	return begun, err
}
