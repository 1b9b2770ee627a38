package policy_test

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/datadriven"
	"go.yaml.in/yaml/v3"

	"tenure"
	"tenure/internal/policy"
	"tenure/internal/rules"
)

// TestScripts runs the decision scripts. testdata/README.md says how to read them.
func TestScripts(t *testing.T) {
	t.Parallel()
	paths, err := filepath.Glob("testdata/*/*.txt")
	if err != nil || len(paths) == 0 {
		t.Fatalf("no scripts: %v", err)
	}
	for _, path := range paths {
		t.Run(strings.TrimSuffix(strings.TrimPrefix(path, "testdata/"), ".txt"), func(t *testing.T) {
			t.Parallel()
			s := script{
				facts: policy.Facts{Now: scriptNow(), Estimates: map[tenure.UnitID]policy.Estimate{}},
				ruled: map[tenure.UnitID][]policy.Ruling{},
			}
			datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) string {
				t.Helper()
				out, err := s.run(d)
				if err != nil {
					d.Fatalf(t, "%v", err)
				}
				return out
			})
		})
	}
}

// TestEveryNeedAndCase holds the scripts to their subject: one for each need, and one for
// each case.
func TestEveryNeedAndCase(t *testing.T) {
	t.Parallel()
	var want []string
	for n := 1; n <= 16; n++ {
		want = append(want, fmt.Sprintf("testdata/needs/n%02d-*.txt", n))
	}
	for n := 1; n <= 16; n++ {
		want = append(want, fmt.Sprintf("testdata/cases/%02d-*.txt", n))
	}
	for _, pattern := range want {
		if paths, err := filepath.Glob(pattern); err != nil || len(paths) != 1 {
			t.Errorf("%s: want one script, have %v (%v)", pattern, paths, err)
		}
	}
	if _, err := os.Stat("testdata/README.md"); err != nil {
		t.Error(err)
	}
}

func scriptNow() time.Time { return time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC) }

// script is the state of one script: facts that grow from directive to directive.
type script struct {
	facts policy.Facts
	plan  policy.Plan
	rules *rules.Set
	// ruled are what the directive rule says, beside the rules.
	ruled  map[tenure.UnitID][]policy.Ruling
	update rules.Update
}

func (s *script) run(d *datadriven.TestData) (string, error) {
	switch d.Cmd {
	case "snap":
		return "", s.snap(d)
	case "units":
		units, err := parseUnits(d.Input)
		s.facts.Units = units
		return "", err
	case "engine":
		return "", s.engine(d)
	case "rule":
		return "", s.rule(d)
	case "policy":
		set, err := rules.Parse("policy.yaml", []byte(d.Input))
		s.rules = set
		return "", err
	case "update":
		return "", s.release(d)
	case "given":
		return s.given(d)
	case "limit":
		return "", s.limit(d)
	case "estimate":
		return "", s.estimate(d)
	case "happened":
		units, err := parseUnits(d.Input)
		return differences(policy.Compare(s.plan, units)), err
	case "refresh", "revert", "restart", "stop", "disable", "remove", "shutdown":
		return s.decide(d)
	}
	return "", fmt.Errorf("unknown directive %s", d.Cmd)
}

func differences(all []policy.Difference) string {
	if len(all) == 0 {
		return "as planned\n"
	}
	var b strings.Builder
	for _, d := range all {
		fmt.Fprintf(&b, "%s: %s: %s\n", d.Unit, d.Kind, d.Text)
	}
	return b.String()
}

// words are the arguments of a directive without those of the form key=value, which
// are the second result.
func words(d *datadriven.TestData) (plain []string, set map[string]string) {
	set = map[string]string{}
	for _, arg := range d.CmdArgs {
		if len(arg.Vals) == 0 {
			plain = append(plain, arg.Key)
		} else {
			set[arg.Key] = strings.Join(arg.Vals, ",")
		}
	}
	return plain, set
}

func (s *script) decide(d *datadriven.TestData) (string, error) {
	if err := s.question(tenure.Reason(d.Cmd), d); err != nil {
		return "", err
	}
	s.applyRules()
	s.plan = policy.Decide(s.facts)
	return s.plan.String(), nil
}

// applyRules adds what the rules say to the facts.
func (s *script) applyRules() rules.Result {
	s.facts.Vetoes, s.facts.Rulings = nil, map[tenure.UnitID][]policy.Ruling{}
	var result rules.Result
	if s.rules != nil {
		c := &s.facts.Change
		snap := s.ruledSnap(c.Snap, c.From)
		var update *rules.Update
		if !c.To.IsZero() {
			to := s.ruledSnap(c.Snap, c.To)
			update = &rules.Update{From: c.From, To: c.To, FromVersion: snap.Version, ToVersion: to.Version, BaseChange: snap.Base != to.Base}
			update.Released, update.Urgency = s.update.Released, s.update.Urgency
		}
		here := rules.Node{Name: "here", Arch: "amd64", CPUs: 2, Memory: 8 << 30}
		result = s.rules.Evaluate(rules.About(&s.facts, snap, here, update))
		result.AddTo(&s.facts)
		if !c.To.IsZero() {
			snap = s.ruledSnap(c.Snap, c.To)
		}
		dates := s.rules.Endurance(rules.About(&s.facts, snap, here, nil))
		dates.AddTo(&s.facts)
	}
	for unit, rulings := range s.ruled {
		s.facts.Rulings[unit] = append(s.facts.Rulings[unit], rulings...)
	}
	return result
}

func (s *script) ruledSnap(name tenure.Instance, rev tenure.Revision) rules.Snap {
	snap := rules.Snap{Name: name, Revision: rev, Type: "app", Confinement: "strict"}
	for _, decl := range s.facts.Declarations {
		if decl.Snap == name && decl.Revision == rev {
			snap.Version, snap.Base = decl.Version, decl.Base
			if decl.Classic {
				snap.Confinement = "classic"
			}
		}
	}
	return snap
}

// release is what is known of the revision that is to become current.
func (s *script) release(d *datadriven.TestData) error {
	_, set := words(d)
	s.update = rules.Update{Urgency: set["urgency"]}
	if ago, ok := set["released"]; ok {
		duration, err := parseDuration(ago)
		s.update.Released = s.facts.Now.Add(-duration)
		return err
	}
	return nil
}

// given is what the rules say about a refresh that is for others than this package to
// heed: when it may begin.
func (s *script) given(d *datadriven.TestData) (string, error) {
	if err := s.question(tenure.ReasonRefresh, d); err != nil {
		return "", err
	}
	result := s.applyRules()
	var b strings.Builder
	say := func(aspect string, value any, rule string) {
		fmt.Fprintf(&b, "%s: %v (rule %s)\n", aspect, value, rule)
	}
	if g := result.Snap.Hold; g != nil {
		say("hold", g.Value, g.Rule)
	}
	if g := result.Snap.Window; g != nil {
		say("window", g.Value, g.Rule)
	}
	if g := result.Snap.MinimumAge; g != nil {
		say("minimum age", g.Value, g.Rule)
	}
	if g := result.Snap.Retain; g != nil {
		say("retain", g.Value, g.Rule)
	}
	for _, failure := range result.Failures {
		fmt.Fprintf(&b, "rule %s does not match: %s\n", failure.Rule, failure.Text)
	}
	if b.Len() == 0 {
		return "nothing\n", nil
	}
	return b.String(), nil
}

// question reads the words of a change.
func (s *script) question(reason tenure.Reason, d *datadriven.TestData) error {
	s.facts.Change = policy.Change{Reason: reason}
	plain, set := words(d)
	c := &s.facts.Change
	for _, word := range plain {
		if err := changeWord(c, word); err != nil {
			return err
		}
	}
	if waited, ok := set["waiting-for"]; ok {
		duration, err := parseDuration(waited)
		if err != nil {
			return err
		}
		c.Since = s.facts.Now.Add(-duration)
	}
	if with, ok := set["with"]; ok {
		c.With = append(c.With, tenure.Instance(with))
	}
	return nil
}

func changeWord(c *policy.Change, word string) error {
	switch word {
	case "automatically":
		c.Auto = true
	case "overdue":
		c.Overdue, c.Auto = true, true
	case "--ignore-running":
		c.IgnoreRunning = true
	case "--force":
		c.Force = true
	case "--leave":
		c.Leave = true
	case "--now":
		c.Now = true
	case "--kill":
		c.Kill = true
	case "->", "everything":
	default:
		if rev, err := tenure.ParseRevision(word); err == nil {
			if c.From.IsZero() {
				c.From = rev
			} else {
				c.To = rev
			}
			return nil
		}
		if snap, err := tenure.ParseInstance(word); err == nil {
			c.Snap = snap
			return nil
		}
		unit, err := tenure.ParseUnit(word)
		if err != nil {
			return err
		}
		c.Snap = unit.Snap
		c.Units = append(c.Units, unit)
	}
	return nil
}

func (s *script) engine(d *datadriven.TestData) error {
	s.facts.Supported = nil
	plain, _ := words(d)
	for _, word := range plain {
		if word == "all" {
			return nil
		}
		var verdict tenure.Verdict
		if err := verdict.UnmarshalText([]byte(strings.ReplaceAll(word, "-", " "))); err != nil {
			return err
		}
		s.facts.Supported = append(s.facts.Supported, verdict)
	}
	return nil
}

func (s *script) rule(d *datadriven.TestData) error {
	plain, set := words(d)
	if len(plain) != 2 {
		return fmt.Errorf("want: rule NAME UNIT ASPECT=VALUE")
	}
	unit, err := tenure.ParseUnit(plain[1])
	if err != nil {
		return err
	}
	for _, aspect := range slices.Sorted(maps.Keys(set)) {
		s.ruled[unit] = append(s.ruled[unit], policy.Ruling{Aspect: policy.Aspect(aspect), Value: set[aspect], Rule: plain[0]})
	}
	return nil
}

func (s *script) limit(d *datadriven.TestData) (err error) {
	_, set := words(d)
	s.facts.Limits = policy.Limits{}
	for key, value := range set {
		switch key {
		case "stop-timeout":
			s.facts.Limits.MaxStopTimeout, err = parseDuration(value)
		case "deferral":
			s.facts.Limits.MaxDeferral, err = parseDuration(value)
		case "endure":
			s.facts.Limits.MaxEndure, err = parseDuration(value)
		case "endured":
			s.facts.Limits.EndEndured = value == "end"
		case "evacuation":
			s.facts.Limits.MaxEvacuation, err = parseDuration(value)
		case "inhibition":
			s.facts.Limits.MaxInhibition, err = parseDuration(value)
		default:
			err = fmt.Errorf("unknown limit %s", key)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// estimate reads lines as "virt.virtd 7s with vm each 7s of 1m", with "alone" in place of
// "each" where only one was measured.
func (s *script) estimate(d *datadriven.TestData) error {
	clear(s.facts.Estimates)
	for line := range strings.Lines(d.Input) {
		words := strings.Fields(line)
		var e policy.Estimate
		if n := len(words) - 2; n >= 2 && words[n] == "of" {
			var err error
			if e.Of, err = parseDuration(words[n+1]); err != nil {
				return err
			}
			words = words[:n]
		}
		if len(words) != 2 && (len(words) != 6 || words[2] != "with" || words[4] != "each" && words[4] != "alone") {
			return fmt.Errorf("%q (want UNIT TIME [with NAME {each|alone} TIME] [of TIME])", strings.TrimSpace(line))
		}
		unit, err := tenure.ParseUnit(words[0])
		if err != nil {
			return err
		}
		if e.Took, err = parseDuration(words[1]); err != nil {
			return err
		}
		if len(words) == 6 {
			e.With, e.Alone = []string{words[3]}, words[4] == "alone"
			if e.Each, err = parseDuration(words[5]); err != nil {
				return err
			}
		}
		s.facts.Estimates[unit] = e
	}
	return nil
}

func parseDuration(s string) (time.Duration, error) {
	if days, ok := strings.CutSuffix(s, "d"); ok {
		n, err := strconv.Atoi(days)
		return time.Duration(n) * 24 * time.Hour, err
	}
	return time.ParseDuration(s)
}

// yamlApp is the part of an app in snap.yaml that decisions depend on.
type yamlApp struct {
	Daemon      string             `yaml:"daemon"`
	Command     string             `yaml:"command"` // For the reader alone.
	RefreshMode policy.RefreshMode `yaml:"refresh-mode"`
	StopMode    string             `yaml:"stop-mode"`
	StopCommand string             `yaml:"stop-command"`
	StopTimeout string             `yaml:"stop-timeout"`
	Lifecycle   struct {
		Refresh      string      `yaml:"refresh"`
		DeferWhile   string      `yaml:"defer-while"`
		Kill         policy.Kill `yaml:"kill"`
		DrainTimeout string      `yaml:"drain-timeout"`
		Instances    bool        `yaml:"instances"`
		Workloads    yaml.Node   `yaml:"workloads"`
	} `yaml:"lifecycle"`
}

type yamlWorkload struct {
	Match          string            `yaml:"match"`
	StopCommand    string            `yaml:"stop-command"`
	StopTimeout    string            `yaml:"stop-timeout"`
	StopSignal     string            `yaml:"stop-signal"`
	ReloadSignal   string            `yaml:"reload-signal"`
	Kill           policy.Kill       `yaml:"kill"`
	CompatibleFrom string            `yaml:"compatible-from"`
	Verdicts       map[string]string `yaml:",inline"`
}

// snap adds a declaration, or replaces the one of the same revision.
func (s *script) snap(d *datadriven.TestData) error {
	plain, set := words(d)
	if len(plain) < 2 {
		return fmt.Errorf("want: snap NAME REVISION")
	}
	rev, err := tenure.ParseRevision(plain[1])
	if err != nil {
		return err
	}
	decl := policy.Declaration{
		Snap: tenure.Instance(plain[0]), Revision: rev, Version: set["version"], Base: set["base"],
		Classic: slices.Contains(plain, "classic"), Evacuates: slices.Contains(plain, "evacuates"), Apps: map[tenure.App]policy.App{},
	}
	var file struct {
		Apps map[tenure.App]yamlApp `yaml:"apps"`
	}
	decoder := yaml.NewDecoder(strings.NewReader(d.Input))
	decoder.KnownFields(true)
	if strings.TrimSpace(d.Input) != "" {
		if err := decoder.Decode(&file); err != nil {
			return err
		}
	}
	for name, app := range file.Apps {
		if decl.Apps[name], err = app.declare(); err != nil {
			return err
		}
	}
	s.facts.Declarations = append(s.facts.Declarations, decl)
	return nil
}

func (a yamlApp) declare() (app policy.App, err error) {
	app = policy.App{Daemon: a.Daemon != "", RefreshMode: a.RefreshMode, Instances: a.Lifecycle.Instances}
	app.DeferWhile = a.Lifecycle.DeferWhile
	app.Refresh = tenure.Verdict(strings.ReplaceAll(a.Lifecycle.Refresh, "handover", "hand over"))
	mode, all := strings.CutSuffix(a.StopMode, "-all")
	app.Stop = policy.Stop{Command: a.StopCommand != "", Signal: strings.ToUpper(mode), Kill: a.Lifecycle.Kill}
	if mode != "" && !all {
		app.Stop.Target = policy.TargetMain
	}
	if app.Stop.Timeout, err = optionalDuration(a.StopTimeout); err != nil {
		return app, err
	}
	if app.DrainTimeout, err = optionalDuration(a.Lifecycle.DrainTimeout); err != nil {
		return app, err
	}
	nodes := a.Lifecycle.Workloads.Content
	for i := 0; i+1 < len(nodes); i += 2 {
		var w yamlWorkload
		if err := nodes[i+1].Decode(&w); err != nil {
			return app, err
		}
		workload, err := w.declare(nodes[i].Value)
		if err != nil {
			return app, err
		}
		app.Workloads = append(app.Workloads, workload)
	}
	return app, nil
}

func (w yamlWorkload) declare(name string) (policy.Workload, error) {
	workload := policy.Workload{Name: name, Match: w.Match, CompatibleFrom: w.CompatibleFrom, ReloadSignal: strings.ToUpper(w.ReloadSignal), Verdicts: map[tenure.Reason]tenure.Verdict{}}
	for key, word := range w.Verdicts {
		reason := tenure.Reason(key)
		if !slices.Contains(tenure.Reasons(), reason) {
			return workload, fmt.Errorf("workload %s: unknown key %s", name, reason)
		}
		workload.Verdicts[reason] = tenure.Verdict(word)
	}
	timeout, err := optionalDuration(w.StopTimeout)
	if w.StopCommand != "" || w.StopSignal != "" || w.Kill != "" || timeout != 0 {
		workload.Stop = &policy.Stop{Command: w.StopCommand != "", Signal: strings.ToUpper(w.StopSignal), Timeout: timeout, Kill: w.Kill}
	}
	return workload, err
}

func optionalDuration(s string) (time.Duration, error) {
	if s == "" {
		return 0, nil
	}
	return parseDuration(s)
}

// parseUnits reads units and their process trees; see testdata/README.md.
func parseUnits(input string) ([]policy.Unit, error) {
	var units []policy.Unit
	var parents []parent
	for line := range strings.Lines(input) {
		fields := strings.Fields(line)
		if len(fields) == 0 {
			continue
		}
		depth := len(line) - len(strings.TrimLeft(line, " "))
		if depth == 0 {
			unit, err := parseUnit(fields)
			if err != nil {
				return nil, err
			}
			units, parents = append(units, unit), nil
			continue
		}
		if len(units) == 0 {
			return nil, fmt.Errorf("process without a unit: %s", line)
		}
		for len(parents) > 0 && parents[len(parents)-1].depth >= depth {
			parents = parents[:len(parents)-1]
		}
		process, main, err := parseProcess(fields)
		if err != nil {
			return nil, err
		}
		process.PPID = 1
		if len(parents) > 0 {
			process.PPID = parents[len(parents)-1].pid
		}
		parents = append(parents, parent{depth, process.PID})
		unit := &units[len(units)-1]
		unit.Processes = append(unit.Processes, process)
		if main {
			unit.Main = process.Process
		}
	}
	return units, nil
}

type parent struct{ depth, pid int }

func parseUnit(fields []string) (policy.Unit, error) {
	if len(fields) < 2 {
		return policy.Unit{}, fmt.Errorf("want: UNIT REVISION, not %v", fields)
	}
	id, err := tenure.ParseUnit(fields[0])
	if err != nil {
		return policy.Unit{}, err
	}
	rev, err := tenure.ParseRevision(fields[1])
	if err != nil {
		return policy.Unit{}, err
	}
	unit := policy.Unit{ID: id, Revision: rev, Active: true}
	for _, field := range fields[2:] {
		switch {
		case strings.HasPrefix(field, "uses="):
			ref, err := tenure.ParseRef(strings.TrimPrefix(field, "uses="))
			if err != nil {
				return unit, err
			}
			unit.Uses = append(unit.Uses, ref)
		case strings.HasPrefix(field, "by="):
			by, err := tenure.ParseInstance(strings.TrimPrefix(field, "by="))
			if err != nil {
				return unit, err
			}
			unit.By = by
		case strings.HasPrefix(field, "age="):
			age, err := parseDuration(strings.TrimPrefix(field, "age="))
			if err != nil {
				return unit, err
			}
			unit.Since = scriptNow().Add(-age)
		case strings.HasPrefix(field, "stale="):
			stale, err := parseDuration(strings.TrimPrefix(field, "stale="))
			if err != nil {
				return unit, err
			}
			unit.StaleSince = scriptNow().Add(-stale)
		case field == "stopped":
			unit.Active = false
		case field == "armed":
		default:
			return unit, fmt.Errorf("unknown word %s", field)
		}
	}
	return unit, nil
}

func parseProcess(fields []string) (p policy.Process, main bool, err error) {
	for ; len(fields) > 0; fields = fields[1:] {
		key, value, _ := strings.Cut(strings.Replace(fields[0], "in:", "in=", 1), "=")
		switch key {
		case "main":
			main = true
		case "in":
			p.Foreign, p.Group = true, value
		case "age":
			age, ageErr := parseDuration(value)
			p.Started, err = scriptNow().Add(-age), ageErr
		case "memory":
			mib, mibErr := strconv.ParseInt(strings.TrimSuffix(value, "M"), 10, 64)
			p.Memory, err = mib<<20, mibErr
		default:
			key = ""
		}
		if key == "" || err != nil {
			break
		}
	}
	if err != nil {
		return p, main, err
	}
	if len(fields) < 2 {
		return p, main, fmt.Errorf("want: PID COMMAND, not %v", fields)
	}
	if p.PID, err = strconv.Atoi(fields[0]); err != nil {
		return p, main, err
	}
	p.Start = uint64(p.PID)
	p.CommandLine = strings.Join(fields[1:], " ")
	return p, main, nil
}
