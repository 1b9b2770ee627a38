package api

import (
	"fmt"
	"net/http"

	"tenure/client"
)

// allowances answers what snaps may start of others.
func (s *server) allowances(*http.Request) (*reply, error) {
	all, err := s.cfg.Manager.Allowances()
	if err != nil {
		return nil, err
	}
	list := make([]client.Allowance, 0, len(all))
	for _, a := range all {
		list = append(list, client.Allowance{Manager: string(a.Manager), App: string(a.Snap) + "." + string(a.App)})
	}
	return &reply{result: list}, nil
}

// changeAllowance lets a snap start instances of another's template, or no longer.
func (s *server) changeAllowance(r *http.Request) (*reply, error) {
	var body struct {
		client.Allowance

		Action string `json:"action"`
	}
	if err := readJSON(r, &body); err != nil {
		return nil, err
	}
	change := s.cfg.Manager.Allow
	switch body.Action {
	case "allow":
	case "disallow":
		change = s.cfg.Manager.Disallow
	default:
		return nil, bad(fmt.Sprintf("action should be one of: allow, disallow; it is %q", body.Action))
	}
	if err := change(r.Context(), body.Manager, body.App); err != nil {
		return nil, err
	}
	return &reply{}, nil
}
