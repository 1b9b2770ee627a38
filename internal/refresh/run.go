package refresh

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"tenure"
	"tenure/internal/change"
	"tenure/internal/entry"
	"tenure/internal/hook"
	"tenure/internal/notice"
	"tenure/internal/proc"
	"tenure/internal/sandbox"
	"tenure/internal/snapfile"
	"tenure/internal/supervise"
)

// RunRequest asks for a process to become an app of a snap.
type RunRequest struct {
	// Name is SNAP.APP, or SNAP for the app that is called like it.
	Name string
	// Shell asks for a shell in the place of the app.
	Shell bool
	// Complete asks for the completer of the app in its place.
	Complete bool
	// Hook, if set, is a hook of the snap that is to be run instead of an app.
	Hook string
	// Process is the process that asks and waits, and UID and GID its user.
	Process  tenure.Process
	UID, GID uint32
	// Home is the home directory of the user, empty where it is not known.
	Home string
	Args []string
	Env  []string
	// MakeHome makes, as the user, the directory of the snap in a home directory, with
	// that of a revision and "common" in it.
	MakeHome func(home, snap, revision string) (*os.File, error)
	// Say tells the one who waits why.
	Say func(string)
	// Quiet, if set, is closed when it is for another daemon to wait.
	Quiet <-chan struct{}
}

// ErrElsewhere is that a request has done nothing but wait, and is for another daemon.
var ErrElsewhere = errors.New("another daemon goes on with it")

// RunReply is what the process must become. It is in its unit already.
type RunReply struct {
	Unit    tenure.UnitID
	Profile sandbox.Profile
	Command supervise.Command
	// Namespace is the mount namespace of the profile, the caller's to close; nil where
	// that is the host's.
	Namespace *os.File
}

// Run makes a unit of the process that asks, and tells it what to become. Until
// it has, it pins the revision like any unit. Within the switch of a refresh it waits for the end
// of it.
func (m *Manager) Run(ctx context.Context, req RunRequest) (RunReply, error) {
	snap, app, err := splitApp(req.Name)
	if err != nil {
		return RunReply{}, &Error{Kind: KindBad, Op: "run", Object: req.Name, Err: err}
	}
	var own ownDir
	defer func() { own.close() }()
	ctx, giveUp := context.WithCancelCause(ctx)
	defer giveUp(nil)
	say := func(text string) {
		if req.Complete {
			giveUp(errors.New(text)) // Whoever types does not wait.
			return
		}
		m.notices.Record(notice.Occasion{Type: notice.SnapRunInhibit, Key: string(snap), User: &req.UID})
		if req.Say != nil {
			req.Say(text)
		}
	}
	for {
		release, err := m.claimHere(ctx, snap, say, req.Quiet)
		if err != nil {
			return RunReply{}, err
		}
		r, err := m.toRun(snap, req.Name)
		if err == nil && (req.UID == 0 || own.revision == r.Ref.Revision) {
			reply, err := m.runFrom(ctx, r, app, &req, own)
			release()
			return reply, err
		}
		// Whoever asks may take its time for what is its own, and keeps nobody waiting.
		release()
		if err != nil {
			return RunReply{}, err
		}
		own.close()
		if own, err = m.makeOwn(r, &req); err != nil {
			return RunReply{}, fmt.Errorf("run %s: %w", req.Name, err)
		}
	}
}

// claimHere is claimSettled until it is for another daemon to wait.
func (m *Manager) claimHere(ctx context.Context, snap tenure.Instance, say func(string), quiet <-chan struct{}) (release func(), err error) {
	ctx, leave := context.WithCancelCause(ctx)
	defer leave(nil)
	go func() {
		select {
		case <-quiet:
			leave(ErrElsewhere)
		case <-ctx.Done():
		}
	}()
	release, err = m.claimSettled(ctx, snap, say)
	if err != nil && errors.Is(context.Cause(ctx), ErrElsewhere) {
		return nil, ErrElsewhere
	}
	return release, err
}

// runFrom makes the unit, of a revision that stays what it is meanwhile.
func (m *Manager) runFrom(ctx context.Context, r *installed, app tenure.App, req *RunRequest, own ownDir) (RunReply, error) {
	declared, err := m.runnableApp(r, app, req)
	if err != nil {
		return RunReply{}, err
	}
	tracker, ok := m.cfg.Supervisor.(supervise.Tracker)
	if !ok {
		return RunReply{}, errors.New("run: this supervisor cannot track processes that it has not started")
	}
	who := m.person(req)
	spec := m.launch.run(r, declared, req, who)
	open := map[string]*os.File{}
	if req.UID != 0 {
		spec.Profile = m.launch.profileFor(r, declared, person{home: who.home, user: true, own: own.path})
		if own.dir != nil {
			open[m.cfg.Paths.view(r, who.home).home] = own.dir
		}
		if err := m.makeRuntimeDir(r.Ref.Snap, req.UID, req.GID); err != nil {
			return RunReply{}, fmt.Errorf("run %s: %w", req.Name, err)
		}
	}
	// Side by side, for both keep the caller waiting. A process that is tracked and gets no
	// namespace ends, and with it its unit.
	tracked := make(chan error, 1)
	go func() { tracked <- tracker.Track(ctx, spec, req.Process) }()
	namespace, err := sandbox.Namespace(ctx, spec.Profile, open)
	if err = errors.Join(err, <-tracked); err != nil {
		_ = namespace.Close() // Also of none.
		return RunReply{}, fmt.Errorf("run %s: %w", req.Name, err)
	}
	return RunReply{Unit: spec.Unit, Profile: spec.Profile, Command: spec.Command, Namespace: namespace}, nil
}

// completionPatience is how long a completer may run.
const completionPatience = 5 * time.Second

// EndCompletion ends a completer when it has answered, or had its time, with all that it has
// started: nothing of it is in the way of a refresh. It runs until then.
func (m *Manager) EndCompletion(ctx context.Context, unit tenure.UnitID, main *proc.Handle) {
	waiting, cancel := context.WithTimeout(ctx, completionPatience)
	defer cancel()
	_, _ = main.Wait(waiting) // How it ended does not matter.
	m.endCompletion(ctx, unit)
}

// endCompletions ends the completers that the daemon before has not lived to end.
func (m *Manager) endCompletions(ctx context.Context, known map[tenure.UnitID]supervise.Status) {
	for unit, status := range known {
		if unit.Kind == tenure.AppRun && status.State.Alive() && status.Spec != nil && entry.IsCompleter(status.Spec.Command.Argv) {
			m.endCompletion(ctx, unit)
		}
	}
}

func (m *Manager) endCompletion(ctx context.Context, unit tenure.UnitID) {
	if _, err := m.halt(ctx, supervise.StopRequest{Units: []tenure.UnitID{unit}, Reason: tenure.ReasonStop}); err != nil && !errors.Is(err, supervise.ErrUnknown) {
		m.cfg.Logger.WarnContext(ctx, "a completer has not ended", slog.Any("unit", unit), slog.Any("error", err))
	}
}

// claimSettled claims a snap when none of its revisions is being switched to or from.
func (m *Manager) claimSettled(ctx context.Context, snap tenure.Instance, say func(string)) (release func(), err error) {
	for said := false; ; said = true {
		release, err := m.claims.take(ctx, snap)
		if err != nil {
			return nil, err
		}
		changes := m.engine.List(change.Filter{Select: change.Unfinished, Snap: snap})
		at := slices.IndexFunc(changes, func(c change.Change) bool { return unsettled(&c) })
		if at < 0 {
			return release, nil
		}
		release()
		if !said {
			say(fmt.Sprintf("snap %q is being changed (change %s); waiting", snap, changes[at].ID))
		}
		if _, err := m.engine.Watch(ctx, changes[at].ID, changes[at].Rev); err != nil && !errors.Is(err, change.ErrNotFound) {
			return nil, err
		}
	}
}

// unsettled reports whether a change has begun to make another revision current and has
// not recorded it, or goes back from there; or has begun to replace data, and may yet bring
// back what there was: whoever is started meanwhile would lose what they write.
func unsettled(c *change.Change) bool {
	begun, recorded, replaces := false, true, false
	for i := range c.Tasks {
		t := &c.Tasks[i]
		started := !slices.Contains([]change.Status{change.Do, change.Hold, change.Undone, change.Error}, t.Status)
		begun = begun || t.Gap && started
		replaces = replaces || t.Kind == taskRestore && started
		if t.Kind == taskCommit {
			recorded = false
		}
		// What a commit records is durable, and can be read, when what comes after it begins.
		recorded = recorded || t.Kind != taskCommit && started
	}
	return !c.Status.Ready() && (replaces || begun && (!recorded || c.Backward))
}

// toRun is the revision of a snap that its apps are run from.
func (m *Manager) toRun(snap tenure.Instance, name string) (*installed, error) {
	state, err := m.installedSnap("run", snap)
	if err != nil {
		return nil, err
	}
	if !state.Line.Active {
		return nil, &Error{Kind: KindBad, Op: "run", Object: name, Hint: "enable it with tenure enable " + string(snap), Err: fmt.Errorf("snap %q is disabled", snap)}
	}
	return m.runnable(state, state.Line.Current)
}

// runnableApp is what r declares of the app that is asked for. A hook is run as an app of
// its name, and by root.
func (m *Manager) runnableApp(r *installed, app tenure.App, req *RunRequest) (*snapfile.App, error) {
	if req.Hook != "" {
		if req.UID != 0 {
			return nil, &Error{Kind: KindBad, Op: "run", Object: req.Name, Err: errors.New("hooks are for root to run")}
		}
		if found := r.Info.Hook(req.Hook); found != nil {
			declared := hookApp(found)
			declared.Command = hook.Name(found.Name).Command()
			return declared, nil
		}
		return nil, &Error{Kind: KindApp, Op: "run", Object: req.Name, Err: fmt.Errorf("snap %q has no hook %q", r.Ref.Snap, req.Hook)}
	}
	declared := r.Info.App(app)
	if declared == nil || len(declared.Command) == 0 {
		return nil, &Error{Kind: KindApp, Op: "run", Object: req.Name, Err: fmt.Errorf("snap %q has no app %q", r.Ref.Snap, app)}
	}
	if req.Complete && (declared.Completer == "" || m.launch.shell(r) != bash) {
		return nil, &Error{Kind: KindApp, Op: "run", Object: req.Name, Err: fmt.Errorf("app %q has no completer that can be run", app)}
	}
	return declared, nil
}

// person is who asks. One without a home that is known has none.
func (m *Manager) person(req *RunRequest) user {
	who := user{uid: int(req.UID), home: m.launch.home(), env: req.Env}
	if req.UID != 0 {
		if who.home = path.Clean("/" + req.Home); who.home == "/" {
			who.home = nowhere
		}
	}
	return who
}

// nowhere is the home of those who have none.
const nowhere = "/nonexistent"

// run is the Spec of a run of an app by a person.
func (l launcher) run(r *installed, app *snapfile.App, req *RunRequest, who user) supervise.Spec {
	spec := l.service(r, app)
	if req.Shell || req.Complete {
		spec.Command = l.instead(r, app, req)
	}
	spec.Unit = tenure.UnitID{Snap: r.Ref.Snap, Kind: tenure.AppRun, App: app.Name, Serial: req.Process.PID}
	spec.Type = supervise.Simple
	spec.Restart = supervise.RestartPolicy{Condition: supervise.RestartNever}
	if req.Complete {
		spec.Stop = supervise.StopProtocol{
			Signal: signalName(syscall.SIGKILL), Target: supervise.TargetGroup, Timeout: time.Second, Kill: supervise.KillAfterTimeout,
		}
	}
	spec.Command.Argv = append(slices.Clip(spec.Command.Argv), req.Args...)
	spec.Command.Env = l.paths.environ(r, app.Environment, who)
	spec.Command.Dir = ""
	return spec
}

// ownDir is what a user has of a snap, made for a revision.
type ownDir struct {
	revision tenure.Revision
	// dir is the directory as the user could open it, at path; nil where the user has no home.
	// Nothing is looked up with other rights.
	dir  *os.File
	path string
}

func (o ownDir) close() { _ = o.dir.Close() } // Also of none.

// makeOwn has the user make what is its own of a revision.
func (m *Manager) makeOwn(r *installed, req *RunRequest) (ownDir, error) {
	own := ownDir{revision: r.Ref.Revision}
	who := m.person(req)
	if who.home == nowhere || req.MakeHome == nil {
		return own, nil
	}
	home := m.cfg.Paths.at(who.home)
	if m.cfg.Paths.Private() {
		// Below a root of its own nobody else makes homes.
		if err := m.makeHome(who.home, req.UID, req.GID); err != nil {
			return own, err
		}
	}
	if isMissing(home) {
		return own, nil
	}
	var err error
	if own.dir, err = req.MakeHome(home, string(r.Ref.Snap), r.Ref.Revision.String()); err != nil {
		return own, fmt.Errorf("make the data of the user: %w", err)
	}
	own.path = filepath.Join(home, "snap", string(r.Ref.Snap))
	return own, nil
}

// makeHome makes the home directory of a user below a private root.
func (m *Manager) makeHome(home string, uid, gid uint32) error {
	root, err := os.OpenRoot(m.cfg.Paths.at())
	if err != nil {
		return fmt.Errorf("make a home directory: %w", err)
	}
	defer root.Close() //nolint:errcheck // Only looked at.
	home = strings.TrimPrefix(home, "/")
	if _, err := root.Lstat(home); err == nil {
		return nil
	}
	err = root.MkdirAll(filepath.Dir(home), 0o755)
	if err == nil {
		err = root.Mkdir(home, 0o700)
	}
	if err == nil {
		err = root.Lchown(home, int(uid), int(gid))
	}
	if err != nil {
		return fmt.Errorf("make a home directory: %w", err)
	}
	return nil
}

// makeRuntimeDir makes the directory of a user for sockets, in that of the snap. Units write
// there too, and no link of theirs leads out.
func (m *Manager) makeRuntimeDir(snap tenure.Instance, uid, gid uint32) error {
	root, err := os.OpenRoot(m.cfg.Paths.Tmp(snap))
	if err != nil {
		return fmt.Errorf("make a runtime directory: %w", err)
	}
	defer root.Close() //nolint:errcheck // Only looked at.
	own := path.Join("run-user", strconv.FormatUint(uint64(uid), 10))
	for _, dir := range []string{own, path.Join(own, "snap."+string(snap))} {
		err := root.Mkdir(dir, 0o700)
		if errors.Is(err, os.ErrExist) {
			continue
		}
		if err == nil {
			err = root.Lchown(dir, int(uid), int(gid))
		}
		if err != nil {
			return fmt.Errorf("make a runtime directory: %w", err)
		}
	}
	return nil
}

// instead puts what a request asks for in the place of the app's command, behind its chain.
func (l launcher) instead(r *installed, app *snapfile.App, req *RunRequest) supervise.Command {
	command := *l.commands(r, app)(snapfile.Command{"shell"})
	command.Argv = slices.Clone(command.Argv)
	command.Argv[len(command.Argv)-1] = l.shell(r)
	if req.Complete {
		completer := path.Join(l.paths.view(r, "").snap, app.Completer)
		command.Argv = append(command.Argv, entry.CompleterArgs(completer, string(r.Ref.Snap)+"."+string(app.Name))...)
	}
	return command
}

const bash = "/bin/bash"

// shell is the best shell that an app of r sees.
func (l launcher) shell(r *installed) string {
	base := "/"
	if !r.Base.IsZero() {
		base = l.paths.Mount(r.Base)
	}
	if isMissing(filepath.Join(base, bash)) {
		return "/bin/sh"
	}
	return bash
}

func splitApp(name string) (tenure.Instance, tenure.App, error) {
	first, second, dotted := strings.Cut(name, ".")
	snap, err := tenure.ParseInstance(first)
	if err != nil {
		return "", "", err
	}
	if !dotted {
		second = snap.Snap()
	}
	app, err := tenure.ParseApp(second)
	return snap, app, err
}
