package refresh

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"tenure"
	"tenure/internal/source"
	"tenure/internal/supervise"
)

// Tracking is where the updates of a snap come from. The zero value is nowhere: the
// snap came from a file.
type Tracking struct {
	Source  string         `json:"source,omitempty"`
	Channel source.Channel `json:"channel,omitempty"`
}

// Origin is where a snap file came from.
type Origin struct {
	Tracking

	Release source.Release `json:"release"`
}

// defaultChannel is where snaps come from where nobody says otherwise.
const defaultChannel source.Channel = "latest/stable"

// lineOf is what the channel of a tracked snap has; of one revision that somebody asked
// for by its number, that alone, whatever channel it is in.
func (m *Manager) lineOf(ctx context.Context, snap tenure.Instance, t Tracking, only tenure.Revision) (source.Line, error) {
	all, err := m.sources.All()
	if err != nil {
		return nil, err
	}
	at := slices.IndexFunc(all, func(cfg SourceConfig) bool { return cfg.Name == t.Source })
	if at < 0 {
		return nil, fmt.Errorf("its source %q is not configured any more", t.Source)
	}
	opened, err := m.sources.source(all[at])
	if err != nil {
		return nil, err
	}
	listing, err := opened.Releases(ctx, snap.Snap())
	if err != nil {
		return nil, err
	}
	if only.IsZero() {
		return source.Follow(listing.Releases, t.Channel), nil
	}
	at = slices.IndexFunc(listing.Releases, func(r source.Release) bool { return r.Revision == only })
	if at < 0 {
		return nil, nil
	}
	return source.Line{listing.Releases[at]}, nil
}

// offer is the release that a request by hand brings a snap to. It fails with
// KindNoUpdate if the snap is there already.
func (m *Manager) offer(ctx context.Context, req Request, snap tenure.Instance) (Origin, error) {
	state, err := m.snaps.Get(snap)
	if err != nil {
		return Origin{}, err
	}
	op := string(req.Action)
	if state == nil || !state.Line.Installed() {
		if req.Action == ActionRefresh {
			_, err := m.installedSnap(op, snap)
			return Origin{}, err
		}
		return m.offerNew(ctx, req, snap)
	}
	if req.Action == ActionInstall {
		return Origin{}, &Error{Kind: KindInstalled, Op: op, Object: string(snap), Hint: "see tenure help refresh", Err: fmt.Errorf("snap %q is already installed", snap)}
	}
	if state.Line.Current.Local() && !req.Amend {
		if all, err := m.sources.All(); err != nil || len(all) == 0 {
			return Origin{}, errors.Join(err, m.noSource(req, snap))
		}
		return Origin{}, &Error{
			Kind: KindBad, Op: op, Object: string(snap), Hint: "use --amend to go on with what a source has",
			Err: fmt.Errorf("revision %s of it came from a file, and no source", state.Line.Current),
		}
	}
	t, err := state.Tracking.amended(req)
	if err != nil {
		return Origin{}, &Error{Kind: KindBad, Op: op, Object: string(snap), Err: err}
	}
	if t.Source == "" {
		return m.offerNew(ctx, req, snap)
	}
	line, err := m.lineOf(ctx, snap, t, req.Revision)
	if err != nil {
		return Origin{}, &Error{Kind: KindNoSource, Op: op, Object: string(snap), Hint: "see tenure source list", Err: err}
	}
	if len(line) == 0 {
		return Origin{}, m.nowhere(ctx, req, snap, t.Channel)
	}
	after := line.After(state.Line.Current)
	if len(after) == 0 {
		return Origin{Tracking: t}, noUpdate(op, snap)
	}
	return Origin{Tracking: t, Release: after[len(after)-1]}, nil
}

func noUpdate(op string, snap tenure.Instance) error {
	return &Error{Kind: KindNoUpdate, Op: op, Object: string(snap), Err: fmt.Errorf("snap %q has no updates available", snap)}
}

// amended is t as a request wants it.
func (t Tracking) amended(req Request) (Tracking, error) {
	next := Tracking{Source: cmp.Or(req.Source, t.Source), Channel: cmp.Or(t.Channel, defaultChannel)}
	if req.Channel == "" {
		return next, nil
	}
	var err error
	next.Channel, err = next.Channel.Switch(req.Channel)
	return next, err
}

// offerNew is the release of a snap that has come from no source yet: that of the first
// one that has it.
func (m *Manager) offerNew(ctx context.Context, req Request, snap tenure.Instance) (Origin, error) {
	op := string(req.Action)
	t, err := Tracking{}.amended(req)
	if err != nil {
		return Origin{}, &Error{Kind: KindBad, Op: op, Object: string(snap), Err: err}
	}
	all, err := m.sources.All()
	if err != nil {
		return Origin{}, err
	}
	if len(all) == 0 {
		return Origin{}, m.noSource(req, snap)
	}
	var failures []error
	for _, cfg := range all {
		if req.Source != "" && cfg.Name != req.Source {
			continue
		}
		t.Source = cfg.Name
		line, err := m.lineOf(ctx, snap, t, req.Revision)
		if err != nil {
			failures = append(failures, fmt.Errorf("source %s: %w", cfg.Name, err))
			continue
		}
		if len(line) > 0 {
			return Origin{Tracking: t, Release: line[len(line)-1]}, nil
		}
	}
	if len(failures) > 0 {
		return Origin{}, &Error{Kind: KindNoSource, Op: op, Object: string(snap), Hint: "see tenure source list", Err: errors.Join(failures...)}
	}
	return Origin{}, m.nowhere(ctx, req, snap, t.Channel)
}

// nowhere is the error for a snap that no source has in a channel.
func (m *Manager) nowhere(ctx context.Context, req Request, snap tenure.Instance, channel source.Channel) error {
	failed := &Error{Kind: KindNotFound, Op: string(req.Action), Object: string(snap), Err: fmt.Errorf("no source has a snap %q", snap.Snap())}
	if !req.Revision.IsZero() {
		failed.Err = fmt.Errorf("no source has revision %s of %q", req.Revision, snap.Snap())
		return failed
	}
	found, err := m.Find(ctx, snap.Snap())
	if err != nil {
		return err
	}
	var channels []string
	for _, c := range found {
		if c.Snap == snap.Snap() && (req.Source == "" || c.Source == req.Source) {
			for _, channel := range source.Channels(c.Releases) {
				channels = append(channels, string(channel))
			}
		}
	}
	if len(channels) > 0 {
		failed.Err = fmt.Errorf("there is nothing of it in the channel %s", channel)
		failed.Hint = "there is in " + strings.Join(channels, ", ")
	}
	return failed
}

// noSource is the error for a snap that was named where there is no source.
func (m *Manager) noSource(req Request, snap tenure.Instance) error {
	return &Error{
		Kind: KindNoSource, Op: string(req.Action), Object: string(snap),
		Hint: fmt.Sprintf("give the path of a file: tenure %s --dangerous ./%s.snap; or see tenure help source", req.Action, snap),
		Err:  errors.New("no source of snaps is configured"),
	}
}

// Offered is what one source has of one snap.
type Offered struct {
	Source, Snap string
	Releases     []source.Release
}

// Find is what sources have of snaps whose name or summary has a text in it.
func (m *Manager) Find(ctx context.Context, text string) ([]Offered, error) {
	all, err := m.sources.All()
	if err != nil {
		return nil, err
	}
	var found []Offered
	for _, cfg := range all {
		// What is wrong with a source is told by Sources.
		listing, err := m.listAll(ctx, cfg)
		if err != nil {
			continue
		}
		bySnap := map[string][]source.Release{}
		for _, r := range listing.Releases {
			bySnap[r.Snap] = append(bySnap[r.Snap], r)
		}
		for snap, releases := range bySnap {
			has := func(r source.Release) bool {
				return strings.Contains(strings.ToLower(r.Summary), strings.ToLower(text))
			}
			if strings.Contains(snap, strings.ToLower(text)) || slices.ContainsFunc(releases, has) {
				found = append(found, Offered{Source: cfg.Name, Snap: snap, Releases: releases})
			}
		}
	}
	slices.SortStableFunc(found, func(a, b Offered) int { return cmp.Compare(a.Snap, b.Snap) })
	return found, nil
}

// resolve makes the files of sources of the snaps that a request names. Done removes
// what nobody has taken of them.
func (m *Manager) resolve(ctx context.Context, req Request) (resolved Request, done func(), err error) {
	var made []string
	done = func() {
		for _, path := range made {
			m.removeStaged(path)
		}
	}
	if len(req.Snaps) == 0 || req.Action != ActionInstall && req.Action != ActionRefresh {
		return req, done, nil
	}
	resolved = req
	resolved.Snaps, resolved.Files = nil, slices.Clone(req.Files)
	var none error
	for _, snap := range slices.Compact(slices.Sorted(slices.Values(req.Snaps))) {
		origin, err := m.offer(ctx, req, snap)
		if len(req.Snaps) > 1 && nothingToDo(err) {
			none = err
			continue
		}
		if err == nil {
			err = m.take(ctx, &resolved, &made, snap, origin)
		}
		if err != nil {
			done()
			return req, func() {}, err
		}
	}
	if len(resolved.Files) == 0 {
		return req, done, none
	}
	if err := m.withBases(ctx, &resolved, &made); err != nil {
		done()
		return req, func() {}, err
	}
	return resolved, done, nil
}

// nothingToDo reports whether err says that a snap is as it was asked for already: one
// among several does not keep the others from it.
func nothingToDo(err error) bool {
	kind := KindOf(err)
	return kind == KindNoUpdate || kind == KindInstalled
}

// take fetches a release, as a file of a request.
func (m *Manager) take(ctx context.Context, req *Request, made *[]string, snap tenure.Instance, origin Origin) error {
	path, err := m.fetch(ctx, origin)
	if path != "" {
		*made = append(*made, path)
	}
	if err != nil {
		return &Error{Kind: kindOfPackage(err), Op: string(req.Action), Object: string(snap), Err: supervise.Short(err)}
	}
	req.Files = append(req.Files, File{Path: path, Label: origin.Release.String(), Name: snap, Origin: &origin})
	return nil
}

// fetch brings the file of a release into the staging directory.
func (m *Manager) fetch(ctx context.Context, origin Origin) (path string, err error) {
	cfg, found, err := m.sources.docs.Get(origin.Source)
	if err != nil || !found {
		return "", errors.Join(err, fmt.Errorf("source %q is not configured any more", origin.Source))
	}
	opened, err := m.sources.source(cfg)
	if err != nil {
		return "", err
	}
	if err := os.MkdirAll(m.cfg.Paths.Staging(), 0o700); err != nil {
		return "", err
	}
	file, err := os.CreateTemp(m.cfg.Paths.Staging(), "fetch-*.snap")
	if err != nil {
		return "", err
	}
	if err = file.Chmod(0o644); err == nil { // As that of an upload.
		err = opened.Fetch(ctx, origin.Release, file)
	}
	return file.Name(), errors.Join(err, file.Close())
}

// withBases adds the bases that are not installed, and that the files of a request
// from sources need.
func (m *Manager) withBases(ctx context.Context, req *Request, made *[]string) error {
	for _, file := range req.Files {
		if file.Origin == nil {
			continue
		}
		c, err := m.inspect(ctx, file)
		if err != nil {
			return err
		}
		base := tenure.Instance(c.Info.EffectiveBase())
		coming := func(other File) bool { return other.Name == base }
		if !needsBase(c.Info) || slices.ContainsFunc(req.Files, coming) {
			continue
		}
		if _, err := m.installedSnap("run on", base); KindOf(err) != KindNotInstalled {
			continue
		}
		origin, err := m.offerNew(ctx, Request{Action: ActionInstall}, base)
		if KindOf(err) != "" {
			continue // What needs it is refused, and says so.
		}
		if err == nil {
			err = m.take(ctx, req, made, base, origin)
		}
		if err != nil {
			return err
		}
	}
	return nil
}
