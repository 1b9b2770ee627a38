package refresh

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"tenure"
	"tenure/internal/change"
	"tenure/internal/journal"
	"tenure/internal/policy"
	"tenure/internal/proc"
	"tenure/internal/supervise"
)

// kindBegan is the kind of what a daemon writes when it begins.
const kindBegan = "began"

// Happening is one thing in the history: what the supervisor has reported, with the
// verdict and the rule that it is by.
type Happening struct {
	Time time.Time       `json:"-"`
	Kind string          `json:"-"`
	Snap tenure.Instance `json:"-"`
	// Unit is zero for processes that are in no unit.
	Unit     tenure.UnitID    `json:"-"`
	Revision tenure.Revision  `json:"revision,omitzero"`
	State    supervise.State  `json:"state,omitempty"`
	Parent   tenure.UnitID    `json:"parent,omitzero"`
	Exit     *proc.Exit       `json:"exit,omitempty"`
	Signal   string           `json:"signal,omitempty"`
	Reason   tenure.Reason    `json:"reason,omitempty"`
	Process  []tenure.Process `json:"processes,omitempty"`
	// Others is how many processes it is about beside those.
	Others  int             `json:"others,omitempty"`
	Change  change.ID       `json:"change,omitzero"`
	Cause   supervise.Cause `json:"cause,omitempty"`
	Late    bool            `json:"late,omitempty"`
	Whole   bool            `json:"whole,omitempty"`
	Helper  string          `json:"helper,omitempty"`
	Command string          `json:"command,omitempty"`
	Verdict tenure.Verdict  `json:"verdict,omitempty"`
	Rule    policy.Rule     `json:"rule,omitzero"`
	// Boot is which run of the machine a daemon has begun in.
	Boot string `json:"boot,omitempty"`
}

// Began writes into the history that a daemon begins, before it does anything.
func (m *Manager) Began() error {
	boot, err := proc.BootID()
	if err != nil {
		return err
	}
	m.write(Happening{Time: m.cfg.Now(), Kind: kindBegan, Boot: boot})
	return nil
}

// Record is the supervisor's Recorder: it adds the rule, and writes. It waits for
// nobody, for who calls it is about to send a signal.
func (m *Manager) Record(e supervise.Event) {
	m.estimates.observe(e)
	if !m.chatter.counts(e) {
		return
	}
	h := Happening{
		Time: e.Time, Kind: string(e.Kind), Snap: e.Unit.Snap, Unit: e.Unit, Revision: e.Revision, State: e.State, Parent: e.Parent,
		Exit: e.Exit, Signal: e.Signal, Reason: e.Reason, Process: e.Processes, Change: e.Change, Cause: e.Cause,
		Late: e.Late, Whole: e.Whole, Helper: e.Helper, Command: brief(e.Command),
	}
	if e.Kind == supervise.EventSignal {
		h.Verdict, h.Rule = m.ruleOf(e)
	}
	m.write(h)
}

// maxCommand bounds what is kept of a command line, which is as long as its process
// wants it to be.
const maxCommand = 512

// maxProcesses bounds how many processes are kept of one event: a unit with a great many,
// and each signal to it, would take the place of all that happened before.
const maxProcesses = 4096

func brief(command string) string {
	if len(command) > maxCommand {
		return command[:maxCommand]
	}
	return command
}

func (m *Manager) write(h Happening) {
	if m.cfg.History == nil {
		return
	}
	if len(h.Process) > maxProcesses {
		h.Process, h.Others = h.Process[:maxProcesses], len(h.Process)-maxProcesses
	}
	raw, err := json.Marshal(h)
	if err == nil {
		err = m.cfg.History.Append(journal.Event{Time: h.Time.UTC(), Kind: h.Kind, Snap: h.Snap, Unit: h.Unit, Data: raw})
	}
	if err != nil {
		// What happens must not stop because it cannot be written down.
		m.cfg.Logger.Error("cannot write into the history", slog.String("unit", h.Unit.String()), slog.String("signal", h.Signal), slog.Any("error", err))
	}
}

// recordStray writes that a process in no unit is sent a signal.
func (m *Manager) recordStray(ctx context.Context, snap tenure.Instance, stray policy.Stray, signal string, late bool) {
	m.write(Happening{
		Time: m.cfg.Now(), Kind: string(supervise.EventSignal), Snap: snap, Revision: stray.Revision, Signal: signal, Cause: supervise.CauseRequest, Late: late,
		Process: []tenure.Process{stray.Process}, Command: brief(stray.CommandLine), Change: change.IDFrom(ctx), Verdict: tenure.Stop,
		Rule: policy.Rule{Source: policy.Default, Name: "default for strays", Text: "nothing of a snap is left running when it is removed or disabled"},
	})
}

// ruleOf is what a signal is by: the verdict of the plan of its change, and else what
// its cause says.
func (m *Manager) ruleOf(e supervise.Event) (tenure.Verdict, policy.Rule) {
	verdict, rule := m.causeOf(e)
	if e.Forced {
		rule = policy.Rule{Source: policy.Administrator, Name: "--kill", Text: "SIGKILL is sent by the administrator's word where it is forbidden"}
	}
	return verdict, rule
}

func (m *Manager) causeOf(e supervise.Event) (tenure.Verdict, policy.Rule) {
	if e.Change != 0 {
		if verdict, rule, found := m.plannedFor(e); found {
			return verdict, rule
		}
	}
	key := fmt.Sprintf("apps.%s.", e.Unit.App)
	switch e.Cause {
	case supervise.CauseWatchdog:
		return "", policy.Rule{Source: policy.Package, Name: key + "watchdog-timeout", Text: "it gave no sign of life in time"}
	case supervise.CauseTimeout:
		if e.Unit.Kind == tenure.HookRun {
			return "", policy.Rule{Source: policy.Default, Name: "time limit of hooks", Text: "a hook that takes longer than its time is ended"}
		}
		return "", policy.Rule{Source: policy.Package, Name: key + "start-timeout", Text: "it was not ready in time"}
	case supervise.CauseExit:
		return "", policy.Rule{Source: policy.Default, Name: "default for what has ended", Text: "what a main process or a command leaves behind ends with it"}
	case supervise.CauseRequest:
	}
	switch {
	case e.Unit.Kind == tenure.HookRun:
		return tenure.Stop, policy.Rule{Source: policy.Default, Name: "default for hooks", Text: "a hook that is not waited for any more, and what it has left running, is ended"}
	case e.Reason == tenure.ReasonShutdown:
		return tenure.Stop, policy.Rule{Source: policy.Default, Name: "default for units on shutdown", Text: "everything ends with the machine"}
	}
	return "", policy.Rule{Source: policy.Administrator, Name: "named in the request", Text: "somebody asked for it"}
}

// plannedFor is what the plan of a change says of a unit, or that the change is undone.
func (m *Manager) plannedFor(e supervise.Event) (tenure.Verdict, policy.Rule, bool) {
	c, known := m.changeOf(e.Change)
	switch {
	case !known:
		return "", policy.Rule{}, false
	case c.Backward:
		text := fmt.Sprintf("change %s is undone", c.ID)
		return "", policy.Rule{Source: policy.Default, Name: "default for changes that fail", Text: text}, true
	}
	var service *policy.Item
	plans, err := m.plans.of(c)
	if err != nil {
		return "", policy.Rule{}, false
	}
	for _, plan := range plans {
		for i := range plan.Items {
			switch item := &plan.Items[i]; item.Unit {
			case e.Unit:
				return item.Verdict, ruleFor(e, item), true
			case e.Unit.Service():
				service = item
			}
		}
	}
	// What has come out of a service only now goes by what its service does.
	if service != nil && e.Unit.Kind == tenure.Workload {
		return service.Verdict, service.Rule, true
	}
	return "", policy.Rule{}, false
}

// ruleFor is what a signal to the unit of an item is by: that of the verdict, but SIGKILL, where
// the administrator's rules say whether and when it comes, is by those.
func ruleFor(e supervise.Event, item *policy.Item) policy.Rule {
	stop := item.Stop
	if stop == nil || !e.Late || e.Signal != "SIGKILL" || e.Helper != "" {
		return item.Rule
	}
	switch {
	case stop.KillRule != "":
		return policy.Rule{Source: policy.Administrator, Name: stop.KillRule, Text: "it allows SIGKILL"}
	case stop.GraceRule != "":
		return policy.Rule{Source: policy.Administrator, Name: stop.GraceRule, Text: "its grace period is over"}
	}
	return item.Rule
}

// changeOf is a change, also before the engine has taken it up: the supervisor goes on
// before that with what the last one has left.
func (m *Manager) changeOf(id change.ID) (change.Change, bool) {
	if c, err := m.engine.Get(id); err == nil {
		return c, true
	}
	select {
	case <-m.engine.Ready():
		return change.Change{}, false
	default:
	}
	saved, err := m.cfg.Journal.Changes().Load(context.Background())
	at := slices.IndexFunc(saved.Changes, func(c change.Change) bool { return c.ID == id })
	if err != nil || at < 0 {
		return change.Change{}, false
	}
	return saved.Changes[at], true
}

// planCache has the plans of the change that was last asked for: a switch asks again and again, and each decision
// of a change with many snaps puts one of them anew.
type planCache struct {
	mu  sync.Mutex
	raw json.RawMessage
	// plans are those in raw, and parts, where they have been asked for, what each is there.
	plans []policy.Plan
	parts [][]byte
}

// of are the plans of a change, which nobody may modify.
func (p *planCache) of(c change.Change) ([]policy.Plan, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if err := p.load(c.Plan); err != nil {
		return nil, fmt.Errorf("plan of change %s: %w", c.ID, err)
	}
	return p.plans, nil
}

// load has the cache have the plans in raw; the caller has the lock.
func (p *planCache) load(raw json.RawMessage) error {
	// The plan of a change is replaced, and never written to.
	if len(raw) > 0 && len(p.raw) == len(raw) && &p.raw[0] == &raw[0] {
		return nil
	}
	var plans []policy.Plan
	if err := json.Unmarshal(raw, &plans); err != nil {
		return err
	}
	p.raw, p.plans, p.parts = raw, plans, nil
	return nil
}

// split has the cache have the parts of raw, too; the caller has the lock.
func (p *planCache) split() error {
	if p.parts != nil {
		return nil
	}
	var parts []json.RawMessage
	if err := json.Unmarshal(p.raw, &parts); err != nil {
		return err
	}
	for _, part := range parts {
		p.parts = append(p.parts, part)
	}
	return nil
}

// drop forgets the plans.
func (p *planCache) drop() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.raw, p.plans, p.parts = nil, nil, nil
}

// with are the plans of a change with that of a snap in its place, and what is to be stored of them. The
// cache has them from then on, for they are soon the change's.
func (p *planCache) with(c change.Change, plan policy.Plan) ([]policy.Plan, json.RawMessage, error) {
	part, err := json.Marshal(plan)
	if err != nil {
		return nil, nil, fmt.Errorf("store the plan: %w", err)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	var plans []policy.Plan
	var parts [][]byte
	if p.load(c.Plan) == nil && p.split() == nil {
		plans, parts = slices.Clone(p.plans), slices.Clone(p.parts)
	}
	if at := slices.IndexFunc(plans, func(other policy.Plan) bool { return other.Change.Snap == plan.Change.Snap }); at >= 0 {
		plans[at], parts[at] = plan, part
	} else {
		plans, parts = append(plans, plan), append(parts, part)
	}
	raw := slices.Concat([]byte{'['}, bytes.Join(parts, []byte{','}), []byte{']'})
	p.raw, p.plans, p.parts = raw, plans, parts
	return plans, raw, nil
}

// chatter holds back what a unit can say as often as it likes (RELOADING, MAINPID): it
// must not push all else out of the history.
type chatter struct {
	mu    sync.Mutex
	units map[tenure.UnitID]*said
}

type said struct {
	// ready is that it has been ready since it was last started or told to end.
	ready bool
	// mains is how often it has named another main process.
	mains int
}

// maxMains is how many further main processes of one life of a unit are recorded.
const maxMains = 20

// counts reports whether an event is for the history.
func (c *chatter) counts(e supervise.Event) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch e.Kind {
	case supervise.EventState:
		return c.countsState(e)
	case supervise.EventMain:
		if e.Parent.IsZero() {
			c.of(e.Unit).mains++
			return c.of(e.Unit).mains <= maxMains
		}
		delete(c.units, e.Parent)
	case supervise.EventEnded:
		delete(c.units, e.Unit)
	case supervise.EventSignal, supervise.EventSplit:
	case supervise.EventEmpty, supervise.EventLost:
		return false
	}
	return true
}

func (c *chatter) countsState(e supervise.Event) bool {
	switch e.State {
	case supervise.Starting, supervise.Stopping:
		c.of(e.Unit).ready = false
	case supervise.Running:
		if c.of(e.Unit).ready {
			return false
		}
		c.of(e.Unit).ready = true
	case supervise.Reloading:
		return e.Change != 0
	case supervise.Inactive, supervise.Listening, supervise.Waiting:
		return false
	case supervise.Backoff, supervise.Failed:
	}
	return true
}

func (c *chatter) of(unit tenure.UnitID) *said {
	if c.units == nil {
		c.units = make(map[tenure.UnitID]*said)
	}
	if c.units[unit] == nil {
		c.units[unit] = &said{}
	}
	return c.units[unit]
}
