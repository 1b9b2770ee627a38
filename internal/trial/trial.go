package trial

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"tenure/client"
	"tenure/internal/squash"
)

// trial is one that goes on.
type trial struct {
	cfg    Config
	at     *instance
	load   *load
	report Report
	// astray is that a change has not ended as it should.
	astray bool
}

// Run tries a refresh out. Its error is that the trial could not be carried out; that a
// package does not do what it declares is in the Report.
func Run(ctx context.Context, cfg Config) (report *Report, err error) {
	if os.Geteuid() != 0 {
		return nil, errors.New("a trial mounts snaps and starts services: run it as root")
	}
	if cfg.Progress == nil {
		cfg.Progress = func(string) {}
	}
	at, err := begin(cfg.Programs)
	if err != nil {
		return nil, err
	}
	t := &trial{cfg: cfg, at: at, report: Report{Leftovers: []string{}, Differences: []string{}}}
	defer func() {
		t.endLoad()
		if endErr := at.end(); endErr != nil {
			err = errors.Join(err, endErr)
		}
	}()
	if err := t.run(ctx); err != nil {
		return nil, err
	}
	return &t.report, nil
}

func (t *trial) run(ctx context.Context) error {
	broken, cleanUp, err := breakSnap(ctx, t.cfg.New, t.cfg.Programs)
	if err != nil {
		return err
	}
	defer cleanUp()
	if err := t.prepare(ctx); err != nil {
		return err
	}
	begun := time.Now()
	for _, step := range []struct {
		name   string
		action client.Action
		fails  bool
	}{
		{"refresh", t.action("refresh", t.cfg.New), false},
		{"revert", client.Action{Action: "revert", Snaps: []string{t.report.Snap}}, false},
		{"failed-refresh", t.action("refresh", broken), true},
	} {
		if err := t.phase(ctx, step.name, step.action, step.fails); err != nil {
			return err
		}
		if t.astray {
			break // There is nothing to revert to.
		}
	}
	if t.load != nil {
		t.endLoad()
		t.report.Load = t.load.between(begun, time.Now())
	}
	return t.remove(ctx)
}

func (t *trial) action(action, file string) client.Action {
	return client.Action{Action: action, Files: []string{file}, Dangerous: true, Classic: t.cfg.Classic}
}

func (t *trial) differ(format string, args ...any) {
	t.report.Differences = append(t.report.Differences, fmt.Sprintf(format, args...))
}

// prepare installs everything, and starts the load.
func (t *trial) prepare(ctx context.Context) error {
	// What comes after a refresh is not to be waited for.
	if _, err := t.at.client.SetConf(ctx, "system", map[string]any{"refresh.observe": "0s"}); err != nil {
		return err
	}
	for _, file := range append(slices.Clone(t.cfg.With), t.cfg.Old) {
		t.cfg.Progress("install " + filepath.Base(file))
		begun := time.Now()
		c, err := t.at.do(ctx, t.action("install", file))
		if err != nil {
			return err
		}
		if c.Err != "" || len(c.Snaps()) != 1 {
			return fmt.Errorf("install %s: %s", file, c.Err)
		}
		t.report.Snap = c.Snaps()[0]
		if file == t.cfg.Old {
			t.report.Phases = append(t.report.Phases, Phase{Name: "install", Took: milliseconds(time.Since(begun))})
		}
	}
	return t.startLoad(ctx)
}

func (t *trial) startLoad(ctx context.Context) error {
	if t.cfg.Load == "" && t.cfg.URL == "" {
		return nil
	}
	common := filepath.Join(t.at.root, "var/snap", t.report.Snap, "common")
	l := newLoad()
	running, stop := context.WithCancel(context.WithoutCancel(ctx))
	l.stop = stop
	t.load = l
	if t.cfg.URL != "" {
		to, err := parseTarget(t.cfg.URL, common)
		if err != nil {
			return err
		}
		l.asker(running, to)
	}
	if t.cfg.Load != "" {
		env := []string{
			"TENURE_ROOT=" + t.at.root, "SNAP_NAME=" + t.report.Snap, "SNAP_COMMON=" + common,
			"SNAP_MOUNT=" + filepath.Join(t.at.root, "snap", t.report.Snap),
		}
		if err := l.command(running, t.cfg.Load, env); err != nil {
			return err
		}
	}
	select {
	case <-l.asked:
		return t.awaitStarted(ctx)
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-time.After(patience):
		return fmt.Errorf("the load has not had one answer in %s", patience)
	}
}

// awaitStarted waits until something runs and nothing starts: a service that a connection
// has started may answer before it is known to be ready, and would be restarted.
func (t *trial) awaitStarted(ctx context.Context) error {
	lost := time.After(patience)
	again := time.NewTicker(glance)
	defer again.Stop()
	for {
		units, err := t.at.client.Units(ctx)
		in := func(state string) bool {
			return slices.ContainsFunc(units, func(u client.Unit) bool { return u.State == state })
		}
		if err != nil || in("running") && !in("starting") {
			return err
		}
		select {
		case <-again.C:
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-lost:
			return fmt.Errorf("a service that has answered is not ready after %s", patience)
		}
	}
}

// glance is how often the units are looked at again.
const glance = 20 * time.Millisecond

func (t *trial) endLoad() {
	if t.load != nil {
		t.load.stop()
		t.load.ended.Wait()
	}
}

// planned is what is read of a plan.
type planned struct {
	Items []struct {
		Unit     string                `json:"unit"`
		Revision string                `json:"revision"`
		Verdict  string                `json:"verdict"`
		Rule     struct{ Name string } `json:"rule"`
		Main     Process               `json:"main"`
	} `json:"items"`
}

// phase carries out one change, and holds it against its plan.
func (t *trial) phase(ctx context.Context, name string, action client.Action, fails bool) error {
	t.cfg.Progress(strings.ReplaceAll(name, "-", " "))
	plans, err := t.at.client.Plan(ctx, action)
	if err != nil {
		return fmt.Errorf("plan the %s: %w", name, err)
	}
	phase := Phase{Name: name}
	for _, raw := range plans {
		var plan planned
		if err := json.Unmarshal(raw.Plan, &plan); err != nil {
			return fmt.Errorf("plan the %s: %w", name, err)
		}
		for _, item := range plan.Items {
			u := Unit{Unit: item.Unit, Verdict: item.Verdict, Rule: item.Rule.Name}
			// What is named may be part of its service still, and no unit of its own.
			if item.Main.PID != 0 && strings.HasPrefix(item.Unit, t.report.Snap+".") {
				u.Before = &Process{PID: item.Main.PID, Start: item.Main.Start, Revision: item.Revision}
			}
			phase.Units = append(phase.Units, u)
			// Whoever tries does not wait until it suits the service.
			action.Now = action.Now || item.Verdict == "defer"
		}
	}
	begun := time.Now()
	c, err := t.at.do(ctx, action)
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	ended := time.Now()
	phase.Took = milliseconds(ended.Sub(begun))
	if failed := c.Err != ""; failed != fails {
		t.astray = true
		t.differ("the %s has ended as %s: %s", name, c.Status, c.Err)
	}
	if err := t.compare(ctx, &phase, begun, c.Err != ""); err != nil {
		return err
	}
	if t.load != nil {
		pause(ctx, settle)
		phase.Requests = t.load.between(begun, time.Now())
		if n := phase.Requests.Failed; n > 0 && lossless(phase.Units) {
			t.differ("%d of %d requests failed during the %s, and no service was to be restarted", n, phase.Requests.Requests, name)
		}
	}
	t.report.Phases = append(t.report.Phases, phase)
	return nil
}

// settle is how long the load goes on after a change: what it broke shows by then.
const settle = 500 * time.Millisecond

// lossless reports whether a change promises that nobody notices it.
func lossless(units []Unit) bool {
	return !slices.ContainsFunc(units, func(u Unit) bool {
		return !slices.Contains([]string{"endure", "reload", "hand over", "handover"}, u.Verdict)
	})
}

// living are the processes of the snap: the main ones by their units, and all of them.
type living struct {
	mains map[string]Process
	all   []Process
}

func (t *trial) living(ctx context.Context) (living, error) {
	units, err := t.at.client.Units(ctx)
	if err != nil {
		return living{}, err
	}
	found := living{mains: map[string]Process{}}
	for i := range units {
		if units[i].Snap != t.report.Snap {
			continue
		}
		for _, p := range units[i].Processes {
			process := Process{PID: p.PID, Start: p.Start, Revision: units[i].Revision}
			found.all = append(found.all, process)
			if p.Main {
				found.mains[units[i].ID] = process
			}
		}
	}
	return found, nil
}

// after sets what has become of a unit. What endures is found by its process, whose unit
// it may have left or become meanwhile; what else lives on beside its successor, as while it
// drains, has been replaced all the same.
func (u *Unit) after(now living) {
	same := func(p Process) bool { return u.Before != nil && p.PID == u.Before.PID && p.Start == u.Before.Start }
	if p, found := now.mains[u.Unit]; found {
		u.After = &p
	}
	if at := slices.IndexFunc(now.all, same); at >= 0 && u.Verdict == "endure" {
		u.After = &now.all[at]
	}
	u.Survived = u.After != nil && same(*u.After)
}

// compare holds what has become of each unit against what the plan said.
func (t *trial) compare(ctx context.Context, phase *Phase, since time.Time, fails bool) error {
	now, err := t.living(ctx)
	if err != nil {
		return err
	}
	gaps, err := t.gaps(ctx, since)
	if err != nil {
		return err
	}
	snap, err := t.at.client.Snap(ctx, t.report.Snap)
	if err != nil {
		return err
	}
	for i := range phase.Units {
		u := &phase.Units[i]
		u.after(now)
		u.Gap = milliseconds(gaps[u.Unit])
		if problem := u.problem(snap.Revision, fails); problem != "" {
			t.differ("%s, in the %s: %s, and it %s", u.Unit, phase.Name, u.declared(), problem)
		}
	}
	return nil
}

func (u *Unit) declared() string { return fmt.Sprintf("its verdict is %s (%s)", u.Verdict, u.Rule) }

// problem says what a unit did that it should not have; nothing if all is well.
func (u *Unit) problem(current string, fails bool) string {
	switch {
	case u.Before == nil:
		return "" // It did not run.
	case u.Verdict == "stop" && !fails:
		if u.After != nil {
			return "still runs"
		}
	case u.Verdict == "endure":
		if !u.Survived {
			return "has not lived on"
		}
	case u.After == nil:
		return "does not run any more"
	case u.After.Revision != current:
		return fmt.Sprintf("runs from %s, and %s is current", u.After.Revision, current)
	case !fails && u.Survived && u.Verdict != "reload":
		return "was not replaced"
	}
	return ""
}

// gaps are for how long services were not ready since a time.
func (t *trial) gaps(ctx context.Context, since time.Time) (map[string]time.Duration, error) {
	timeline, err := t.at.client.Timeline(ctx, t.report.Snap, since)
	if err != nil {
		return nil, err
	}
	gaps := map[string]time.Duration{}
	for i := range timeline.Units {
		u := &timeline.Units[i]
		for n := range u.Bars[:max(len(u.Bars)-1, 0)] {
			bar, next := &u.Bars[n], &u.Bars[n+1]
			if bar.To.Before(since) || bar.Reloaded || bar.Became != "" || next.Ready.IsZero() {
				continue
			}
			gaps[u.Unit] += next.Ready.Sub(bar.To)
		}
	}
	return gaps, nil
}

// remove removes the snap, and lists what is left of it.
func (t *trial) remove(ctx context.Context) error {
	t.cfg.Progress("remove")
	begun := time.Now()
	c, err := t.at.do(ctx, client.Action{Action: "remove", Snaps: []string{t.report.Snap}})
	if err != nil {
		return fmt.Errorf("remove: %w", err)
	}
	t.report.Phases = append(t.report.Phases, Phase{Name: "remove", Took: milliseconds(time.Since(begun))})
	if c.Err != "" {
		t.differ("the remove has ended as %s: %s", c.Status, c.Err)
	}
	left, err := t.living(ctx)
	if err != nil {
		return err
	}
	for unit, p := range left.mains {
		t.report.Leftovers = append(t.report.Leftovers, fmt.Sprintf("process %d in unit %s", p.PID, unit))
	}
	own := filepath.Join(t.at.root, "snap", t.report.Snap)
	for _, mount := range t.at.mounts() {
		if strings.HasPrefix(mount, own+"/") {
			t.report.Leftovers = append(t.report.Leftovers, "mount "+strings.TrimPrefix(mount, t.at.root))
		}
	}
	for _, path := range []string{"snap/" + t.report.Snap, "var/snap/" + t.report.Snap} {
		if _, err := os.Lstat(filepath.Join(t.at.root, path)); err == nil {
			t.report.Leftovers = append(t.report.Leftovers, "/"+path)
		}
	}
	slices.Sort(t.report.Leftovers)
	for _, leftover := range t.report.Leftovers {
		t.differ("left behind: %s", leftover)
	}
	return nil
}

// breakSnap makes a snap of which everything is as in file, and whose refresh fails when
// its services have been started: its configure hook is snapctl, which without an
// argument is an error.
func breakSnap(ctx context.Context, file, programs string) (broken string, cleanUp func(), err error) {
	dir, err := os.MkdirTemp("", "tenure-trial-")
	if err != nil {
		return "", nil, fmt.Errorf("make a snap that fails: %w", err)
	}
	cleanUp = func() { _ = os.RemoveAll(dir) }
	broken = filepath.Join(dir, "broken.snap")
	tree, err := unpack(ctx, file, dir)
	if err == nil {
		err = putHook(tree, filepath.Join(programs, "snapctl"))
	}
	if err == nil {
		// It is read a few times and thrown away: what packing costs is waited for.
		err = squash.Build(ctx, tree, broken, squash.BuildOptions{Compression: squash.LZ4})
	}
	if err != nil {
		cleanUp()
		return "", nil, fmt.Errorf("make a snap that fails: %w", err)
	}
	return broken, cleanUp, nil
}

// unpacking is how long it may take to unpack a snap.
const unpacking = 10 * time.Minute

// unpack unpacks a snap that nobody trusts below dir, which is the caller's alone: what
// has been checked, as for an install, is a copy that its owner cannot change any more.
func unpack(ctx context.Context, file, dir string) (tree string, err error) {
	checked := filepath.Join(dir, "checked.snap")
	if err := copyFile(file, checked); err != nil {
		return "", err
	}
	reader := squash.Open(squash.Config{Time: unpacking})
	entries, err := reader.List(ctx, checked)
	if err == nil {
		// The set-uid files of a classic snap do no harm where nobody gets at them.
		err = squash.Check(entries, squash.CheckOptions{Classic: true})
	}
	if err != nil {
		return "", fmt.Errorf("read %s: %w", file, err)
	}
	within := filepath.Join(dir, "unpacked")
	if err := os.Mkdir(within, 0o700); err != nil {
		return "", err
	}
	return reader.Unpack(ctx, checked, entries, within, 0)
}

func copyFile(from, to string) error {
	src, err := os.Open(from)
	if err != nil {
		return err
	}
	defer src.Close()                                                     //nolint:errcheck // Only read.
	dst, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644) //nolint:gosec // Who unpacks it reads it, and nobody else gets at it.
	if err != nil {
		return err
	}
	_, err = io.Copy(dst, src)
	return errors.Join(err, dst.Close())
}

// putHook makes program the configure hook of a tree, and follows no link out of it.
func putHook(tree, program string) error {
	text, err := os.ReadFile(program)
	if err != nil {
		return err
	}
	root, err := os.OpenRoot(tree)
	if err != nil {
		return err
	}
	defer root.Close() //nolint:errcheck // What is written is closed.
	const hook = "meta/hooks/configure"
	err = errors.Join(root.MkdirAll(filepath.Dir(hook), 0o755), root.RemoveAll(hook))
	if err == nil {
		err = root.WriteFile(hook, text, 0o755)
	}
	return err
}
