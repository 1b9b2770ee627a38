package refresh

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"

	"golang.org/x/sync/errgroup"

	"tenure"
	"tenure/internal/change"
	"tenure/internal/durable"
	"tenure/internal/policy"
	"tenure/internal/snapdata"
	"tenure/internal/supervise"
)

// prepareStep keeps the staged file as that of its revision. Data that is left of
// the revision from an earlier time is put aside until the change is done: here, for
// the copy, which may be begun more than once, must know what is there for its own.
type prepareStep struct{ m *Manager }

type prepareParams struct {
	Ref    tenure.Ref `json:"ref"`
	Staged string     `json:"staged"`
	// Digest is what the file was when it was admitted, a SHA-256 in hex: nobody has waited
	// for it to be on the disk, so that another daemon, after a power cut, has to look.
	Digest string `json:"digest,omitempty"`
}

type nothing struct{}

func (s prepareStep) Do(ctx context.Context, p prepareParams) (nothing, error) {
	err := snapdata.Aside(s.m.cfg.Paths.Data(p.Ref))
	if err == nil {
		err = s.keep(ctx, p)
	}
	return nothing{}, change.Partial(err)
}

func (s prepareStep) keep(ctx context.Context, p prepareParams) error {
	var err error
	if _, sound := s.m.sound.LoadAndDelete(p.Staged); !sound {
		err = admitted(ctx, p.Staged, p.Digest)
	}
	if err == nil {
		_, err = s.m.cfg.Mounts.Take(ctx, p.Ref.Snap, p.Ref.Revision, p.Staged)
	}
	if errors.Is(err, fs.ErrNotExist) {
		// It was taken before a crash.
		if _, found := os.Stat(s.m.cfg.Mounts.File(p.Ref.Snap, p.Ref.Revision)); found == nil {
			return nil
		}
	}
	return err
}

// errTorn is that a file is not what it was.
var errTorn = errors.New("it is not the file that was admitted any more: the machine has lost a part of it; give it again")

// admitted fails unless the file at path is the one of a digest, if there is one.
func admitted(ctx context.Context, path, want string) error {
	if want == "" {
		return nil
	}
	sum, _, err := digest(ctx, path)
	if err != nil {
		return fmt.Errorf("keep snap file: %w", err)
	}
	if sum != want {
		return fmt.Errorf("keep snap file %s: %w", path, errTorn)
	}
	return nil
}

func (s prepareStep) Undo(ctx context.Context, p prepareParams, _ nothing) error {
	s.m.sound.Delete(p.Staged)
	return errors.Join(
		s.m.dropStaged(ctx, p.Ref),
		removeExisting(p.Staged),
		s.m.cfg.Mounts.Remove(p.Ref.Snap, p.Ref.Revision),
		snapdata.Restore(s.m.cfg.Paths.Data(p.Ref)),
	)
}

// mountStep mounts a revision below the snap's directory, which is a shared
// mount, so that units that hold it as a slave see later revisions.
type mountStep struct {
	m *Manager
	// waits is that what is read ahead is waited for: the gap of another snap may follow, which is not
	// to have a processor less.
	waits bool
}

type mountParams struct {
	Ref tenure.Ref `json:"ref"`
	// Ahead are programs in it that are to be brought into memory.
	Ahead []string `json:"ahead,omitempty"`
}

func (s mountStep) Do(ctx context.Context, p mountParams) (nothing, error) {
	if err := s.m.mountRevision(ctx, p.Ref); err != nil {
		return nothing{}, errors.Join(err, s.Undo(context.WithoutCancel(ctx), p, nothing{}))
	}
	s.m.aheads.begin(p.Ref, s.m.cfg.Mounts.Dir(p.Ref.Snap, p.Ref.Revision), p.Ahead)
	if s.waits {
		s.m.aheads.wait(ctx, p.Ref)
	}
	return nothing{}, nil
}

func (s mountStep) Undo(ctx context.Context, p mountParams, _ nothing) error {
	if err := s.m.unmountRevision(ctx, p.Ref); err != nil {
		return err
	}
	return s.m.dropSnapDir(ctx, p.Ref.Snap)
}

func (m *Manager) mountRevision(ctx context.Context, ref tenure.Ref) error {
	dir := m.cfg.Mounts.SnapDir(ref.Snap)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("mount %s: %w", ref, err)
	}
	if err := m.cfg.Table.Share(dir); err != nil {
		return fmt.Errorf("mount %s: %w", ref, err)
	}
	point := m.cfg.Mounts.Dir(ref.Snap, ref.Revision)
	if err := os.MkdirAll(point, 0o755); err != nil {
		return fmt.Errorf("mount %s: %w", ref, err)
	}
	if _, err := m.cfg.Table.Mount(ctx, m.cfg.Mounts.File(ref.Snap, ref.Revision), point); err != nil {
		return fmt.Errorf("mount %s: %w", ref, err)
	}
	m.broken.note(ref, nil)
	return nil
}

func (m *Manager) unmountRevision(ctx context.Context, ref tenure.Ref) error {
	point := m.cfg.Mounts.Dir(ref.Snap, ref.Revision)
	m.aheads.end(ref)
	if err := m.cfg.Table.Unmount(ctx, point); err != nil {
		return fmt.Errorf("unmount %s: %w", ref, err)
	}
	if err := os.Remove(point); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("unmount %s: %w", ref, err)
	}
	m.broken.note(ref, nil)
	return nil
}

// dropSnapDir removes the directory of a snap that has no revision any more.
func (m *Manager) dropSnapDir(ctx context.Context, snap tenure.Instance) error {
	dir := m.cfg.Mounts.SnapDir(snap)
	if err := removeExisting(nextOf(filepath.Join(dir, current))); err != nil {
		return fmt.Errorf("remove directory of %s: %w", snap, err)
	}
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) || len(entries) > 0 {
		return nil
	}
	if err != nil {
		return fmt.Errorf("remove directory of %s: %w", snap, err)
	}
	if err := m.cfg.Table.DetachTree(ctx, dir); err != nil {
		return fmt.Errorf("remove directory of %s: %w", snap, err)
	}
	return os.Remove(dir)
}

// copyStep makes the data directories of a revision, and fills them with a
// first copy of the data of the one before, while its services run.
type copyStep struct{ m *Manager }

type copyParams struct {
	From tenure.Ref `json:"from,omitzero"`
	To   tenure.Ref `json:"to"`
	Copy bool       `json:"copy,omitempty"`
	// Fresh is that the directory of the snap's data did not exist before the change;
	// FreshUser that of root's own. The step itself could not tell after a crash.
	Fresh     bool `json:"fresh,omitempty"`
	FreshUser bool `json:"fresh_user,omitempty"`
}

func (s copyStep) Do(ctx context.Context, p copyParams) (nothing, error) {
	err := s.m.makeDataDirs(p.To.Snap)
	if err == nil {
		err = s.m.firstCopy(ctx, p)
	}
	if err == nil {
		err = errors.Join(durable.MkdirAll(0o755, s.m.cfg.Paths.Data(p.To)), s.m.makeUserDirs(p.To))
	}
	if err != nil {
		return nothing{}, change.Partial(fmt.Errorf("copy data to %s: %w", p.To, err))
	}
	return nothing{}, nil
}

func (s copyStep) Undo(ctx context.Context, p copyParams, _ nothing) error {
	s.m.dropCopy(p.To)
	err := s.m.removeData(ctx, p.To)
	err = errors.Join(err, s.m.unmake(ctx, p.To.Snap))
	if p.Fresh {
		err = errors.Join(err, s.m.dropDataDir(ctx, p.To.Snap))
	}
	if p.FreshUser {
		err = errors.Join(err, snapdata.Remove(ctx, s.m.cfg.Paths.UserDir(p.To.Snap)))
	}
	return err
}

// unmake takes back what a first install has made beside the revision, when there is
// to be no snap again. Data that was there before stays.
func (m *Manager) unmake(ctx context.Context, snap tenure.Instance) error {
	if state, err := m.snaps.Get(snap); err != nil || state != nil {
		return err
	}
	return errors.Join(
		m.forgetUnits(ctx, snap), m.dropLogs(ctx, snap), m.confs.drop(snap), m.instances.drop(snap), m.forgetUpdates(snap),
		m.cfg.Table.UnmountTree(ctx, m.cfg.Paths.DataDir(snap)),
		snapdata.Remove(ctx, m.cfg.Paths.Tmp(snap)),
	)
}

func isMissing(path string) bool {
	_, err := os.Lstat(path)
	return errors.Is(err, fs.ErrNotExist)
}

// makeDataDirs makes what all revisions of a snap share. Mounts below the
// common directory propagate to every unit (DESIGN.md section 9, 13).
func (m *Manager) makeDataDirs(snap tenure.Instance) error {
	common := m.cfg.Paths.Common(snap)
	// What is there already is the snap's, and the machine's.
	if err := errors.Join(durable.MkdirAll(0o755, common), durable.MkdirAll(0o700, m.cfg.Paths.at(rootHome))); err != nil {
		return err
	}
	if err := m.makeTmpDirs(snap); err != nil {
		return err
	}
	return m.cfg.Table.Share(common)
}

// makeTmpDirs makes the private /tmp of a snap and its like. Units write to what is
// there already, and may have put links in the way: none leads out.
func (m *Manager) makeTmpDirs(snap tenure.Instance) error {
	tmp := m.cfg.Paths.Tmp(snap)
	// What is for all users of the snap is not for all of the machine.
	if err := errors.Join(os.MkdirAll(tmp, 0o700), os.Chmod(tmp, 0o700)); err != nil {
		return err
	}
	root, err := os.OpenRoot(tmp)
	if err != nil {
		return err
	}
	defer root.Close() //nolint:errcheck // Only looked at.
	for _, dir := range []struct {
		path string
		mode fs.FileMode
	}{
		{"tmp", 0o777 | fs.ModeSticky},
		{"var-tmp", 0o777 | fs.ModeSticky},
		{"run-user", 0o755},
		{"run-user/0", 0o700},
		{"run-user/0/snap." + string(snap), 0o700},
	} {
		if err := errors.Join(root.MkdirAll(dir.path, dir.mode.Perm()), root.Chmod(dir.path, dir.mode)); err != nil {
			return fmt.Errorf("make temporary directories of %s: %w", snap, err)
		}
	}
	return nil
}

// makeUserDirs makes root's own data directories of a revision, which services and
// apps of root have as their home. Nobody else can put a link in the way there.
func (m *Manager) makeUserDirs(ref tenure.Ref) error {
	dir := m.cfg.Paths.UserDir(ref.Snap)
	return durable.MkdirAll(0o700, filepath.Join(dir, ref.Revision.String()), filepath.Join(dir, "common"))
}

// dropDataDir removes all data of a snap, and ends what it had mounted there.
// Nothing of the snap runs any more, so whoever still has a file of it open or
// stands in a directory does not keep the rest.
func (m *Manager) dropDataDir(ctx context.Context, snap tenure.Instance) error {
	dir := m.cfg.Paths.DataDir(snap)
	if err := m.cfg.Table.DetachTree(ctx, dir); err != nil {
		return fmt.Errorf("remove data of %s: %w", snap, err)
	}
	return snapdata.Remove(ctx, dir)
}

// decideStep decides again, now that everything is prepared, and compiles the
// decision into the tasks that follow.
type decideStep struct{ m *Manager }

// decideParams are of one job. Version 2 of the journal had in each decision all that were still to come, and the
// plans of all, which made a change of many snaps long; it may have left one.
type decideParams struct {
	// Jobs are that of this decision and, where version 2 left it, those after it.
	Jobs []job `json:"jobs"`
	// More is that other decisions follow.
	More bool `json:"more,omitempty"`
	// Observe are the services that jobs before these want observed in the end, and Asked the snaps of the
	// change that have moved their work away, as far as version 2 has noted that.
	Observe []observed        `json:"observe,omitempty"`
	Asked   []tenure.Instance `json:"asked,omitempty"`
}

// decided is what a decision leaves for later ones.
type decided struct {
	// Observe are the services that are to be observed in the end.
	Observe []observed `json:"observe,omitempty"`
}

func (s decideStep) Do(ctx context.Context, p decideParams) (decided, error) {
	before, err := s.m.waited(ctx)
	if err != nil {
		return decided{}, err
	}
	if before != nil {
		p.Jobs[0], err = s.m.rebase(p.Jobs[0], before)
	}
	if errors.Is(err, errPointless) {
		return decided{}, s.m.giveUp(ctx, err)
	}
	if err != nil {
		return decided{}, err
	}
	j := &p.Jobs[0]
	if !j.to().IsZero() {
		// What is to start has been prepared when this returns, or does not start now.
		defer s.m.aheads.end(j.target())
	}
	plan, err := s.m.decide(ctx, j, before)
	if err != nil {
		return decided{}, err
	}
	// What only keeps a change from going on is no reason to give one up that waits on: it
	// may have passed when the wait is over.
	passing := before != nil && len(plan.Waits) > 0 && plan.Refusal != nil && len(plan.Refusal.Rules) == 0
	if plan.Refusal != nil && !passing {
		return decided{}, refused(string(j.Reason), plan)
	}
	c, err := s.m.engine.Get(change.IDFrom(ctx))
	if err != nil {
		return decided{}, err
	}
	d := deciding{decideParams: p, change: &c, plan: plan}
	if d.plans, d.raw, err = s.m.plans.with(c, plan); err != nil {
		return decided{}, err
	}
	if len(plan.Waits) > 0 {
		return decided{}, s.wait(ctx, &d)
	}
	if asked, err := s.evacuate(ctx, &d); err != nil || asked {
		return decided{}, err
	}
	return s.goOn(ctx, &d)
}

// deciding is a decision in the course of a change.
type deciding struct {
	decideParams

	change *change.Change
	// plan is what was decided, and plans are those of all jobs of the change; raw is what is stored of them.
	plan  policy.Plan
	plans []policy.Plan
	raw   json.RawMessage
}

// goOn compiles a decision into the tasks that carry it out.
func (s decideStep) goOn(ctx context.Context, d *deciding) (decided, error) {
	j := &d.Jobs[0]
	sw, err := s.m.compile(ctx, j, d.plan)
	if err != nil {
		return decided{}, err
	}
	services, err := s.m.observing(ctx, j, &sw)
	if err != nil {
		return decided{}, err
	}
	left := decided{Observe: append(d.Observe, services...)}
	tasks, err := s.m.switchTasks(j, sw)
	if err != nil {
		return decided{}, err
	}
	rest, err := s.m.tasks(d.Jobs[1:])
	if err != nil {
		return decided{}, err
	}
	tasks = append(tasks, rest...)
	if len(d.Jobs) == 1 && !d.More {
		tasks = append(tasks, lastTasks(d.plans, append(observedBefore(d.change), left.Observe...))...)
	}
	change.ReporterFrom(ctx).Logf("%s", d.plan.Summary)
	s.m.prepareStarts(ctx, sw)
	return left, change.Insert(ctx, d.raw, tasks...)
}

// observedBefore are the services that the decisions of a change have left to be observed.
func observedBefore(c *change.Change) (all []observed) {
	for i := range c.Tasks {
		var left decided
		if t := &c.Tasks[i]; t.Kind == taskDecide && t.Status == change.Done && json.Unmarshal(t.Undo, &left) == nil {
			all = append(all, left.Observe...)
		}
	}
	return all
}

func (s decideStep) Undo(ctx context.Context, p decideParams, _ decided) error {
	return s.m.dropStarts(ctx, p.Jobs[0].snap())
}

// prepareStarts does what can be done of the starts of a switch before anything
// is stopped, on all processors. What fails will fail again in the start, and is said there.
func (m *Manager) prepareStarts(ctx context.Context, sw switching) {
	preparer, ok := m.cfg.Supervisor.(supervise.Preparer)
	if !ok {
		return
	}
	var preparing errgroup.Group
	preparing.SetLimit(runtime.NumCPU())
	for i := range sw.Start {
		preparing.Go(func() error {
			if err := change.Guarded(func() error { return preparer.Prepare(ctx, sw.Start[i]) }); err != nil {
				m.cfg.Logger.Debug("start is not prepared", slog.Any("error", err))
			}
			return nil
		})
	}
	_ = preparing.Wait() // What has failed is said.
}

// dropStarts drops what was prepared for a switch that does not come.
func (m *Manager) dropStarts(ctx context.Context, snap tenure.Instance) error {
	preparer, ok := m.cfg.Supervisor.(supervise.Preparer)
	if !ok {
		return nil
	}
	statuses, err := m.cfg.Supervisor.Units(ctx)
	if err != nil {
		return fmt.Errorf("drop prepared starts: %w", err)
	}
	var units []tenure.UnitID
	for i := range statuses {
		if statuses[i].Unit.Snap == snap {
			units = append(units, statuses[i].Unit)
		}
	}
	return preparer.Unprepare(ctx, units...)
}
