package powercut_test

import (
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"tenure/examples/clients/snaps"
	"tenure/test/powercut"
	"tenure/test/rig"
)

// act is something that an administrator does, and who may believe it done when it returns.
type act struct {
	name string
	// command is one of tenure, with "@NAME" for a snap file; do is anything else.
	command []string
	do      func(s *stage)
	// staged is that it is applied when the machine starts, and withdraws that it takes back what the act before
	// has staged, in a change of its own, before it begins.
	staged, withdraws bool
	// piecemeal is how the names begin of what it makes, if that is not made in one instant and nobody mends it.
	piecemeal string
	// begun and done are how many operations the disk had seen before and after.
	begun, done int
}

// stage is an instance whose disk records what is done.
type stage struct {
	*rig.Instance

	t    *testing.T
	disk *powercut.Disk
	// files are the snap files, by what they are called here.
	files map[string]string
}

// the snap "kept" in its versions, and one that comes and goes.
var packages = map[string]string{ //nolint:gochecknoglobals // Constant.
	"1": "name: kept\nversion: '1'\nbase: bare\nconfinement: strict\napps:\n  say: {command: bin/probe say}\n" +
		"  db: {daemon: notify, command: 'bin/probe db notify:READY:1 run'}\n",
	"2": "name: kept\nversion: '2'\nbase: bare\nconfinement: strict\napps:\n  say: {command: bin/probe say}\n  more: {command: bin/probe more}\n" +
		"  db: {daemon: notify, command: 'bin/probe db notify:READY:1 run', lifecycle: {refresh: defer}}\n",
	"broken": "name: kept\nversion: broken\nbase: bare\nconfinement: strict\napps:\n  more: {command: bin/probe more}\n" +
		"  db: {daemon: notify, command: 'bin/probe db exit:7', restart-condition: never}\n",
	"other": "name: other\nversion: '1'\nbase: bare\nconfinement: strict\napps:\n  other: {command: bin/probe other}\n" +
		"  db: {daemon: notify, command: 'bin/probe db notify:READY:1 run'}\n",
}

// dataOfKept is what the data of the snap "kept" is in a world.
const dataOfKept = "at var/snap/kept/"

func acts() []act {
	return []act{
		{name: "settings", command: []string{"set", "system", "refresh.observe=0s", "snapshots.automatic.retention=no"}},
		{name: "install", command: []string{"install", "--dangerous", "@1"}},
		{name: "data", piecemeal: dataOfKept, do: func(s *stage) { s.write("x1", "first") }},
		{name: "configuration", command: []string{"set", "kept", "a=1", "b.c=two"}},
		{name: "alias", command: []string{"alias", "kept.say", "hey"}},
		{name: "refresh", command: []string{"refresh", "--dangerous", "@2"}},
		{name: "more data", piecemeal: dataOfKept, do: func(s *stage) { s.write("x2", "second") }},
		{name: "install another", command: []string{"install", "--dangerous", "@other"}},
		{name: "save", command: []string{"save", "kept"}},
		{name: "refresh at once", command: []string{"refresh", "--now", "--dangerous", "@1"}},
		{name: "failing refresh", do: func(s *stage) {
			if result := s.Try("refresh", "--dangerous", s.files["broken"]); result.Status == 0 {
				s.t.Errorf("a refresh to what does not start: %+v", result)
			}
		}},
		{name: "rules", piecemeal: "at etc/tenure/policy.yaml.new", do: func(s *stage) { s.rule("[]\n") }},
		{name: "disable", command: []string{"disable", "other"}},
		{name: "remove", command: []string{"remove", "other"}},
		{name: "revert", command: []string{"revert", "--now", "kept"}},
		{name: "staged refresh", staged: true, command: []string{"refresh", "--dangerous", "@1"}},
		{name: "remove all", withdraws: true, command: []string{"remove", "kept"}},
	}
}

// play does an act.
func (s *stage) play(a *act) {
	s.t.Helper()
	if a.do != nil {
		a.do(s)
		return
	}
	s.Tenure(s.words(a)...)
}

// words are those of an act's command.
func (s *stage) words(a *act) []string {
	words := slices.Clone(a.command)
	for n, word := range words {
		if name, ok := strings.CutPrefix(word, "@"); ok {
			words[n] = s.files[name]
		}
	}
	return words
}

// write has the data of a revision, and what all share, say something, durably.
func (s *stage) write(revision, text string) {
	s.t.Helper()
	for _, dir := range []string{s.Path("var/snap/kept", revision), s.Path("var/snap/kept/common")} {
		must(s.t, os.MkdirAll(filepath.Join(dir, "sub"), 0o750), syncDir(dir))
		for _, name := range []string{"text", "sub/text"} {
			path := filepath.Join(dir, name)
			must(s.t, replace(path, strings.Repeat(text+"\n", 1000), true), syncDir(filepath.Dir(path)))
		}
	}
}

// rule makes a file of rules be in force, and kept.
func (s *stage) rule(text string) {
	s.t.Helper()
	path := s.Path("etc/tenure/policy.yaml")
	must(s.t, os.MkdirAll(filepath.Dir(path), 0o755), syncDir(s.Root), syncDir(s.Path("etc")), replace(path, text, true), syncDir(filepath.Dir(path)))
	lost := time.After(rig.Patience)
	for {
		if kept, _ := s.disk.File("var/lib/tenure/policy.yaml"); string(kept) == text {
			return
		}
		select {
		case <-time.After(glance):
		case <-lost:
			s.t.Fatal("the rules are not kept")
		}
	}
}

// pack makes the snap files.
func pack(t *testing.T, bin string) map[string]string {
	t.Helper()
	root, err := snaps.Checkout()
	must(t, err)
	files := map[string]string{}
	dir := t.TempDir()
	program := filepath.Join(dir, "probe")
	build := exec.CommandContext(t.Context(), "go", "build", "-trimpath", "-ldflags", "-s -w", "-o", program, "./test/probe") //nolint:gosec // Only paths of the test.
	build.Dir, build.Env = root, append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build the probe: %v\n%s", err, out)
	}
	for name, yaml := range packages {
		tree := filepath.Join(dir, name)
		must(t, os.MkdirAll(filepath.Join(tree, "meta"), 0o755), os.MkdirAll(filepath.Join(tree, "bin"), 0o755))                              //nolint:gosec // As in any snap.
		must(t, os.Link(program, filepath.Join(tree, "bin/probe")), os.WriteFile(filepath.Join(tree, "meta/snap.yaml"), []byte(yaml), 0o644)) //nolint:gosec // As in any snap.
		// Without steps the probe does nothing, as it should in a hook.
		hook := fmt.Sprintf("#!/snap/%s/current/bin/probe\n", strings.Fields(yaml)[1])
		must(t, os.Mkdir(filepath.Join(tree, "meta/hooks"), 0o755), os.WriteFile(filepath.Join(tree, "meta/hooks/configure"), []byte(hook), 0o755)) //nolint:gosec // As in any snap.
		files[name] = tree + ".snap"
		if out, err := exec.CommandContext(t.Context(), filepath.Join(bin, "tenure"), "pack", "--compression", "lz4", tree, files[name]).CombinedOutput(); err != nil {
			t.Fatalf("pack %s: %v\n%s", name, err, out)
		}
	}
	return files
}

// play has an instance in root do everything, and notes what there is after each act.
func (p *premiere) play(t *testing.T) {
	t.Helper()
	s := &stage{t: t, disk: powercut.New(powercut.Config{Volatile: []string{"run"}}), files: p.files}
	s.Instance = rig.New(t, rig.Config{Root: p.root, Observe: true, Mount: mountOf(s.disk)})
	p.acts = acts()
	for n := range p.acts {
		a := &p.acts[n]
		p.see(t, s)
		a.begun = s.disk.Done()
		s.play(a)
		a.done = s.disk.Done()
		if t.Failed() {
			t.FailNow()
		}
	}
	p.see(t, s)
	p.log = s.disk.Log()
}

// see notes what there is before the next act.
func (p *premiere) see(t *testing.T, s *stage) {
	t.Helper()
	w, err := look(t.Context(), s.Instance, s.disk)
	must(t, err)
	ended, err := endings(t.Context(), s.Instance)
	must(t, err)
	p.worlds, p.ended = append(p.worlds, w), append(p.ended, ended)
}

// mountOf mounts a disk for an instance.
func mountOf(d *powercut.Disk) func(string) (func() error, error) {
	return func(dir string) (func() error, error) {
		m, err := d.Mount(dir)
		if err != nil {
			return nil, err
		}
		return m.Unmount, nil
	}
}

// asked is a number that the environment gives.
func asked(name string, otherwise uint64) uint64 {
	if n, err := strconv.ParseUint(os.Getenv(name), 10, 64); err == nil {
		return n
	}
	return otherwise
}

// TestPowerCuts has an administrator do much, cuts the power at any moment, and starts the machine
// on what the disk may have then: what was done is done, and what had begun is done or not. SEED draws the cuts, of which
// CUTS are started and READS are read. Then the disk refuses something in TROUBLES commands.
func TestPowerCuts(t *testing.T) {
	t.Parallel()
	// Sockets need a short path, and what is written down has it in it.
	root := filepath.Join("/tmp", "tn-"+filepath.Base(filepath.Dir(t.TempDir())))
	bin, err := rig.Build(t.Context(), false)
	must(t, err)
	p := &premiere{root: root, files: pack(t, bin)}
	must(t, os.Mkdir(root, 0o755)) //nolint:gosec // As any root.
	if !t.Run("play", p.play) {
		return
	}
	t.Logf("%d operations, of which %d wait for the disk", p.log.Len(), len(p.log.Syncs()))
	p.applied(t)
	seed := asked("SEED", 1)
	t.Logf("SEED=%d", seed)
	t.Run("read", func(t *testing.T) { p.readAll(t, seed, asked("READS", 60)) })
	p.withdrawn(t)
	p.startAll(t, seed, asked("CUTS", 7))
	p.breakAll(t, seed, asked("TROUBLES", 4))
}

// premiere is what was played, and what there was before each act and after the last.
type premiere struct {
	root   string
	files  map[string]string
	acts   []act
	log    *powercut.Log
	worlds []world
	ended  []map[string]string
}

// applied sees what there is when the machine has started where a refresh was staged: it is done then.
func (p *premiere) applied(t *testing.T) {
	t.Helper()
	for n := range p.acts {
		if !p.acts[n].staged {
			continue
		}
		d := p.log.Cut(powercut.Cut{Before: p.acts[n].done, Landed: powercut.All})
		t.Run("staged", func(t *testing.T) {
			p.boot(t, d, func(ctx context.Context, i *rig.Instance, _ map[string]string) error {
				w, err := look(ctx, i, d)
				p.worlds[n+1] = w
				return err
			})
		})
	}
}

// withdrawn starts the machine where a change that waited for that is being taken back: its services run all the same.
func (p *premiere) withdrawn(t *testing.T) {
	t.Helper()
	for n := range p.acts {
		if a := &p.acts[n]; a.withdraws {
			syncs := p.log.Syncs()
			first, _ := slices.BinarySearch(syncs, a.begun)
			c := powercut.Cut{Before: syncs[first+2] + 1, Landed: powercut.Nothing}
			t.Run("withdrawn", func(t *testing.T) { p.start(t, c, p.log.Cut(c)) })
		}
	}
}

// allowed are the numbers of the worlds that there may be after a cut.
func (p *premiere) allowed(before int) (first, last int) {
	for n := range p.acts {
		if p.acts[n].done <= before {
			first = n + 1
		}
		if p.acts[n].begun < before {
			last = n + 1
		}
	}
	if first < last && p.acts[last-1].withdraws {
		first--
	}
	return first, max(first, last)
}

// during says when a cut was.
func (p *premiere) during(before int) string {
	first, last := p.allowed(before)
	switch {
	case last == 0:
		return "before everything"
	case first == last:
		return "after " + p.acts[last-1].name
	}
	return "in " + p.acts[last-1].name
}

// startAll starts the machine on different states that are drawn.
func (p *premiere) startAll(t *testing.T, seed, cuts uint64) {
	t.Helper()
	random := rand.New(rand.NewPCG(seed, 0)) //nolint:gosec // No secret.
	seen := map[uint64]bool{}
	digests := maphash.MakeSeed()
	for range cuts {
		c := p.draw(random, p.log.Len())
		d := p.log.Cut(c)
		if digest := d.Digest(digests); seen[digest] {
			continue
		} else {
			seen[digest] = true
		}
		now := 0
		t.Run(c.String(), func(t *testing.T) { now = p.start(t, c, d) })
		if now == 0 || random.IntN(4) > 0 {
			continue
		}
		// The power fails again while the daemon mends what the first cut has left.
		again := p.draw(random, now)
		t.Run(c.String()+"/again/"+again.String(), func(t *testing.T) { p.start(t, c, d.Log().Cut(again)) })
	}
	t.Logf("started on %d states", len(seen))
}

// draw draws a cut before operation end; every other one is beside a wait for the disk.
func (p *premiere) draw(random *rand.Rand, end int) powercut.Cut {
	c := powercut.Cut{
		Before: random.IntN(end + 1), Model: powercut.Model(random.IntN(2)), Landed: powercut.Landed(random.IntN(5)), Seed: random.Uint64(),
	}
	if syncs := p.log.Syncs(); end == p.log.Len() && random.IntN(2) == 0 {
		c.Before = syncs[random.IntN(len(syncs))] + random.IntN(2)
	}
	return c
}

// boot starts the machine on a disk, waits until no change goes on, and has that checked.
func (p *premiere) boot(t *testing.T, d *powercut.Disk, check func(ctx context.Context, i *rig.Instance, ended map[string]string) error) {
	t.Helper()
	must(t, os.Mkdir(p.root, 0o755)) //nolint:gosec // As any root.
	i := rig.New(t, rig.Config{Root: p.root, Observe: true, Waits: true, Mount: mountOf(d)})
	if err := i.TryStart(); err != nil {
		t.Errorf("tenured does not start: %v", err)
		return
	}
	ctx, cancel := context.WithTimeout(t.Context(), rig.Patience)
	defer cancel()
	ended, err := settled(ctx, i)
	if err == nil {
		err = check(ctx, i, ended)
	}
	if err != nil {
		t.Error(err)
	}
}

// start starts on what a cut leaves, and checks what comes of it. It returns how many operations that has taken.
func (p *premiere) start(t *testing.T, c powercut.Cut, d *powercut.Disk) (done int) {
	t.Helper()
	first, last := p.allowed(c.Before)
	p.boot(t, d, func(ctx context.Context, i *rig.Instance, ended map[string]string) error {
		for id, how := range p.ended[first] {
			if ended[id] != how {
				return fmt.Errorf("%s: change %s was %s, and is %q", p.during(c.Before), id, how, ended[id]) //nolint:err113 // For a test.
			}
		}
		var may []string
		if first < last && p.acts[last-1].piecemeal != "" {
			may = append(may, p.acts[last-1].piecemeal)
		}
		if err := p.becomes(ctx, i, d, first, last, may...); err != nil {
			return fmt.Errorf("%s:\n%w", p.during(c.Before), err)
		}
		done = d.Done()
		return nil
	})
	return done
}

// becomes waits until there is what was there after as many acts as first to last, apart from what begins
// with a word of may.
func (p *premiere) becomes(ctx context.Context, i *rig.Instance, d *powercut.Disk, first, last int, may ...string) error {
	patience := time.After(settling)
	for {
		w, err := look(ctx, i, d)
		if err != nil {
			return err
		}
		var lines []string
		for n := first; n <= last; n++ {
			different := w.without(may).differences(p.worlds[n].without(may))
			if len(different) == 0 {
				return nil
			}
			lines = append(append(lines, fmt.Sprintf("to what there is after %d acts:", n)), different...)
		}
		select {
		case <-time.After(glance):
		case <-patience:
			return errors.New(strings.Join(lines, "\n")) //nolint:err113 // For a test.
		}
	}
}

// settling is how long what nothing needs any more may stay, and a service may take to start.
const settling = 10 * time.Second
