package client

import (
	"context"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
)

// SnapshotSet is what was saved together.
type SnapshotSet struct {
	ID        uint64     `json:"id"`
	Snapshots []Snapshot `json:"snapshots"`
}

// Snapshot is the data of a snap, as it was saved.
type Snapshot struct {
	SetID    uint64    `json:"set"`
	Time     time.Time `json:"time"`
	Snap     string    `json:"snap"`
	Revision string    `json:"revision"`
	Version  string    `json:"version"`
	Summary  string    `json:"summary"`
	// Digests are the SHA3-384 of the archives in it, by their names.
	Digests map[string]string `json:"sha3-384"`
	Size    int64             `json:"size"`
	// Broken says why it cannot be restored.
	Broken string `json:"broken,omitempty"`
	// Auto is that it was made because the snap was removed.
	Auto bool `json:"auto,omitempty"`
}

// SnapshotAction is something to be done with a set: check, forget or restore; of some snaps,
// and the data of some users, if they are named.
type SnapshotAction struct {
	Action string   `json:"action"`
	Set    uint64   `json:"set"`
	Snaps  []string `json:"snaps,omitempty"`
	Users  []string `json:"users,omitempty"`
}

// Snapshots are the sets, or that of a number, with the snapshots of snaps, of all if none is
// named.
func (c *Client) Snapshots(ctx context.Context, set uint64, snaps []string) ([]SnapshotSet, error) {
	query := url.Values{}
	if set != 0 {
		query.Set("set", strconv.FormatUint(set, 10))
	}
	if len(snaps) > 0 {
		query.Set("snaps", strings.Join(snaps, ","))
	}
	return get[[]SnapshotSet](ctx, c, "/v2/snapshots", query)
}

// Save begins to save the data of snaps, of all if none is named. It gives the number of the
// set that is to be, and the id of the change.
func (c *Client) Save(ctx context.Context, snaps, users []string) (set uint64, id string, err error) {
	var made struct {
		Set uint64 `json:"set-id"`
	}
	envelope, err := c.sendJSON(ctx, http.MethodPost, "/v2/snaps", Action{Action: "snapshot", Snaps: snaps, Users: users}, &made)
	if err != nil {
		return 0, "", err
	}
	return made.Set, envelope.Change, nil
}

// ChangeSnapshots gives the id of the change that does what is asked for.
func (c *Client) ChangeSnapshots(ctx context.Context, action SnapshotAction) (string, error) {
	envelope, err := c.sendJSON(ctx, http.MethodPost, "/v2/snapshots", action, nil)
	if err != nil {
		return "", err
	}
	return envelope.Change, nil
}
