package refresh

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"tenure"
	"tenure/internal/sandbox"
	"tenure/internal/supervise"
)

// RunRequest asks for a process to become an app of a snap.
type RunRequest struct {
	// Name is SNAP.APP, or SNAP for the app that is called like it.
	Name string
	// Process is the process that asks and waits.
	Process tenure.Process
	Args    []string
	Env     []string
}

// RunReply is what the process must become. It is in its unit already.
type RunReply struct {
	Unit    tenure.UnitID
	Profile sandbox.Profile
	Command supervise.Command
}

// Run makes a unit of the process that asks, and tells it what to become. Until
// it has, it pins the revision like any unit.
func (m *Manager) Run(ctx context.Context, req RunRequest) (RunReply, error) {
	snap, app, err := splitApp(req.Name)
	if err != nil {
		return RunReply{}, &Error{Kind: KindBad, Op: "run", Object: req.Name, Err: err}
	}
	release, err := m.claims.take(ctx, snap)
	if err != nil {
		return RunReply{}, err
	}
	defer release()
	state, err := m.installedSnap("run", snap)
	if err != nil {
		return RunReply{}, err
	}
	if !state.Line.Active {
		return RunReply{}, &Error{Kind: KindBad, Op: "run", Object: req.Name, Hint: "enable it with tenure enable " + string(snap), Err: fmt.Errorf("snap %q is disabled", snap)}
	}
	r, err := m.runnable(state, state.Line.Current)
	if err != nil {
		return RunReply{}, err
	}
	declared := r.Info.App(app)
	if declared == nil || len(declared.Command) == 0 {
		return RunReply{}, &Error{Kind: KindApp, Op: "run", Object: req.Name, Err: fmt.Errorf("snap %q has no app %q", snap, app)}
	}
	tracker, ok := m.cfg.Supervisor.(supervise.Tracker)
	if !ok {
		return RunReply{}, errors.New("run: this supervisor cannot track processes that it has not started")
	}
	spec := m.launch.service(r, declared)
	spec.Unit = tenure.UnitID{Snap: snap, Kind: tenure.AppRun, App: app, Serial: req.Process.PID}
	spec.Type = supervise.Simple
	spec.Restart = supervise.RestartPolicy{Condition: supervise.RestartNever}
	spec.Command.Argv = append(spec.Command.Argv, req.Args...)
	spec.Command.Env = m.cfg.Paths.environ(r, declared.Environment, user{home: m.launch.home(), env: req.Env})
	spec.Command.Dir = ""
	if err := tracker.Track(ctx, spec, req.Process); err != nil {
		return RunReply{}, fmt.Errorf("run %s: %w", req.Name, err)
	}
	return RunReply{Unit: spec.Unit, Profile: spec.Profile, Command: spec.Command}, nil
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
