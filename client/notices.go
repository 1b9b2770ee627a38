package client

import (
	"context"
	"net/url"
	"strings"
	"time"
)

// Notice is what has happened to one thing.
type Notice struct {
	ID string `json:"id"`
	// UserID is who alone is told of it; nil is everybody.
	UserID *uint32 `json:"user-id"`
	// Type is change-update, warning, refresh-inhibit or snap-run-inhibit, and Key what it is
	// about: the id of a change, the sentence, "-", or the name of a snap.
	Type          string    `json:"type"`
	Key           string    `json:"key"`
	FirstOccurred time.Time `json:"first-occurred"`
	LastOccurred  time.Time `json:"last-occurred"`
	// LastRepeated is later than that of every notice before.
	LastRepeated time.Time         `json:"last-repeated"`
	Occurrences  int               `json:"occurrences"`
	LastData     map[string]string `json:"last-data,omitempty"`
	ExpireAfter  string            `json:"expire-after,omitempty"`
}

// NoticeFilter selects notices. The zero value selects all that are the caller's, or
// everybody's.
type NoticeFilter struct {
	Types, Keys []string
	// After selects what was repeated later than that.
	After time.Time
	// Timeout is how long to wait for one if there is none.
	Timeout time.Duration
}

// Notices are those that f selects, in the order in which they were repeated. To hear of all that
// happens, ask again for those after the last one.
func (c *Client) Notices(ctx context.Context, f NoticeFilter) ([]Notice, error) {
	query := url.Values{}
	if len(f.Types) > 0 {
		query.Set("types", strings.Join(f.Types, ","))
	}
	if len(f.Keys) > 0 {
		query.Set("keys", strings.Join(f.Keys, ","))
	}
	if !f.After.IsZero() {
		query.Set("after", f.After.Format(time.RFC3339Nano))
	}
	if f.Timeout > 0 {
		query.Set("timeout", f.Timeout.String())
	}
	return get[[]Notice](ctx, c, "/v2/notices", query)
}
