package soak

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"tenure/examples/clients/snaps"
)

// The services and snaps that the model knows by name.
const (
	baseName = "soakbase"
	ready    = "ready"
	careless = "careless"
	manager  = "manager"
	template = "template"
	app      = "tool"
)

// role is a service of a snap.
type role struct {
	Name string
	// Refresh is its verdict on a refresh.
	Refresh string
	// Runs is that it has a process from when it has started; Socket that it is first started
	// by somebody who connects.
	Runs, Socket bool
	// YAML are its keys, and Steps the arguments of its program.
	YAML, Steps string
}

// roles are the services that snaps can have, beside the first, which each has.
func roles() []role {
	const up = "notify:READY:1 run"
	return []role{
		{Name: "plain", Refresh: restart, Runs: true, YAML: "daemon: simple", Steps: "trap run"},
		{Name: "lasting", Refresh: endure, Runs: true, YAML: "daemon: notify\nlifecycle: {refresh: endure}", Steps: "trap " + up},
		{Name: manager, Refresh: restart, Runs: true, Steps: "trap obey " + up, YAML: "daemon: notify\n" +
			"lifecycle: {workloads: {vm: {match: 'manager\\.vm', refresh: endure}, job: {refresh: stop, revert: stop, restart: endure}}}"},
		{Name: careless, Refresh: restart, Runs: true, Steps: "trap obey " + up, YAML: "daemon: notify\nstop-mode: sigterm"},
		{Name: "turns", Refresh: reload, Runs: true, Steps: "trap renew " + up, YAML: "daemon: notify\nlifecycle: {refresh: reload}"},
		{Name: "hands", Refresh: handOver, Runs: true, Socket: true, Steps: "trap serve " + up, YAML: "daemon: notify\n" +
			"sockets: {main: {listen-stream: $SNAP_COMMON/hands}}\nlifecycle: {refresh: handover, data: none}"},
		{Name: "forks", Refresh: restart, Runs: true, YAML: "daemon: forking", Steps: "fork trap run"},
		{Name: "waits", Refresh: wait, Runs: true, YAML: "daemon: notify\nlifecycle: {refresh: defer}", Steps: "trap " + up},
		{Name: template, YAML: "daemon: simple\nlifecycle: {instances: true}", Steps: "trap run"},
		{Name: "lazy", Refresh: restart, Runs: true, Socket: true, Steps: "trap serve " + up, YAML: "daemon: notify\n" +
			"sockets: {main: {listen-stream: $SNAP_COMMON/lazy}}"},
		{Name: "once", YAML: "daemon: oneshot", Steps: "exit:0"},
		{Name: "timed", YAML: "daemon: oneshot\ntimer: mon,03:00", Steps: "exit:0"},
	}
}

// first is the service that each snap has, and that is what is wrong with a bad variant.
func first() role {
	return role{Name: ready, Refresh: restart, Runs: true, YAML: "daemon: notify", Steps: "trap notify:READY:1 run"}
}

// extra is the service that only rich variants have.
func extra() role {
	return role{Name: "extra", Refresh: restart, Runs: true, YAML: "daemon: notify", Steps: "trap notify:READY:1 run"}
}

// rolesOf are the services of the nth snap: in turn, so that few snaps have all.
func rolesOf(n int) []role {
	all, mine := roles(), []role{first()}
	for i := range 4 {
		mine = append(mine, all[(4*n+i+n/3)%len(all)])
	}
	return mine
}

// variant is what a revision is. The zero value is a good one.
type variant struct {
	// Rich is that it has one service more.
	Rich bool
	// Fault is what is wrong with it.
	Fault fault
}

// fault is what is wrong with a revision.
type fault string

const (
	mute    fault = "mute"    // The first service never says that it is ready.
	crash   fault = "crash"   // The first service ends as soon as it is started.
	badHook fault = "badhook" // The hook configure fails.
)

func (v variant) String() string {
	switch {
	case v.Fault != "":
		return string(v.Fault)
	case v.Rich:
		return "rich"
	default:
		return "good"
	}
}

// packer makes the files of snaps, each once.
type packer struct {
	dir, tenure, probe string
}

// newPacker builds the program of the snaps.
func newPacker(ctx context.Context, dir, programs string) (*packer, error) {
	root, err := snaps.Checkout()
	if err != nil {
		return nil, err
	}
	p := &packer{dir: dir, tenure: filepath.Join(programs, "tenure"), probe: filepath.Join(dir, "probe")}
	build := exec.CommandContext(ctx, "go", "build", "-trimpath", "-ldflags", "-s -w", "-o", p.probe, "./test/probe") //nolint:gosec // Only paths of the test.
	build.Dir = root
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("build the probe: %w\n%s", err, out)
	}
	return p, nil
}

// base is the file of the base.
func (p *packer) base(ctx context.Context) (string, error) {
	return p.pack(ctx, baseName, "name: "+baseName+"\nversion: '1'\ntype: base\n", nil)
}

// snap is the file of a variant of a snap.
func (p *packer) snap(ctx context.Context, s *snap, v variant) (string, error) {
	var yaml strings.Builder
	fmt.Fprintf(&yaml, "name: %s\nversion: '%s'\nbase: %s\nconfinement: strict\napps:\n", s.Name, v, baseName)
	fmt.Fprintf(&yaml, "  %s: {command: bin/probe %s say:up trap run}\n", app, app)
	for _, r := range s.services(v) {
		if r.Name == ready {
			r = broken(r, v.Fault)
		}
		always := "restart-condition: always\n"
		if !r.Runs {
			always = ""
		}
		text := fmt.Sprintf("command: bin/probe %s %s\n%s%s", r.Name, r.Steps, always, r.YAML)
		fmt.Fprintf(&yaml, "  %s:\n    %s\n", r.Name, strings.ReplaceAll(text, "\n", "\n    "))
	}
	hooks := map[string]string{"configure": "exit:0"}
	if v.Fault == badHook {
		hooks["configure"] = "exit:1"
	}
	return p.pack(ctx, s.Name+"-"+v.String(), yaml.String(), hooks)
}

func broken(r role, f fault) role {
	switch f {
	case mute:
		r.Steps = "trap run"
		r.YAML += "\nstart-timeout: 1s"
	case crash:
		r.Steps = "exit:1"
	case badHook:
	}
	return r
}

// pack makes a file, if it is not there.
func (p *packer) pack(ctx context.Context, name, yaml string, hooks map[string]string) (string, error) {
	file, tree := filepath.Join(p.dir, name+".snap"), filepath.Join(p.dir, name)
	if _, err := os.Stat(file); err == nil {
		return file, nil
	}
	var failures []error
	for _, dir := range []string{"meta/hooks", "bin", "steps"} {
		failures = append(failures, os.MkdirAll(filepath.Join(tree, dir), 0o755)) //nolint:gosec // As in any snap.
	}
	put := func(path, text string) {
		failures = append(failures, os.WriteFile(filepath.Join(tree, path), []byte(text), 0o644)) //nolint:gosec // As in any snap.
	}
	put("meta/snap.yaml", yaml)
	for hook, steps := range hooks {
		put("steps/"+hook, steps)
		failures = append(failures, os.Link(p.probe, filepath.Join(tree, "meta/hooks", hook)))
	}
	if hooks != nil {
		failures = append(failures, os.Link(p.probe, filepath.Join(tree, "bin/probe")))
	}
	if err := errors.Join(failures...); err != nil {
		return "", fmt.Errorf("pack %s: %w", name, err)
	}
	defer os.RemoveAll(tree)                                                                                    //nolint:errcheck // Below the directory of the test.
	out, err := exec.CommandContext(ctx, p.tenure, "pack", "--compression", "lz4", tree, file).CombinedOutput() //nolint:gosec // Our own.
	if err != nil {
		return "", fmt.Errorf("pack %s: %w\n%s", name, err, out)
	}
	return file, nil
}
