package api

import (
	"encoding/json"
	"maps"
	"net/http"
	"strings"

	"tenure/client"
	"tenure/internal/change"
	"tenure/internal/refresh"
)

// aliases answers with all aliases, by their snaps and names.
func (s *server) aliases(*http.Request) (*reply, error) {
	all, err := s.cfg.Manager.Aliases()
	if err != nil {
		return nil, err
	}
	bySnap := map[string]map[string]client.Alias{}
	for _, alias := range all {
		snap := string(alias.Snap)
		if bySnap[snap] == nil {
			bySnap[snap] = map[string]client.Alias{}
		}
		bySnap[snap][alias.Alias] = client.Alias{Command: alias.Command(), Status: "manual", Manual: string(alias.App)}
	}
	return &reply{result: bySnap}, nil
}

// changeAliases begins a change of aliases.
func (s *server) changeAliases(r *http.Request) (*reply, error) {
	var body client.AliasAction
	if err := readJSON(r, &body, ignored()...); err != nil {
		return nil, err
	}
	id, err := s.cfg.Manager.ChangeAliases(r.Context(), refresh.AliasRequest{
		Action: body.Action, Snap: body.Snap, App: body.App, Alias: body.Alias,
	})
	if err != nil {
		return nil, err
	}
	return &reply{change: id}, nil
}

// addAliases adds to a change which aliases came and went by it.
func addAliases(c *change.Change, data map[string]json.RawMessage) {
	var details map[string]json.RawMessage
	if len(c.Details) == 0 || json.Unmarshal(c.Details, &details) != nil {
		return
	}
	maps.DeleteFunc(details, func(name string, _ json.RawMessage) bool { return !strings.HasPrefix(name, "aliases-") })
	maps.Copy(data, details)
}
