package refresh

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"tenure"
	"tenure/internal/change"
	"tenure/internal/durable"
	"tenure/internal/journal"
	"tenure/internal/snapfile"
)

// Alias is another name of a command in snap/bin. It stays when the app is away for a
// while, on a revision that does not have it or while its snap is disabled, and goes when
// the snap is removed.
type Alias struct {
	Alias string          `json:"alias"`
	Snap  tenure.Instance `json:"snap"`
	App   tenure.App      `json:"app"`
}

// Command is the name that a has an alias for.
func (a Alias) Command() string { return commandName(a.Snap, a.App) }

// aliases are all of them, by their names.
type aliases struct {
	docs *journal.Collection[Alias]
}

func newAliases(db *journal.DB) aliases {
	return aliases{journal.NewCollection[Alias](db, "aliases")}
}

// of are those of one snap, and of all if none is given, in the order of their names.
func (a *aliases) of(snap tenure.Instance) ([]Alias, error) {
	all, err := a.docs.All()
	if err != nil {
		return nil, fmt.Errorf("read aliases: %w", err)
	}
	var found []Alias
	for _, name := range slices.Sorted(maps.Keys(all)) {
		if alias := all[name]; snap == "" || alias.Snap == snap {
			found = append(found, alias)
		}
	}
	return found, nil
}

// drop forgets those of a snap that is gone.
func (a *aliases) drop(snap tenure.Instance) error {
	gone, err := a.of(snap)
	for _, alias := range gone {
		err = errors.Join(err, a.docs.Delete(alias.Alias))
	}
	return err
}

// Aliases are all aliases.
func (m *Manager) Aliases() ([]Alias, error) { return m.aliases.of("") }

// AliasRequest asks for aliases, or that they go.
type AliasRequest struct {
	// Action is what to do: alias, unalias or prefer.
	Action string
	// Snap and App are whose alias it is. For unalias, a snap alone is all of its own.
	Snap, App string
	Alias     string
}

// The actions on aliases.
const (
	actionAlias   = "alias"
	actionUnalias = "unalias"
	actionPrefer  = "prefer"
)

// ChangeAliases begins a change of aliases.
func (m *Manager) ChangeAliases(ctx context.Context, req AliasRequest) (change.ID, error) {
	for {
		id, err := m.beginAliases(ctx, req)
		if !errors.Is(err, errStale) {
			return id, err
		}
	}
}

func (m *Manager) beginAliases(ctx context.Context, req AliasRequest) (change.ID, error) {
	var p aliasParams
	var err error
	object := cmp.Or(req.Alias, req.Snap)
	switch req.Action {
	case actionAlias:
		object = fmt.Sprintf("%s.%s as %s", req.Snap, req.App, req.Alias)
		p, err = m.newAlias(req)
	case actionUnalias:
		p, err = m.lessAliases(req)
	case actionPrefer:
		p, err = m.preferred(req)
	default:
		err = fmt.Errorf("action should be one of: %s, %s, %s; it is %q", actionAlias, actionPrefer, actionUnalias, req.Action)
	}
	if err == nil {
		err = m.room(p)
	}
	if err != nil && KindOf(err) == "" {
		err = &Error{Kind: KindBad, Op: req.Action, Object: object, Hint: "see tenure aliases", Err: err}
	}
	if err != nil {
		return 0, err
	}
	snaps := p.snaps()
	if err := m.vacate(ctx, req.Action, snaps); err != nil {
		return 0, err
	}
	details, err := json.Marshal(p)
	if err != nil {
		return 0, err
	}
	release, err := m.claims.take(ctx, snaps...)
	if err != nil {
		return 0, err
	}
	defer release()
	id, err := m.engine.Start(ctx, change.NewChange{
		Kind: req.Action, Summary: p.summary(req), Snaps: snaps, Details: details,
		Tasks: []change.TaskSpec{change.NewTask(taskAlias, p.summary(req), p)},
	})
	if err != nil {
		return 0, conflict(req.Action, object, err)
	}
	return id, nil
}

// newAlias is what a request for one alias comes to.
func (m *Manager) newAlias(req AliasRequest) (aliasParams, error) {
	alias := Alias{Alias: req.Alias, Snap: tenure.Instance(req.Snap), App: tenure.App(req.App)}
	info, err := m.aliased(req)
	if err != nil {
		return aliasParams{}, err
	}
	if !snapfile.IsAlias(alias.Alias) {
		return aliasParams{}, fmt.Errorf("%q cannot be the name of a command: it should be letters, digits and - _ . , and begin with one of the former", alias.Alias)
	}
	if !slices.Contains(commands(info), alias.App) {
		return aliasParams{}, &Error{
			Kind: KindApp, Op: req.Action, Object: req.Snap + "." + req.App, Hint: "see tenure info " + req.Snap,
			Err: fmt.Errorf("snap %q has no command of that name", req.Snap),
		}
	}
	known, found, err := m.aliases.docs.Get(alias.Alias)
	if err != nil {
		return aliasParams{}, err
	}
	if found && known.Snap != alias.Snap {
		return aliasParams{}, fmt.Errorf("it is an alias of %s already", known.Command())
	}
	p := aliasParams{Added: []Alias{alias}}
	if found {
		p.Removed = []Alias{known}
	}
	return p, nil
}

// lessAliases is what a request to remove aliases comes to: one, or all of a snap.
func (m *Manager) lessAliases(req AliasRequest) (aliasParams, error) {
	known, found, err := m.aliases.docs.Get(cmp.Or(req.Alias, req.Snap))
	if err != nil {
		return aliasParams{}, err
	}
	if found && req.Alias != "" {
		return aliasParams{Removed: []Alias{known}}, nil
	}
	if req.Snap == "" {
		return aliasParams{}, fmt.Errorf("there is no such alias")
	}
	if _, err := m.aliased(req); err != nil {
		return aliasParams{}, fmt.Errorf("there is no alias, and no snap, of that name")
	}
	all, err := m.aliases.of(tenure.Instance(req.Snap))
	return aliasParams{Snap: tenure.Instance(req.Snap), Removed: all}, err
}

// preferred is what a request to prefer a snap comes to: all aliases that its package
// names, also those that others have.
func (m *Manager) preferred(req AliasRequest) (aliasParams, error) {
	info, err := m.aliased(req)
	if err != nil {
		return aliasParams{}, err
	}
	p := aliasParams{Snap: tenure.Instance(req.Snap)}
	for _, app := range commands(info) {
		for _, name := range info.App(app).Aliases {
			wanted := Alias{Alias: name, Snap: p.Snap, App: app}
			known, found, err := m.aliases.docs.Get(name)
			if err != nil {
				return p, err
			}
			if found && known == wanted {
				continue
			}
			if p.Added = append(p.Added, wanted); found {
				p.Removed = append(p.Removed, known)
			}
		}
	}
	return p, nil
}

// aliased is the snap that a request is about.
func (m *Manager) aliased(req AliasRequest) (*snapfile.Snap, error) {
	snap, err := tenure.ParseInstance(req.Snap)
	if err != nil {
		return nil, err
	}
	state, err := m.installedSnap(req.Action, snap)
	if err != nil {
		return nil, err
	}
	return state.Kept[state.Line.Current].Info, nil
}

// room is nil if no snap has the names of the aliases that are to be, for its commands.
func (m *Manager) room(p aliasParams) error {
	states, err := m.snaps.All()
	if err != nil {
		return err
	}
	for _, alias := range p.Added {
		for i := range states {
			if snap := states[i].Instance; states[i].Line.Installed() && namesCommands(snap, alias.Alias) {
				return fmt.Errorf("%q is a name for commands of the snap %q", alias.Alias, snap)
			}
		}
	}
	return nil
}

// namesCommands reports whether a name in snap/bin is one for commands of a snap.
func namesCommands(snap tenure.Instance, name string) bool {
	owner, _, _ := strings.Cut(name, ".")
	return owner == string(snap)
}

// unaliased refuses to install a snap whose commands have names that are aliases.
func (m *Manager) unaliased(snap tenure.Instance) error {
	all, err := m.aliases.of("")
	if err != nil {
		return err
	}
	for _, alias := range all {
		if alias.Snap != snap && namesCommands(snap, alias.Alias) {
			return &Error{
				Kind: KindBad, Op: string(ActionInstall), Object: string(snap), Hint: "remove the alias first: tenure unalias " + alias.Alias,
				Err: fmt.Errorf("its commands would have the name %q, which is an alias of %s", alias.Alias, alias.Command()),
			}
		}
	}
	return nil
}

// aliasStep makes aliases durable, and links of them.
type aliasStep struct{ m *Manager }

// aliasParams are the aliases that come and go. The names are those of snapd's API, which
// a change has as its data.
type aliasParams struct {
	// Snap is whom it is about, whether anything comes and goes or not.
	Snap    tenure.Instance `json:"snap,omitempty"`
	Added   []Alias         `json:"aliases-added,omitempty"`
	Removed []Alias         `json:"aliases-removed,omitempty"`
}

func (p aliasParams) snaps() []tenure.Instance {
	var snaps []tenure.Instance
	if p.Snap != "" {
		snaps = append(snaps, p.Snap)
	}
	for _, alias := range slices.Concat(p.Added, p.Removed) {
		snaps = append(snaps, alias.Snap)
	}
	return slices.Compact(slices.Sorted(slices.Values(snaps)))
}

func (p aliasParams) summary(req AliasRequest) string {
	switch {
	case req.Action == actionPrefer:
		return fmt.Sprintf("Prefer aliases of snap %q", p.Snap)
	case len(p.Added) > 0:
		return fmt.Sprintf("Set up alias %q => %q for snap %q", p.Added[0].Alias, p.Added[0].App, p.Added[0].Snap)
	case p.Snap != "":
		return fmt.Sprintf("Disable all aliases for snap %q", p.Snap)
	}
	return fmt.Sprintf("Remove alias %q for snap %q", p.Removed[0].Alias, p.Removed[0].Snap)
}

func (s aliasStep) Do(_ context.Context, p aliasParams) (nothing, error) {
	err := s.replace(p.Removed, p.Added)
	if err == nil {
		return nothing{}, nil
	}
	return nothing{}, errors.Join(err, s.back(p))
}

func (s aliasStep) Undo(_ context.Context, p aliasParams, _ nothing) error { return s.back(p) }

// back puts things back, now or as soon as the disk lets it.
func (s aliasStep) back(p aliasParams) error {
	recorded := false
	putBack := func() (err error) {
		// Once it is recorded it is for everybody to change: only the links are behind.
		if !recorded {
			err = s.putBack(p)
			recorded = err == nil
		}
		if err == nil {
			err = s.m.linkNames(namesOf(p.Added, p.Removed))
		}
		return err
	}
	err := putBack()
	if err != nil {
		s.m.mend(fmt.Sprintf("the aliases of %s (%v, %v)", p.snaps(), p.Added, p.Removed), func(ctx context.Context) error {
			return s.m.between(ctx, p.snaps(), putBack)
		})
	}
	return err
}

// putBack records those aliases again that were there before, as far as nobody has changed them since.
func (s aliasStep) putBack(p aliasParams) error {
	m := s.m
	left, was := byName(p.Added), byName(p.Removed)
	names := namesOf(p.Added, p.Removed)
	for name, alias := range was {
		if state, err := m.snaps.Get(alias.Snap); err != nil {
			return err
		} else if state == nil {
			delete(was, name) // It went with its snap.
		}
	}
	err := m.cfg.Journal.Update(func(tx *journal.Tx) error {
		docs := m.aliases.docs.In(tx)
		for _, name := range names {
			now, found, err := docs.Get(name)
			done, added := left[name]
			switch old, had := was[name]; {
			case err != nil:
				return err
			case found != added || now != done:
				continue
			case had:
				err = docs.Put(name, old)
			case found:
				err = docs.Delete(name)
			}
			if err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("record aliases: %w", err)
	}
	return nil
}

// namesOf are the names of aliases, each once.
func namesOf(lists ...[]Alias) []string {
	return slices.Sorted(maps.Keys(byName(slices.Concat(lists...))))
}

func byName(all []Alias) map[string]Alias {
	named := make(map[string]Alias, len(all))
	for _, alias := range all {
		named[alias.Alias] = alias
	}
	return named
}

// linkAlias makes the link of an alias that is recorded, if its snap can have it, or removes it.
func (m *Manager) linkAlias(name string) error {
	alias, found, err := m.aliases.docs.Get(name)
	if err != nil {
		return err
	}
	if !found {
		return m.dropAlias(name)
	}
	state, err := m.snaps.Get(alias.Snap)
	if err != nil {
		return err
	}
	if state == nil || !state.Line.Active {
		return m.dropAlias(name)
	}
	info := state.Kept[state.Line.Current].Info
	return m.makeAlias(alias, commands(info), completed(info))
}

// linkNames is linkAlias for each of some names.
func (m *Manager) linkNames(names []string) error {
	for _, name := range names {
		if err := m.linkAlias(name); err != nil {
			return err
		}
	}
	return nil
}

// replace makes those of added the aliases in place of removed: all are recorded, or none, and then links are made.
func (s aliasStep) replace(removed, added []Alias) error {
	m := s.m
	err := m.cfg.Journal.Update(func(tx *journal.Tx) error {
		docs := m.aliases.docs.In(tx)
		for _, alias := range removed {
			if err := docs.Delete(alias.Alias); err != nil {
				return err
			}
		}
		for _, alias := range added {
			if err := docs.Put(alias.Alias, alias); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("record aliases: %w", err)
	}
	if err := m.linkNames(namesOf(removed, added)); err != nil {
		return err
	}
	// What goes does not come back with the next loss of power.
	if len(removed) > 0 {
		return durable.Sync(m.cfg.Paths.Bin())
	}
	return nil
}

// linkAliases makes the links of a snap's aliases to those apps that it has now, and has
// those completed that can be.
func (m *Manager) linkAliases(snap tenure.Instance, apps, completed []tenure.App) error {
	all, err := m.aliases.of(snap)
	if err != nil {
		return err
	}
	for _, alias := range all {
		if err := m.makeAlias(alias, apps, completed); err != nil {
			return err
		}
	}
	return nil
}

func (m *Manager) makeAlias(alias Alias, apps, completed []tenure.App) error {
	if !slices.Contains(apps, alias.App) {
		return m.dropAlias(alias.Alias)
	}
	m.complete(alias.Alias, alias.Snap, alias.App, completed)
	path := filepath.Join(m.cfg.Paths.Bin(), alias.Alias)
	if err := pointAt(path, alias.Command()); err != nil {
		return fmt.Errorf("make alias: %w", err)
	}
	return nil
}

// dropAlias removes the link of an alias; what is no link is none of ours.
func (m *Manager) dropAlias(name string) error {
	m.complete(name, "", "", nil)
	path := filepath.Join(m.cfg.Paths.Bin(), name)
	if err := removeExisting(nextOf(path)); err != nil {
		return fmt.Errorf("remove alias: %w", err)
	}
	if info, err := os.Lstat(path); err != nil || info.Mode().Type() != os.ModeSymlink {
		return nil //nolint:nilerr // There is no link.
	}
	if err := removeExisting(path); err != nil {
		return fmt.Errorf("remove alias: %w", err)
	}
	return nil
}
