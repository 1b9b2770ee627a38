package refresh

import (
	"bytes"
	"cmp"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"tenure"
)

// sweepCommands removes from snap/bin what nobody has any more, after a start of the machine: nobody has waited for the
// removal of commands to be on the disk, and a machine that lost its power may have them again, or a part of what was to
// take their place. What is not Tenure's stays. Entries are what was there before it was seen what is known.
func (m *Manager) sweepCommands(entries []os.DirEntry, states []snapState, links []relinked) error {
	known, err := m.commandNames(states, links)
	if err != nil {
		return err
	}
	// Links after what they are of.
	slices.SortStableFunc(entries, func(a, b os.DirEntry) int { return cmp.Compare(a.Type(), b.Type()) })
	for _, entry := range entries {
		if name := entry.Name(); !known[name] && m.leftCommand(name, entry.Type()) {
			m.complete(name, "", "", nil)
			err = errors.Join(err, removeExisting(filepath.Join(m.cfg.Paths.Bin(), name)))
		}
	}
	return err
}

// placedCommands is what there is in snap/bin.
func (m *Manager) placedCommands() ([]os.DirEntry, error) {
	entries, err := os.ReadDir(m.cfg.Paths.Bin())
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	return entries, nil
}

// commandNames are the names in snap/bin of the commands of snaps, of those that changes work on, and of all aliases.
func (m *Manager) commandNames(states []snapState, links []relinked) (map[string]bool, error) {
	known := map[string]bool{}
	add := func(snap tenure.Instance, all ...[]tenure.App) {
		for _, apps := range all {
			for _, app := range apps {
				known[commandName(snap, app)] = true
			}
		}
	}
	for i := range states {
		add(states[i].Instance, linksOf(&states[i]).ToApps)
	}
	for _, l := range links {
		add(l.params.Snap, l.params.FromApps, l.params.ToApps)
	}
	all, err := m.aliases.of("")
	for _, alias := range all {
		known[alias.Alias] = true
	}
	return known, err
}

// leftCommand reports whether something in snap/bin is one of ours, or what is left of one: the entry of an app, whose contents may
// not have come to the disk, the link of an alias of one that is gone, or what was to take the place of either.
func (m *Manager) leftCommand(name string, kind os.FileMode) bool {
	path := filepath.Join(m.cfg.Paths.Bin(), name)
	replacing := strings.HasPrefix(name, ".") && strings.HasSuffix(name, nextSuffix)
	switch {
	case replacing:
		return kind.IsRegular() || kind == os.ModeSymlink
	case kind == os.ModeSymlink:
		target, err := os.Readlink(path)
		return err == nil && !strings.Contains(target, "/") && isMissing(filepath.Join(m.cfg.Paths.Bin(), target))
	case !kind.IsRegular():
		return false
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return false
	}
	snap, app, _ := strings.Cut(name, ".")
	if app == "" {
		app = tenure.Instance(snap).Snap()
	}
	ours := m.entry(tenure.Instance(snap), tenure.App(app))
	return string(text) == ours || len(bytes.Trim(text, "\x00")) == 0 && len(text) <= len(ours)
}
