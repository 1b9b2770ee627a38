package refresh

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"tenure"
	"tenure/internal/journal"
	"tenure/internal/source"
)

// SourceConfig is a source that the administrator has added.
type SourceConfig struct {
	Name string `json:"name"`
	// Kind says what it is, Location where: for "dir" the path of a directory.
	Kind     string    `json:"kind"`
	Location string    `json:"location"`
	Added    time.Time `json:"added"`
}

// Opener makes the source of a kind at a location.
type Opener func(location string) (source.Source, error)

// sources are where packages come from.
type sources struct {
	docs *journal.Collection[SourceConfig]
	open map[string]Opener
	// opened are those that have been opened, with what they know of what they have.
	opened *opened
}

type opened struct {
	mu sync.Mutex
	at map[sourceAt]source.Source
}

// sourceAt is where a source is.
type sourceAt struct{ kind, location string }

func newSources(db *journal.DB, open map[string]Opener) sources {
	return sources{
		docs: journal.NewCollection[SourceConfig](db, "sources"), open: open, opened: &opened{at: map[sourceAt]source.Source{}},
	}
}

// All are all sources, in the order in which they were added: that in which they are
// asked for a snap.
func (s *sources) All() ([]SourceConfig, error) {
	all, err := s.docs.All()
	if err != nil {
		return nil, fmt.Errorf("read sources: %w", err)
	}
	return slices.SortedFunc(maps.Values(all), func(a, b SourceConfig) int {
		return cmp.Or(a.Added.Compare(b.Added), cmp.Compare(a.Name, b.Name))
	}), nil
}

// source is the source of a configuration, which is opened once.
func (s *sources) source(cfg SourceConfig) (source.Source, error) {
	at := sourceAt{cfg.Kind, cfg.Location}
	s.opened.mu.Lock()
	found := s.opened.at[at]
	s.opened.mu.Unlock()
	if found != nil {
		return found, nil
	}
	found, err := s.openAnew(cfg)
	if err == nil {
		s.opened.mu.Lock()
		s.opened.at[at] = found
		s.opened.mu.Unlock()
	}
	return found, err
}

// drop forgets what is opened of a configuration that is gone.
func (s *sources) drop(cfg SourceConfig) {
	s.opened.mu.Lock()
	defer s.opened.mu.Unlock()
	delete(s.opened.at, sourceAt{cfg.Kind, cfg.Location})
}

func (s *sources) openAnew(cfg SourceConfig) (source.Source, error) {
	open := s.open[cfg.Kind]
	if open == nil {
		return nil, fmt.Errorf("there is no kind of source %q; there are: %s", cfg.Kind, strings.Join(slices.Sorted(maps.Keys(s.open)), ", "))
	}
	return open(cfg.Location)
}

// SourceInfo is a source, and what it has.
type SourceInfo struct {
	SourceConfig

	// Snaps and Releases say how many of each there are.
	Snaps, Releases int
	// Used are the installed snaps whose updates come from it.
	Used []tenure.Instance
	// Problems are what is wrong with it; what they are about counts as not there.
	Problems []error
}

// Sources are all sources.
func (m *Manager) Sources(ctx context.Context) ([]SourceInfo, error) {
	all, err := m.sources.All()
	if err != nil {
		return nil, err
	}
	infos := make([]SourceInfo, 0, len(all))
	for _, cfg := range all {
		info := SourceInfo{SourceConfig: cfg}
		if info.Used, err = m.tracking(cfg.Name); err != nil {
			return nil, err
		}
		listing, err := m.listAll(ctx, cfg)
		if err != nil {
			info.Problems = append(info.Problems, err)
		}
		info.Problems = append(info.Problems, listing.Problems...)
		info.Releases = len(listing.Releases)
		snaps := map[string]bool{}
		for i := range listing.Releases {
			snaps[listing.Releases[i].Snap] = true
		}
		info.Snaps = len(snaps)
		infos = append(infos, info)
	}
	return infos, nil
}

// listAll is all that a source can say that it has.
func (m *Manager) listAll(ctx context.Context, cfg SourceConfig) (source.Listing, error) {
	opened, err := m.sources.source(cfg)
	if err != nil {
		return source.Listing{}, err
	}
	lister, ok := opened.(source.Lister)
	if !ok {
		return source.Listing{}, nil
	}
	return lister.All(ctx)
}

// tracking are the installed snaps whose updates come from a source.
func (m *Manager) tracking(name string) ([]tenure.Instance, error) {
	states, err := m.snaps.All()
	if err != nil {
		return nil, err
	}
	var used []tenure.Instance
	for i := range states {
		if states[i].Line.Installed() && states[i].Tracking.Source == name {
			used = append(used, states[i].Instance)
		}
	}
	return used, nil
}

// AddSource adds a source, which must be there. An empty name is that of its location.
func (m *Manager) AddSource(_ context.Context, cfg SourceConfig) (SourceConfig, error) {
	bad := func(hint string, err error) (SourceConfig, error) {
		return cfg, &Error{Kind: KindBad, Op: "add source", Object: cmp.Or(cfg.Name, cfg.Location), Hint: hint, Err: err}
	}
	if cfg.Name == "" {
		cfg.Name = filepath.Base(cfg.Location)
	}
	if err := tenure.CheckSnapName(cfg.Name); err != nil {
		return bad("give it a name with --name", err)
	}
	if _, err := m.sources.openAnew(cfg); err != nil {
		return bad("", err)
	}
	cfg.Added = m.cfg.Now().UTC()
	err := m.cfg.Journal.Update(func(tx *journal.Tx) error {
		docs := m.sources.docs.In(tx)
		if _, found, err := docs.Get(cfg.Name); err != nil || found {
			return errors.Join(err, errTaken)
		}
		return docs.Put(cfg.Name, cfg)
	})
	if errors.Is(err, errTaken) {
		return bad("give it another one with --name", fmt.Errorf("there is a source %q already", cfg.Name))
	}
	if err != nil {
		return cfg, fmt.Errorf("add source %s: %w", cfg.Name, err)
	}
	m.look()
	return cfg, nil
}

var errTaken = errors.New("the name is taken")

// RemoveSource removes a source, and gives the snaps whose updates came from it. They
// stay as they are.
func (m *Manager) RemoveSource(_ context.Context, name string) ([]tenure.Instance, error) {
	used, err := m.tracking(name)
	if err != nil {
		return nil, err
	}
	cfg, found, err := m.sources.docs.Get(name)
	if err == nil && !found {
		return nil, &Error{Kind: KindNotFound, Op: "remove source", Object: name, Hint: "see tenure source list", Err: fmt.Errorf("there is no source %q", name)}
	}
	if err == nil {
		err = m.sources.docs.Delete(name)
	}
	if err != nil {
		return nil, fmt.Errorf("remove source %s: %w", name, err)
	}
	m.sources.drop(cfg)
	m.look()
	return used, nil
}
