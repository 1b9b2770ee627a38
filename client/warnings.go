package client

import (
	"context"
	"net/http"
	"net/url"
	"time"
)

// Warning is something that is not as it should be.
type Warning struct {
	Message string `json:"message"`
	// FirstAdded and LastAdded are since when that is so.
	FirstAdded time.Time `json:"first-added"`
	LastAdded  time.Time `json:"last-added"`
	// LastShown is when an administrator has said that it is known; zero if nobody has.
	LastShown time.Time `json:"last-shown,omitzero"`
	// ExpireAfter and RepeatAfter are durations: how long after that it comes again.
	ExpireAfter string `json:"expire-after,omitempty"`
	RepeatAfter string `json:"repeat-after,omitempty"`
}

// Warnings are those that nobody has said are known, or all.
func (c *Client) Warnings(ctx context.Context, all bool) ([]Warning, error) {
	query := url.Values{}
	if all {
		query.Set("select", "all")
	}
	return get[[]Warning](ctx, c, "/v2/warnings", query)
}

// Okay says that the warnings up to a time are known, and gives how many that are.
func (c *Client) Okay(ctx context.Context, until time.Time) (int, error) {
	body := struct {
		Action    string    `json:"action"`
		Timestamp time.Time `json:"timestamp"`
	}{"okay", until}
	var count int
	_, err := c.sendJSON(ctx, http.MethodPost, "/v2/warnings", body, &count)
	return count, err
}
