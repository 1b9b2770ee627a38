package api

import (
	"context"
	"fmt"
	"net/http"
	"time"

	"tenure/client"
)

// Upgrader replaces the daemon by another program.
type Upgrader interface {
	// Daemon is this one.
	Daemon() (client.Daemon, error)
	// Upgrade returns when the program, by default that which the daemon was started from, is fit to take its
	// place; it takes it when everybody is answered. Patience is how long it may take to get ready, 0 is the
	// usual time.
	Upgrade(ctx context.Context, program string, patience time.Duration) (client.Upgrade, error)
}

// daemon answers with what the daemon is.
func (s *server) daemon(*http.Request) (*reply, error) {
	found, err := s.cfg.Upgrader.Daemon()
	if err != nil {
		return nil, err
	}
	return &reply{result: found}, nil
}

// upgrade begins to replace the daemon.
func (s *server) upgrade(r *http.Request) (*reply, error) {
	var body client.UpgradeAction
	if err := readJSON(r, &body); err != nil {
		return nil, err
	}
	if body.Action != "upgrade" {
		return nil, bad(fmt.Sprintf("action should be upgrade; it is %q", body.Action))
	}
	var patience time.Duration
	if body.Patience != "" {
		var err error
		if patience, err = time.ParseDuration(body.Patience); err != nil || patience <= 0 {
			return nil, bad(fmt.Sprintf("patience should be a duration, such as 90s; it is %q", body.Patience))
		}
	}
	begun, err := s.cfg.Upgrader.Upgrade(r.Context(), body.Program, patience)
	if err != nil {
		return nil, err
	}
	return &reply{result: begun}, nil
}
