package client

import (
	"context"
	"encoding/json"
	"net/http"
)

// Alias is another name of a command.
type Alias struct {
	// Command is the name in snap/bin that it stands for.
	Command string `json:"command"`
	// Status is "manual": somebody has set it up, as Manual, the app.
	Status string `json:"status"`
	Manual string `json:"manual,omitempty"`
}

// AliasAction asks for an alias (alias), that one or all of a snap go (unalias), or for
// all that the package of a snap names (prefer).
type AliasAction struct {
	Action string `json:"action"`
	Snap   string `json:"snap,omitempty"`
	App    string `json:"app,omitempty"`
	Alias  string `json:"alias,omitempty"`
}

// ChangedAlias is an alias that came or went by a change.
type ChangedAlias struct {
	Snap  string `json:"snap"`
	App   string `json:"app"`
	Alias string `json:"alias"`
}

// Aliases are all aliases, by their snaps and names.
func (c *Client) Aliases(ctx context.Context) (map[string]map[string]Alias, error) {
	return get[map[string]map[string]Alias](ctx, c, "/v2/aliases", nil)
}

// ChangeAliases gives the id of the change that does what is asked for.
func (c *Client) ChangeAliases(ctx context.Context, action AliasAction) (string, error) {
	envelope, err := c.sendJSON(ctx, http.MethodPost, "/v2/aliases", action, nil)
	if err != nil {
		return "", err
	}
	return envelope.Change, nil
}

// Aliases are those that came and went by the change.
func (c *Change) Aliases() (added, removed []ChangedAlias) {
	for name, list := range map[string]*[]ChangedAlias{"aliases-added": &added, "aliases-removed": &removed} {
		if json.Unmarshal(c.Data[name], list) != nil {
			*list = nil
		}
	}
	return added, removed
}
