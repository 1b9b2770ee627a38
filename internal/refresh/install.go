package refresh

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"

	"tenure"
	"tenure/internal/revision"
	"tenure/internal/snapfile"
)

// installJobs are the jobs for snap files: a first install, or a refresh where
// the snap is there already. Bases come first, so that what needs them finds them.
func (m *Manager) installJobs(ctx context.Context, req Request, candidates []candidate) ([]job, error) {
	slices.SortStableFunc(candidates, func(a, b candidate) int { return rank(a.Info) - rank(b.Info) })
	bases, err := m.bases(candidates)
	if err != nil {
		return nil, err
	}
	var jobs []job
	for i := range candidates {
		c := &candidates[i]
		before, err := m.snaps.Get(c.Name)
		if err != nil {
			return nil, err
		}
		if req.Action == ActionRefresh && (before == nil || !before.Line.Installed()) {
			return nil, &Error{
				Kind: KindNotInstalled, Op: "refresh", Object: string(c.Name),
				Hint: "install it: tenure install --dangerous " + c.File.Label,
				Err:  fmt.Errorf("snap %q is not installed", c.Name),
			}
		}
		options := inherit(req.Options, before)
		if err := cmp.Or(admit(c, before, options, bases), m.unaliased(c.Name)); err != nil {
			return nil, err
		}
		j, err := m.installJob(ctx, c, before, options, req.Auto)
		if err != nil {
			return nil, err
		}
		jobs = append(jobs, j)
	}
	return jobs, nil
}

func rank(info *snapfile.Snap) int {
	if info.Type == snapfile.TypeApp {
		return 1
	}
	return 0
}

// inherit keeps the confinement that a snap was installed with.
func inherit(options Options, before *snapState) Options {
	if before == nil || options.Classic || options.DevMode || options.JailMode {
		return options
	}
	options.Classic, options.DevMode, options.JailMode = before.Options.Classic, before.Options.DevMode, before.Options.JailMode
	return options
}

// bases tells which bases are installed and enabled, or will be by the same request.
func (m *Manager) bases(candidates []candidate) (func(string) bool, error) {
	all, err := m.snaps.All()
	if err != nil {
		return nil, err
	}
	have := map[string]bool{}
	for _, state := range all {
		if state.Line.Installed() && state.Line.Active && isBase(state.Kept[state.Line.Current].Info) {
			have[string(state.Instance)] = true
		}
	}
	for i := range candidates {
		if isBase(candidates[i].Info) {
			have[string(candidates[i].Name)] = true
		}
	}
	return func(name string) bool { return have[name] }, nil
}

func isBase(info *snapfile.Snap) bool {
	return info.Type == snapfile.TypeBase || info.Type == snapfile.TypeOS
}

func (m *Manager) installJob(ctx context.Context, c *candidate, before *snapState, options Options, auto bool) (job, error) {
	bad := func(err error) (job, error) {
		return job{}, &Error{Kind: KindBad, Op: "install", Object: string(c.Name), Err: err}
	}
	state := snapState{Instance: c.Name}
	if before != nil {
		state = *before
	}
	rev := state.Line.NextLocal()
	if c.File.Origin != nil {
		rev = c.File.Origin.Release.Revision
	}
	if c.File.Origin != nil && rev == state.Line.Current {
		return job{}, noUpdate("refresh", c.Name) // Somebody was faster.
	}
	present := state.Line.Has(rev)
	if present {
		if err := m.again(ctx, c, &state, rev); err != nil {
			return job{}, err
		}
	}
	advance := revision.Install
	if state.Line.Installed() {
		advance = revision.Refresh
	}
	line, _, err := advance(state.Line, rev)
	if err != nil {
		return bad(err)
	}
	after := state.with(line)
	after.Kept[rev] = kept{Info: c.Info, Digest: c.Digest, Size: c.Size, Installed: m.cfg.Now().UTC(), Origin: c.File.Origin}
	after.Options = Options{Classic: options.Classic, DevMode: options.DevMode, JailMode: options.JailMode}
	after.Disabled = disabledAfter(before, c.Info)
	if c.File.Origin != nil {
		after.Tracking = c.File.Origin.Tracking
	}
	j := job{Reason: tenure.ReasonRefresh, Before: before, After: after, Staged: c.File.Path, Options: options, Present: present, Auto: auto}
	j.Copy = before != nil && before.Line.Installed()
	if present {
		j.Staged = ""
	}
	return j, nil
}

// again reports why a snap cannot go to a revision that it has been on before and that
// is still there: it may be another file of that number, or something may still run
// from it, whose data would have to be replaced.
func (m *Manager) again(ctx context.Context, c *candidate, state *snapState, rev tenure.Revision) error {
	refuse := func(hint string, err error) error {
		return &Error{Kind: KindRefused, Op: "refresh", Object: string(c.Name), Hint: hint, Err: err}
	}
	if there := state.Kept[rev].Digest; there != c.Digest {
		return refuse("see tenure why "+tenure.Ref{Snap: c.Name, Revision: rev}.String(),
			fmt.Errorf("its revision %s, of another file (SHA-256 %s), is still here", rev, there))
	}
	pins, err := m.pins(ctx, state)
	if err != nil {
		return err
	}
	for _, pin := range pins[rev] {
		if pin.Kind == revision.PinUnit || pin.Kind == revision.PinProcess {
			hint := "it must end first; see tenure why " + tenure.Ref{Snap: c.Name, Revision: rev}.String()
			if pin.Kind == revision.PinUnit {
				hint = "end it first: tenure stop " + pin.By
			}
			return refuse(hint, fmt.Errorf("revision %s, whose data would be made anew, is still in use by %s", rev, pin))
		}
	}
	return nil
}

// disabledAfter are the services that are not started by themselves: those that were not
// before, and new ones that ask for it (install-mode). One that this revision does not
// have is among them, for it stays disabled where a later one, or a revert, brings it back.
func disabledAfter(before *snapState, info *snapfile.Snap) []tenure.App {
	var disabled []tenure.App
	var was *snapfile.Snap
	if before != nil && before.Line.Installed() {
		disabled = slices.Clone(before.Disabled)
		was = before.Kept[before.Line.Current].Info
	}
	for i := range info.Apps {
		app := &info.Apps[i]
		if app.IsService() && !hasService(was, app.Name) && !app.StartsOnInstall() && !slices.Contains(disabled, app.Name) {
			disabled = append(disabled, app.Name)
		}
	}
	return disabled
}

// hasService reports whether a revision, or none, has a service of this name.
func hasService(info *snapfile.Snap, name tenure.App) bool {
	if info == nil {
		return false
	}
	app := info.App(name)
	return app != nil && app.IsService()
}

// with is a copy of s with another line.
func (s *snapState) with(line revision.State) *snapState {
	after := *s
	after.Line = line
	after.Kept = maps.Clone(s.Kept)
	if after.Kept == nil {
		after.Kept = make(map[tenure.Revision]kept)
	}
	maps.DeleteFunc(after.Kept, func(rev tenure.Revision, _ kept) bool { return !line.Has(rev) })
	return &after
}

// stage puts the file of j where the change finds it, also after a crash: it is
// the change's own from then on. A file that is in the staging directory already is
// renamed, any other is copied.
func (m *Manager) stage(ctx context.Context, j *job, files map[tenure.Instance]string) error {
	from := files[j.snap()]
	if j.Staged == "" || from == "" {
		return nil
	}
	dir := m.cfg.Paths.Staging()
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("stage %s: %w", j.snap(), err)
	}
	staged, err := os.CreateTemp(dir, string(j.snap())+"-*.snap")
	if err != nil {
		return fmt.Errorf("stage %s: %w", j.snap(), err)
	}
	defer staged.Close() //nolint:errcheck // What counts is checked before.
	j.Staged = staged.Name()
	if filepath.Dir(from) == dir {
		if err := os.Rename(from, j.Staged); err != nil {
			return fmt.Errorf("stage %s: %w", j.snap(), err)
		}
		m.sound.Store(j.Staged, true)
		return nil
	}
	source, err := os.Open(from)
	if err != nil {
		return fmt.Errorf("stage %s: %w", j.snap(), err)
	}
	defer source.Close() //nolint:errcheck // Opened for reading.
	if _, err := io.Copy(staged, withContext{ctx, source}); err != nil {
		return fmt.Errorf("stage %s: %w", j.snap(), err)
	}
	return nil
}

// stageAll stages the files of all jobs, or none, if there is room for what they are for.
func (m *Manager) stageAll(ctx context.Context, op string, p *prepared) error {
	if err := m.enough(ctx, op, p); err != nil {
		return err
	}
	for i := range p.jobs {
		if err := m.stage(ctx, &p.jobs[i], p.files); err != nil {
			m.unstage(p.jobs[:i+1], p.files)
			return err
		}
	}
	return nil
}

// unstage takes back stage. Files that it has renamed are again where they were: the request may be tried once more.
func (m *Manager) unstage(jobs []job, files map[tenure.Instance]string) {
	for i := range jobs {
		staged, from := jobs[i].Staged, files[jobs[i].snap()]
		if staged == "" || staged == from {
			continue // There was none, or no place for it.
		}
		// Nobody else has a file of that name there.
		if _, err := os.Lstat(from); filepath.Dir(from) == m.cfg.Paths.Staging() && errors.Is(err, fs.ErrNotExist) && os.Rename(staged, from) == nil {
			m.sound.Delete(staged)
			continue
		}
		m.removeStaged(staged)
	}
}

// withContext stops reading when ctx ends.
type withContext struct {
	ctx context.Context //nolint:containedctx // It lives as long as one copy.
	io.Reader
}

func (r withContext) Read(b []byte) (int, error) {
	if err := r.ctx.Err(); err != nil {
		return 0, context.Cause(r.ctx)
	}
	return r.Reader.Read(b)
}
