package soak

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"tenure"
	"tenure/client"
	"tenure/test/rig"
)

// operator does to the real programs what was drawn.
type operator struct {
	*rig.Instance

	client *client.Client
	packer *packer
	// last is the highest change that there was before the step.
	last int
	// staged are the changes that wait, by their snaps.
	mu     sync.Mutex
	staged map[string]string
	// known are the processes that there were when the last step had ended, by what they are
	// called.
	known map[string]known
	// units are how many units there are, apps how many of them are runs of apps, waiting how many snaps
	// have a staged revision, and kept how many changes.
	units, apps, waiting, kept int
}

// known is a process that has been seen.
type known struct {
	tenure.Process

	life       int
	unit, base string
}

// glance is how often what nobody tells of is looked for again.
const glance = 10 * time.Millisecond

// do does an op, and waits for what comes of it, through deaths of the daemon.
func (r *operator) do(ctx context.Context, w *world, o *op) (result, error) {
	s := w.Snaps[o.Snap]
	switch o.Kind {
	case "install", "refresh", "many":
		return r.refresh(ctx, w, o)
	case "rule":
		return result{Outcome: done}, r.rule(ctx, w, o.Snap)
	case "write":
		return result{Outcome: done}, r.write(s, o.Value)
	case "run":
		return r.run(ctx, o)
	case "quit", "kill", "murder":
		return result{Outcome: done}, r.kill(ctx, o)
	case "spawn":
		return r.spawn(ctx, o)
	case "poke":
		return result{Outcome: done}, r.poke(ctx, o)
	default:
		return r.ask(ctx, o, func() (string, error) { return r.request(ctx, s, o) })
	}
}

// request asks for a change.
func (r *operator) request(ctx context.Context, s *snap, o *op) (string, error) {
	action := client.Action{Action: o.Kind, Snaps: []string{o.Snap}}
	switch o.Kind {
	case "revert":
		action.Now, action.IgnoreRunning = o.Now, o.IgnoreRunning
	case "remove":
		action.Terminate = true
	case "enable", "disable":
	case "start", "stop", "restart":
		action.Snaps, action.Names = nil, []string{o.Snap}
	case "set", "unset", "alias", "save", "restore":
		return r.requestOther(ctx, s, o)
	case "hold":
		action.Time, action.HoldLevel = "forever", "general"
		if s.Held {
			action = client.Action{Action: "unhold", Snaps: action.Snaps, HoldLevel: "general"}
		}
	case "apply":
		action = client.Action{Action: "refresh", Snaps: action.Snaps, Now: true, IgnoreRunning: true}
	case "abandon":
		id := r.stagedBy(o.Snap)
		_, err := r.client.Abort(ctx, id)
		return id, err
	case "end":
		action = client.Action{Action: "stop", Names: []string{r.known[o.Snap+":"+o.Name].unit}}
	case "instance":
		action = client.Action{Action: "start", Names: []string{o.Snap + "." + o.Name}}
		if s.Procs[o.Name] != nil {
			action.Action = "stop"
		}
	}
	return r.client.Do(ctx, action)
}

// requestOther asks for a change that is no action on a snap.
func (r *operator) requestOther(ctx context.Context, s *snap, o *op) (string, error) {
	switch o.Kind {
	case "set":
		return r.client.SetConf(ctx, o.Snap, map[string]any{"k": o.Value})
	case "unset":
		return r.client.SetConf(ctx, o.Snap, map[string]any{"k": nil})
	case "alias":
		change := client.AliasAction{Action: "alias", Snap: o.Snap, App: app, Alias: o.Snap + "-alias"}
		if s.Alias {
			change = client.AliasAction{Action: "unalias", Snap: o.Snap, Alias: o.Snap + "-alias"}
		}
		return r.client.ChangeAliases(ctx, change)
	case "save":
		set, id, err := r.client.Save(ctx, []string{o.Snap}, nil)
		o.Set = set
		return id, err
	default:
		return r.client.ChangeSnapshots(ctx, client.SnapshotAction{Action: "restore", Set: o.Set})
	}
}

// refresh installs or refreshes from files.
func (r *operator) refresh(ctx context.Context, w *world, o *op) (result, error) {
	action := client.Action{Action: "refresh", Dangerous: true, Now: o.Now, IgnoreRunning: o.IgnoreRunning}
	if o.Kind == "install" {
		action = client.Action{Action: "install", Dangerous: true}
	}
	for _, name := range append([]string{o.Snap}, o.Others...) {
		file, err := r.packer.snap(ctx, w.Snaps[name], o.Variant)
		if err != nil {
			return result{}, err
		}
		action.Files = append(action.Files, file)
	}
	return r.ask(ctx, o, func() (string, error) { return r.client.Do(ctx, action) })
}

// ask asks for a change, and waits for its end.
func (r *operator) ask(ctx context.Context, o *op, request func() (string, error)) (result, error) {
	id, err := request()
	if failed, ok := errors.AsType[*client.Error](err); ok && !errors.Is(err, client.ErrNoDaemon) {
		return result{Outcome: refused, Err: failed.Message}, nil
	}
	if err != nil {
		if id, err = r.begun(ctx, o, err); err != nil || id == "" {
			return result{Outcome: lost}, err
		}
	}
	if id == "" { // What is done at once has no change.
		return result{Outcome: done, Set: o.Set}, nil
	}
	if o.Abort != 0 {
		go r.abort(ctx, id, o.Abort)
	}
	c, err := r.follow(ctx, id)
	if err != nil {
		return result{}, err
	}
	return r.resultOf(ctx, o, &c)
}

// begun is the change that was begun for an op whose request the daemon did not live to
// answer; empty if there is none.
func (r *operator) begun(ctx context.Context, o *op, cause error) (string, error) {
	for {
		changes, err := r.client.Changes(ctx, "all", o.Snap)
		if err == nil {
			for i := range changes {
				if n, _ := strconv.Atoi(changes[i].ID); n > r.last && changes[i].ID != r.stagedBy(o.Snap) {
					return changes[i].ID, nil
				}
			}
			if o.Kind == "apply" || o.Kind == "abandon" {
				return r.stagedBy(o.Snap), nil
			}
			return "", nil
		}
		if err := r.pause(ctx, fmt.Errorf("%s: %w", o, cause)); err != nil {
			return "", err
		}
	}
}

func (r *operator) pause(ctx context.Context, cause error) error {
	select {
	case <-ctx.Done():
		return cause
	case <-time.After(glance):
		return nil
	}
}

// abort tells a change to stop in the midst, if it has not ended.
func (r *operator) abort(ctx context.Context, id string, after time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(after):
		_, _ = r.client.Abort(ctx, id) // It may have ended.
	}
}

// follow waits until a change has ended, or waits for something and holds nothing.
func (r *operator) follow(ctx context.Context, id string) (client.Change, error) {
	var seen uint64
	for {
		c, err := r.client.Follow(ctx, id, seen)
		if _, answered := errors.AsType[*client.Error](err); answered && !errors.Is(err, client.ErrNoDaemon) {
			return c, fmt.Errorf("follow change %s: %w", id, err)
		}
		if err != nil {
			seen = 0
			if err := r.pause(ctx, fmt.Errorf("follow change %s: %w", id, err)); err != nil {
				return c, err
			}
			continue
		}
		if c.Ready || c.Status == "Wait" && !c.Holds && id != r.stagedNow(id) {
			return c, nil
		}
		seen = c.Revision
	}
}

// stagedNow gives id back if that change waited already when the step began.
func (r *operator) stagedNow(id string) string {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, known := range r.staged {
		if known == id {
			return id
		}
	}
	return ""
}

func (r *operator) stagedBy(snap string) string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.staged[snap]
}

// resultOf is what has come of an op by its change.
func (r *operator) resultOf(ctx context.Context, o *op, c *client.Change) (result, error) {
	got := result{Change: c.ID, Err: c.Err, Set: o.Set, Revisions: map[string]int{}}
	switch c.Status {
	case "Wait":
		got.Outcome = waits
	case "Done":
		got.Outcome = done
	default:
		got.Outcome = undone
	}
	for {
		all, err := r.client.Snaps(ctx, true)
		if err == nil {
			for i := range all {
				if got.Outcome == waits && all[i].StagedBy == c.ID || got.Outcome != waits && all[i].Current {
					got.Revisions[all[i].Name], _ = strconv.Atoi(strings.TrimPrefix(all[i].Revision, "x"))
				}
			}
			break
		}
		if err := r.pause(ctx, err); err != nil {
			return got, err
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case got.Outcome == waits:
		r.staged[o.Snap] = c.ID
	case slices.Contains([]string{"apply", "abandon", "remove", "refresh", "many"}, o.Kind):
		if got.Outcome == done || o.Kind == "abandon" {
			delete(r.staged, o.Snap)
		}
	}
	return got, nil
}

// write changes the data of a snap from outside, as a service would.
func (r *operator) write(s *snap, text string) error {
	dir := r.Path("var/snap", s.Name)
	return errors.Join(
		os.WriteFile(filepath.Join(dir, x(s.Current), "mark"), []byte(text), 0o600),
		os.WriteFile(filepath.Join(dir, "common", "mark"), []byte(text), 0o600))
}

// rule has the service "ready" of a snap endure by a rule, or no more.
func (r *operator) rule(ctx context.Context, w *world, snap string) error {
	var text strings.Builder
	var names []string
	for _, name := range sortedNames(w.Snaps) {
		if w.Ruled[name] != (name == snap) {
			names = append(names, name+"-endures")
			fmt.Fprintf(&text, "- name: %s-endures\n  when: snap.name == %q && app.name == %q\n  do: {verdict: endure}\n", name, name, ready)
		}
	}
	if len(names) == 0 {
		text.WriteString("[]\n") // An empty file would be one that was cut off.
	}
	path := r.Path("etc/tenure/policy.yaml")
	err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), //nolint:gosec // As on any machine.
		os.WriteFile(path+".new", []byte(text.String()), 0o600), os.Rename(path+".new", path))
	for err == nil {
		policy, failed := r.client.Policy(ctx)
		if failed == nil && slices.Equal(policy.Rules, names) {
			return nil
		}
		err = r.pause(ctx, fmt.Errorf("the rules are %v, want %v: %v, %w", policy.Rules, names, policy.Broken, failed))
	}
	return err
}

// run runs an app until it says that it is up. The daemon may die on the way.
func (r *operator) run(ctx context.Context, o *op) (result, error) {
	cmd := exec.CommandContext(context.WithoutCancel(ctx), r.Path("snap/bin", o.Snap+"."+app)) //nolint:gosec // It is ended by name.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	stdout, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		return result{}, fmt.Errorf("%s: %w", o, err)
	}
	said, err := bufio.NewReader(stdout).ReadString('\n')
	if said != "up\n" {
		_ = cmd.Wait()
		return result{Outcome: lost, Err: fmt.Sprint(err)}, nil
	}
	go func() { _ = cmd.Wait() }() // Reaped, however it ends.
	return result{Outcome: done}, nil
}

// kill ends one process by a signal, and waits for its end.
func (r *operator) kill(ctx context.Context, o *op) error {
	name := o.Snap + ":" + o.Name
	signal := syscall.SIGKILL
	if o.Kind == "quit" {
		o.Name = app
		name, signal = o.Snap+":"+app, syscall.SIGTERM
	}
	p, ok := r.known[name]
	if !ok {
		return fmt.Errorf("%s: nobody knows the process", o)
	}
	if err := syscall.Kill(p.PID, signal); err != nil {
		return fmt.Errorf("%s: process %d: %w", o, p.PID, err)
	}
	return rig.Gone(ctx, p.Process)
}

// spawn has a service start what is to outlive it, in the background or by name.
func (r *operator) spawn(ctx context.Context, o *op) (result, error) {
	service, child, _ := strings.Cut(o.Name, ".")
	step := "child:" + child + "/fork/trap/run"
	if strings.HasPrefix(child, "job") {
		step = "exec:snapctl workload start job@" + child + " -- $SNAP/bin/probe " + o.Name + " trap run"
	}
	answer, err := r.tell(ctx, r.Common(o.Snap), service, step)
	if err != nil {
		return result{}, fmt.Errorf("%s: %w", o, err)
	}
	if answer != "ok" {
		return result{Outcome: lost, Err: answer}, nil
	}
	return result{Outcome: done}, nil
}

// tell has an obedient service do a step, and gives its answer.
func (r *operator) tell(ctx context.Context, common, service, step string) (string, error) {
	conn, err := dial(ctx, filepath.Join(common, service+".ask"))
	if err != nil {
		return "", err
	}
	defer conn.Close() //nolint:errcheck // Everything has been read.
	if _, err := fmt.Fprintln(conn, step); err != nil {
		return "", err
	}
	answer, err := bufio.NewReader(conn).ReadString('\n')
	return strings.TrimSpace(answer), err
}

func dial(ctx context.Context, path string) (net.Conn, error) {
	var d net.Dialer
	return d.DialContext(ctx, "unix", path)
}

// poke connects to the socket of a service that is started by that, and has its answer.
func (r *operator) poke(ctx context.Context, o *op) error {
	conn, err := dial(ctx, filepath.Join(r.Common(o.Snap), o.Name))
	if err != nil {
		return fmt.Errorf("%s: %w", o, err)
	}
	defer conn.Close() //nolint:errcheck // Everything has been read.
	answer, err := bufio.NewReader(conn).ReadString('\n')
	if err != nil || !strings.HasPrefix(answer, "main ") {
		return fmt.Errorf("%s: the answer is %q: %w", o, answer, err)
	}
	return nil
}
