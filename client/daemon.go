package client

import (
	"context"
	"net/http"
	"time"
)

// Daemon is the program that answers, its last upgrade, and what it needs.
type Daemon struct {
	Version string `json:"version"`
	PID     int    `json:"pid"`
	// Program is the path that it was started from.
	Program string `json:"program"`
	// Upgrade is the last one since the machine has started; nil if there was none.
	Upgrade *Upgrade `json:"upgrade,omitempty"`
	Needs   Needs    `json:"needs"`
}

// Needs is what the daemon needs of the machine, to see that it does not grow.
type Needs struct {
	Goroutines uint64 `json:"goroutines"`
	// Heap is what was in use on it when garbage was last collected, in bytes.
	Heap        uint64 `json:"heap"`
	Descriptors int    `json:"descriptors"`
	Threads     int    `json:"threads"`
}

// Upgrade is the replacement of the daemon by another program.
type Upgrade struct {
	ID string `json:"id"`
	// Program is the path of the new program.
	Program string `json:"program"`
	// From and To are the versions.
	From string `json:"from"`
	To   string `json:"to"`
	// Status is "Doing", "Done", or "Error": the program before serves again.
	Status string `json:"status"`
	// Err is why.
	Err   string    `json:"err,omitempty"`
	Began time.Time `json:"began"`
	Ended time.Time `json:"ended,omitzero"`
}

// The statuses of an upgrade.
const (
	UpgradeDoing = "Doing"
	UpgradeDone  = "Done"
	UpgradeError = "Error"
)

// UpgradePatience is how long a new program may take to get ready, unless it is said otherwise.
const UpgradePatience = time.Minute

// UpgradeAction is what is asked of the daemon.
type UpgradeAction struct {
	Action string `json:"action"`
	// Program is a path, by default that which the daemon was started from.
	Program string `json:"program,omitempty"`
	// Patience is how long the new program may take to get ready, as time.ParseDuration reads it.
	Patience string `json:"patience,omitempty"`
}

// Daemon is the program that answers.
func (c *Client) Daemon(ctx context.Context) (Daemon, error) {
	return get[Daemon](ctx, c, "/v2/daemon", nil)
}

// Upgrade has the daemon replace itself. It returns when the new program was found to be fit for
// it; Daemon says then what has become of it, as soon as there is a daemon again.
func (c *Client) Upgrade(ctx context.Context, program string, patience time.Duration) (Upgrade, error) {
	action := UpgradeAction{Action: "upgrade", Program: program}
	if patience > 0 {
		action.Patience = patience.String()
	}
	var begun Upgrade
	_, err := c.sendJSON(ctx, http.MethodPost, "/v2/daemon", action, &begun)
	return begun, err
}
