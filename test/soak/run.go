package soak

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/google/go-cmp/cmp"

	"tenure/client"
)

// config is how large a soak is, and how long it takes.
type config struct {
	Seed  uint64
	Snaps int
	// Time is for how long it goes on, Steps how many steps it is at most.
	Time  time.Duration
	Steps int
	// Width is how many ops a step has at most.
	Width int
	// Log gets what happens.
	Log func(format string, args ...any)
}

// run is one soak.
type run struct {
	*operator

	cfg   config
	world *world
	names []string
	// recent are the last steps, in words.
	recent []string
	counts counts
	flat   flatness
	// base is what the base was refreshed to in this step, if it was.
	base int
}

// counts are what a run has come to.
type counts struct {
	Steps, Ops, Deaths, Boots, Aborted, Kills, Plans int
	ByKind                                           map[string]int
}

// disaster is what befalls the daemon in a step.
type disaster string

const (
	nothing disaster = ""
	death   disaster = "kill"         // SIGKILL of the daemon.
	ruin    disaster = "kill both"    // SIGKILL of the daemon and the holder.
	reboot  disaster = "boot"         // The end of the machine, and its start.
	change  disaster = "base refresh" // It is no disaster, and nobody must notice.
)

// storms are eras in which the daemon dies and machines start, in turns with calm ones, in
// which what it needs has to stay the same.
const (
	stormy = 40
	era    = 3 * stormy
)

// go through steps until the time is over or something is wrong.
func (r *run) walk(ctx context.Context) error {
	end := time.Now().Add(r.cfg.Time)
	for n := 1; n <= r.cfg.Steps && time.Now().Before(end) && ctx.Err() == nil; n++ {
		if err := r.step(ctx, n); err != nil {
			return fmt.Errorf("step %d of seed %d: %w\nthe last steps:\n%s", n, r.cfg.Seed, err, strings.Join(r.recent, "\n"))
		}
		r.counts.Steps++
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	return r.replaced(ctx)
}

// replaced has another daemon take the place of the last one, to see what that had needed and this one does not.
func (r *run) replaced(ctx context.Context) error {
	if err := r.befall(ctx, death, 0); err != nil {
		return err
	}
	diff, err := r.compare(ctx, r.world)
	if err == nil && diff != "" {
		err = errors.New("what is there after " + settling.String() + " (-want +got):\n" + diff) //nolint:err113 // For people.
	}
	if err != nil {
		return fmt.Errorf("after the death of the last daemon: %w", err)
	}
	return r.sample(ctx, r.counts.Steps+1)
}

// step draws what is done, does it, and compares.
func (r *run) step(ctx context.Context, n int) error {
	random := rand.New(rand.NewPCG(r.cfg.Seed, uint64(n))) //nolint:gosec // It is to be drawn again.
	befalls, after := drawDisaster(random, (n-1)%era < stormy)
	draws := make([]drawn, 1+random.IntN(r.cfg.Width))
	for i := range draws {
		draws[i] = draw(random, len(r.names))
	}
	busy, ops := map[string]bool{}, []op{}
	for _, d := range draws {
		if befalls == reboot {
			break
		}
		o, ok := r.world.choose(d, r.names, busy)
		if !ok || befalls == ruin && slices.Contains([]string{"restart", "start", "enable", "apply", "instance", "poke"}, o.Kind) {
			continue // Its start may fail, and leaves then what cannot be told.
		}
		for _, name := range append([]string{o.Snap}, o.Others...) {
			busy[name] = true
		}
		busy[theRules] = busy[theRules] || o.Kind == "rule"
		ops = append(ops, o)
	}
	r.note(n, befalls, ops)
	ctx, cancel := context.WithTimeout(ctx, 3*settling)
	defer cancel()
	begun := time.Now()
	if err := r.carryOut(ctx, ops, befalls, after); err != nil {
		return err
	}
	carried := time.Now()
	if carried.Sub(begun) > slow {
		r.cfg.Log("%s", r.changesSince(ctx, r.last))
	}
	diff, err := r.compare(ctx, r.world)
	r.cfg.Log("%5d  done %s, compared %s", n, carried.Sub(begun).Round(time.Millisecond), time.Since(carried).Round(time.Millisecond))
	if err != nil {
		return err
	}
	if diff != "" {
		return fmt.Errorf("what is there after %s (-want +got):\n%s", settling, diff)
	}
	return r.sample(ctx, n)
}

func drawDisaster(random *rand.Rand, storm bool) (disaster, time.Duration) {
	after := time.Duration(random.IntN(400)) * time.Millisecond
	switch n := random.IntN(100); {
	case n < 4:
		return change, 0
	case !storm:
	case n < 16:
		return death, after
	case n < 20:
		return ruin, after
	case n < 24:
		return reboot, 0
	}
	return nothing, 0
}

// note keeps the last steps in words.
func (r *run) note(n int, befalls disaster, ops []op) {
	words := make([]string, 0, len(ops)+1)
	for i := range ops {
		words = append(words, ops[i].String())
	}
	if befalls != nothing {
		words = append(words, "the daemon: "+string(befalls))
	}
	line := fmt.Sprintf("%5d  %s", n, strings.Join(words, "; "))
	r.recent = append(r.recent, line)
	const some = 12
	r.recent = r.recent[max(0, len(r.recent)-some):]
	r.cfg.Log("%s", line)
}

// carryOut does ops side by side while something befalls the daemon, and has the world be
// what has come of them.
func (r *run) carryOut(ctx context.Context, ops []op, befalls disaster, after time.Duration) error {
	if befalls == reboot {
		return r.boot(ctx)
	}
	if err := r.noteLast(ctx); err != nil {
		return err
	}
	results, failures := make([]result, len(ops)), make([]error, len(ops))
	var under sync.WaitGroup
	for i := range ops {
		under.Go(func() { results[i], failures[i] = r.one(ctx, &ops[i], befalls) })
	}
	err := r.befall(ctx, befalls, after)
	under.Wait()
	if err := errors.Join(err, errors.Join(failures...)); err != nil {
		return err
	}
	since := r.world.lives
	for i := range ops {
		r.count(&ops[i], results[i])
		if err := r.world.apply(&ops[i], results[i], befalls); err != nil {
			return err
		}
		if results[i].Outcome != ops[i].Want {
			r.recent = append(r.recent, fmt.Sprintf("       %s: %s", &ops[i], results[i].Outcome))
		}
	}
	if r.base != 0 {
		r.world.baseTo(r.base, since)
		r.base = 0
	}
	return nil
}

func (r *run) count(o *op, got result) {
	r.counts.Ops++
	r.counts.ByKind[o.Kind]++
	if o.Abort != 0 && got.Outcome == undone {
		r.counts.Aborted++
	}
	if o.Kind == "kill" || o.Kind == "murder" {
		r.counts.Kills++
	}
}

// one asks for the plan of an op, holds it against the model, and does it.
func (r *run) one(ctx context.Context, o *op, befalls disaster) (result, error) {
	if o.Kind == "refresh" && befalls == nothing && o.Want != refused {
		if err := r.comparePlan(ctx, o); err != nil {
			return result{}, err
		}
	}
	return r.do(ctx, r.world, o)
}

// planned is what is read of a plan.
type planned struct {
	Items []struct {
		Unit      any    `json:"unit"`
		Verdict   string `json:"verdict"`
		Processes []struct {
			PID int `json:"pid"`
		} `json:"processes"`
	} `json:"items"`
}

// comparePlan holds the verdicts of a plan against those of the model.
func (r *run) comparePlan(ctx context.Context, o *op) error {
	s := r.world.Snaps[o.Snap]
	file, err := r.packer.snap(ctx, s, o.Variant)
	if err != nil {
		return err
	}
	plans, err := r.client.Plan(ctx, client.Action{
		Action: "refresh", Files: []string{file}, Dangerous: true, Now: o.Now, IgnoreRunning: o.IgnoreRunning,
	})
	if err != nil || len(plans) != 1 {
		return fmt.Errorf("plan of %s: %d plans, %w", o, len(plans), err)
	}
	var plan planned
	if err := json.Unmarshal(plans[0].Plan, &plan); err != nil {
		return fmt.Errorf("plan of %s: %w", o, err)
	}
	byPID := map[int]string{}
	for name, k := range r.known {
		if snap, process, _ := strings.Cut(name, ":"); snap == o.Snap {
			byPID[k.PID] = process
		}
	}
	verdicts := map[string]string{}
	for i := range plan.Items {
		for _, p := range plan.Items[i].Processes {
			verdicts[byPID[p.PID]] = plan.Items[i].Verdict
		}
	}
	if diff := cmp.Diff(r.world.verdicts(s, o.Variant, o.Now), verdicts); diff != "" {
		return fmt.Errorf("plan of %s (-want +got):\n%s\n%s", o, diff, plans[0].Text)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.counts.Plans++
	return nil
}

// slow is how long a step may take before it is said what took so long.
const slow = 20 * time.Second

// changesSince are the changes after one, and when their tasks began and ended.
func (r *run) changesSince(ctx context.Context, last int) string {
	var b strings.Builder
	changes, err := r.client.Changes(ctx, "all", "")
	if err != nil {
		return err.Error()
	}
	const clock = "15:04:05.000"
	for i := range changes {
		c := &changes[i]
		var n int
		if _, bad := fmt.Sscan(c.ID, &n); bad != nil || n <= last {
			continue
		}
		fmt.Fprintf(&b, "change %s, %s: %s %s\n", c.ID, c.Summary, c.Status, c.Err)
		for j := range c.Tasks {
			task := &c.Tasks[j]
			fmt.Fprintf(&b, "\t%s to %s  %s %s %q\n", task.Spawned.Format(clock), task.ReadyAt.Format(clock), task.Kind, task.Status, task.Log)
		}
	}
	return b.String()
}

// noteLast notes which changes there are already.
func (r *run) noteLast(ctx context.Context) error {
	changes, err := r.client.Changes(ctx, "all", "")
	r.kept = len(changes)
	for i := range changes {
		var n int
		if _, bad := fmt.Sscan(changes[i].ID, &n); bad == nil {
			r.last = max(r.last, n)
		}
	}
	return err
}

// befall has something befall the daemon.
func (r *run) befall(ctx context.Context, befalls disaster, after time.Duration) error {
	switch befalls {
	case change:
		return r.refreshBase(ctx)
	case death, ruin:
		select {
		case <-ctx.Done():
		case <-time.After(after):
		}
		holder := 0
		if befalls == ruin {
			holder = r.Holder()
		}
		r.Kill()
		if holder != 0 {
			_ = killHolder(holder) // It may have ended.
		}
		r.counts.Deaths++
		return r.TryStart()
	case nothing, reboot:
	}
	return nil
}

// refreshBase makes another revision of the base current. What runs stays where it is.
func (r *run) refreshBase(ctx context.Context) error {
	file, err := r.packer.base(ctx)
	if err != nil {
		return err
	}
	o := op{Kind: "refresh", Snap: baseName, Want: done}
	got, err := r.ask(ctx, &o, func() (string, error) {
		return r.client.Do(ctx, client.Action{Action: "refresh", Files: []string{file}, Dangerous: true})
	})
	if err == nil && got.Outcome != done {
		err = fmt.Errorf("the refresh of the base: %+v", got)
	}
	r.base = got.Revisions[baseName]
	return err
}

// boot ends the machine, as far as it is the instance's, and starts it again.
func (r *run) boot(ctx context.Context) error {
	for _, name := range r.names {
		s := r.world.Snaps[name]
		if s.Procs[app] == nil {
			continue
		}
		o := op{Kind: "quit", Snap: name}
		if err := r.kill(ctx, &o); err != nil {
			return err
		}
		delete(s.Procs, app)
	}
	r.Stop()
	if got := r.Exec(filepath.Join(r.Bin, "tenured"), "shutdown", "--root", r.Root); got.Status != 0 {
		return fmt.Errorf("tenured shutdown: %+v", got)
	}
	r.counts.Boots++
	if err := r.TryStart(); err != nil {
		return err
	}
	r.world.boot()
	for name, id := range r.staged {
		c, err := r.follow(ctx, id)
		if err != nil || c.Status != "Done" {
			return fmt.Errorf("the staged refresh of %s after a boot: %s, %s, %w", name, c.Status, c.Err, err)
		}
	}
	clear(r.staged)
	return nil
}
