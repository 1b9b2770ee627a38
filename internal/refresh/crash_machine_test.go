package refresh

import (
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"io/fs"
	"iter"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"tenure"
	"tenure/internal/change"
	"tenure/internal/journal"
	"tenure/internal/mount"
	"tenure/internal/mount/mounttest"
	"tenure/internal/proc"
	"tenure/internal/snapdata"
	"tenure/internal/snapfile"
	"tenure/internal/squash"
	"tenure/internal/supervise"
	"tenure/internal/supervise/supervisetest"
)

// mortal is a machine in memory whose daemons die: at a boundary of the engine, on either side of
// what is made durable, and of what the supervisor and the mount table are asked for. Who dies stands still for ever
// where it is, and so does everybody else who comes to such a place.
//
// Its services and mounts are in memory; its files, with the journal among them, lie below a directory of tmpfs.
type mortal struct {
	*Manager

	t     *testing.T
	dir   string
	twin  *supervisetest.Twin
	table *mounttest.Twin
	lives int
	life  *life
	// prepared is how many changes there have been before the operation.
	prepared int
	// asked has what the operation has come to for who has asked for it.
	asked chan error
	over  chan struct{}
	seed  maphash.Seed
	// see is that of the next life.
	see func(asked int) uint64
	// failed hears why a daemon does not start.
	failed func(error)
	// cancel and end are what ends the daemons when everything has been looked at.
	cancel []context.CancelFunc
	end    []func()
}

// life is one daemon.
type life struct {
	mu sync.Mutex
	// left is how many places it passes alive; negative is all. passed is how many it has.
	left, passed int
	// turn is when the last one of those who have come to a place passes it.
	turn time.Time
	// asked is how often the supervisor and the mount table have done what they were asked for.
	asked int
	// see, if set, tells machines apart, and seen has, by place, which one it is there.
	see  func(asked int) uint64
	seen []uint64
	dead chan struct{}
	over <-chan struct{}
}

// done is place for who comes back from the supervisor or the mount table.
func (l *life) done() {
	l.mu.Lock()
	l.asked++
	l.mu.Unlock()
	l.place()
}

// place is where a daemon may die. One after the other passes it, when everybody else has come to a place, or waits: so
// the machine is as a daemon that dies here leaves it.
func (l *life) place() {
	select {
	case <-l.over:
		return
	default:
	}
	l.mu.Lock()
	now := time.Now()
	if l.turn.Before(now) {
		l.turn = now
	}
	l.turn = l.turn.Add(1)
	turn := l.turn.Sub(now)
	l.mu.Unlock()
	<-time.After(turn)
	l.mu.Lock()
	l.passed++
	alive := l.left < 0 || l.passed <= l.left
	if l.see != nil {
		l.seen = append(l.seen, l.see(l.asked))
	}
	if !alive && l.passed == l.left+1 {
		close(l.dead)
	}
	l.mu.Unlock()
	if !alive {
		<-l.over // It is no matter what it does then.
	}
}

// from has it die after so many places from now on; negative is never. see, if set, tells machines apart.
func (l *life) from(left int, see func(asked int) uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.left, l.passed, l.see = left, 0, see
}

// many is how many places it has passed.
func (l *life) many() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.passed
}

// different are the places of those that it has passed at which the machine was another one than at the place before.
func (l *life) different() (places []int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for at, seen := range l.seen {
		if at == 0 || seen != l.seen[at-1] {
			places = append(places, at)
		}
	}
	return places
}

// died reports whether it has.
func (l *life) died() bool {
	select {
	case <-l.dead:
		return true
	default:
		return false
	}
}

// undertaker is the supervisor as a daemon that may die asks it.
type undertaker struct {
	*supervisetest.Twin

	*life

	// dir has a file for each hook that fails.
	dir string
}

func (u undertaker) Start(ctx context.Context, specs ...supervise.Spec) error {
	specs = slices.Clone(specs)
	for i := range specs {
		specs[i].Command = u.programOf(&specs[i]).Command("/probe")
		specs[i].Reload = nil
	}
	u.place()
	err := u.Twin.Start(ctx, specs...)
	u.done()
	return err
}

func (u undertaker) Stop(ctx context.Context, req supervise.StopRequest) (supervise.Ended, error) {
	u.place()
	ended, err := u.Twin.Stop(ctx, req)
	u.done()
	return ended, err
}

func (u undertaker) Reload(ctx context.Context, req supervise.ReloadRequest) error {
	req.Spec.Command = u.programOf(&req.Spec).Command("/probe")
	req.Spec.Reload = nil
	u.place()
	err := u.Twin.Reload(ctx, req)
	u.done()
	return err
}

func (u undertaker) Succeed(ctx context.Context, spec supervise.Spec) error {
	spec.Command = u.programOf(&spec).Command("/probe")
	u.place()
	err := u.Twin.Succeed(ctx, spec)
	u.done()
	return err
}

func (u undertaker) TakeOver(ctx context.Context, service tenure.UnitID, drain time.Duration) (tenure.UnitID, error) {
	u.place()
	draining, err := u.Twin.TakeOver(ctx, service, drain)
	u.done()
	return draining, err
}

func (u undertaker) Forget(ctx context.Context, units ...tenure.UnitID) error {
	u.place()
	err := u.Twin.Forget(ctx, units...)
	u.done()
	return err
}

// programOf is what a unit does: hooks end well, but for those that a file says fail, and services called "broken" badly.
func (u undertaker) programOf(spec *supervise.Spec) supervisetest.Program {
	switch {
	case spec.Unit.App == "broken":
		return supervisetest.Program{Exits: true, Code: 1}
	case spec.Unit.Kind != tenure.Service && !isMissing(filepath.Join(u.dir, "fail-"+string(spec.Unit.App))):
		return supervisetest.Program{Exits: true, Code: 1}
	case spec.Unit.Kind != tenure.Service:
		return supervisetest.Program{Exits: true}
	}
	return supervisetest.Program{Name: string(spec.Unit.App), Notify: true, Reload: "reloaded"}
}

// sexton is the mount table as a daemon that may die asks it.
type sexton struct {
	*mounttest.Twin

	*life
}

func (s sexton) Mount(ctx context.Context, file, dir string) (mount.Info, error) {
	s.place()
	info, err := s.Twin.Mount(ctx, file, dir)
	s.done()
	return info, err
}

func (s sexton) Share(dir string) error {
	s.place()
	err := s.Twin.Share(dir)
	s.done()
	return err
}

func (s sexton) Unmount(ctx context.Context, dir string) error {
	if _, there, err := s.Mounted(dir); err != nil || !there {
		return err
	}
	s.place()
	err := s.Twin.Unmount(ctx, dir)
	s.done()
	return err
}

func (s sexton) UnmountTree(ctx context.Context, dir string) error {
	below, err := s.Below(dir)
	for _, m := range slices.Backward(below) {
		err = errors.Join(err, s.Unmount(ctx, m.Dir))
	}
	return err
}

func (s sexton) DetachTree(ctx context.Context, dir string) error {
	s.place()
	err := s.Twin.DetachTree(ctx, dir)
	s.done()
	return err
}

// plainFiles read snap files that are no more than their meta/snap.yaml, with all hooks that it names in a comment.
type plainFiles struct{}

const hooksMark = "# hooks:"

func (plainFiles) ReadFile(_ context.Context, path, _ string, _ int64) ([]byte, error) {
	return os.ReadFile(path) //nolint:gosec // Of the test.
}

func (plainFiles) List(_ context.Context, path string) ([]squash.Entry, error) {
	text, err := os.ReadFile(path) //nolint:gosec // Of the test.
	if err != nil {
		return nil, err
	}
	info, err := snapfile.Parse(text, nil)
	if err != nil {
		return nil, err
	}
	entries := []squash.Entry{
		{Path: ".", Mode: fs.ModeDir | 0o755},
		{Path: "meta", Mode: fs.ModeDir | 0o755},
		{Path: "meta/hooks", Mode: fs.ModeDir | 0o755},
		{Path: "meta/snap.yaml", Mode: 0o644},
	}
	for i := range info.Apps {
		entries = append(entries, squash.Entry{Path: info.Apps[i].Command[0], Mode: 0o755})
	}
	_, hooks, _ := strings.Cut(string(text), hooksMark)
	for _, name := range strings.Fields(hooks) {
		entries = append(entries, squash.Entry{Path: "meta/hooks/" + name, Mode: 0o755})
	}
	return entries, nil
}

// nothingBorn tells of no process: those of the machine are in memory.
func nothingBorn(ctx context.Context, _ ...proc.BirthKind) (iter.Seq[proc.Birth], error) {
	return func(func(proc.Birth) bool) { <-ctx.Done() }, nil
}

// nobodyWrites to files: nothing of the machine that runs has any.
func nobodyWrites(context.Context, uint64) ([]snapdata.Inode, error) { return nil, nil }

// grave is a machine that nobody works on, from which any number of others is made.
type grave struct {
	tree  []left
	table *mounttest.Twin
	// specs are what runs, and changes how many there have been.
	specs   []supervise.Spec
	changes int
}

// workplace is a directory of tmpfs: daemons die, and not the machine.
func workplace(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "tenure-crash-") //nolint:usetesting // See above.
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// newMortal is a machine as g is, or one on which nothing has ever been. It lies at dir, as every other one of that
// has: what is written down has paths in it.
func newMortal(t *testing.T, dir string, g *grave) *mortal {
	t.Helper()
	m := &mortal{t: t, dir: dir, twin: supervisetest.NewTwin(), asked: make(chan error, 1), over: make(chan struct{}), seed: maphash.MakeSeed()}
	m.failed = func(err error) { t.Errorf("boot: %v", err) }
	m.table = mounttest.NewTwin(m.usersAt)
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	if g == nil {
		if err := os.MkdirAll(filepath.Join(m.root(), "run/tenure"), 0o755); err != nil {
			t.Fatal(err)
		}
		return m
	}
	err := m.twin.Start(t.Context(), g.specs...)
	for i := range g.tree {
		err = errors.Join(err, g.tree[i].make(dir))
	}
	if err != nil {
		t.Fatal(err)
	}
	m.table, m.prepared = g.table.Copy(m.usersAt), g.changes
	return m
}

func (m *mortal) root() string { return filepath.Join(m.dir, "root") }

// bury ends the machine's daemon in good order, and keeps the machine.
func (m *mortal) bury() *grave {
	m.t.Helper()
	g := &grave{table: m.table, changes: len(m.engine.List(change.Filter{Select: change.All}))}
	statuses, err := m.twin.Units(m.t.Context())
	if err != nil {
		m.t.Fatal(err)
	}
	for i := range statuses {
		if statuses[i].State.Alive() {
			g.specs = append(g.specs, *statuses[i].Spec)
		}
	}
	m.close()
	last := filepath.Join(m.dir, stateFile(m.lives))
	err = os.Rename(last, filepath.Join(m.dir, stateFile(0)))
	for old := range m.lives {
		if old > 0 {
			err = errors.Join(err, os.Remove(filepath.Join(m.dir, stateFile(old))))
		}
	}
	var readErr error
	g.tree, readErr = readTree(m.dir)
	if err := errors.Join(err, readErr); err != nil {
		m.t.Fatal(err)
	}
	return g
}

// left is one thing that there is of a machine, and how to make it again.
type left struct {
	path string
	mode fs.FileMode
	text string
}

// readTree reads all that lies below a directory.
func readTree(dir string) (tree []left, err error) {
	return tree, filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		l := left{path: strings.TrimPrefix(path, dir)}
		info, err := entry.Info()
		if err != nil {
			return err
		}
		l.mode = info.Mode()
		l.text, err = textOf(path, l.mode)
		tree = append(tree, l)
		return err
	})
}

// textOf is what is in a file, or where a link leads to; empty for anything else.
func textOf(path string, mode fs.FileMode) (string, error) {
	if mode.Type() == fs.ModeSymlink {
		return os.Readlink(path)
	}
	if !mode.IsRegular() {
		return "", nil
	}
	text, err := os.ReadFile(path) //nolint:gosec // Of the test.
	return string(text), err
}

// make makes it below a directory, whatever the umask.
func (l *left) make(dir string) (err error) {
	path := dir + l.path
	switch {
	case l.mode.Type() == fs.ModeSymlink:
		return os.Symlink(l.text, path)
	case l.mode.IsDir():
		err = os.Mkdir(path, 0o700)
	default:
		err = os.WriteFile(path, []byte(l.text), 0o600)
	}
	if l.mode != 0o600 && l.mode != fs.ModeDir|0o700 {
		err = errors.Join(err, os.Chmod(path, l.mode))
	}
	return err
}

// usersAt are the processes of units that run from what is mounted at a directory.
func (m *mortal) usersAt(dir string) (uses []mount.Use) {
	statuses, err := m.twin.Units(context.Background())
	if err != nil {
		m.t.Error(err)
	}
	for i := range statuses {
		s := &statuses[i]
		if s.State.Alive() && s.Main.PID != 0 && filepath.Join(m.root(), "snap", string(s.Unit.Snap), s.Revision.String()) == dir {
			uses = append(uses, mount.Use{Process: s.Main, What: mount.Exe})
		}
	}
	return uses
}

// stateFile is the journal of one daemon: who stands still has its own open.
func stateFile(life int) string { return fmt.Sprintf("state.%d.db", life) }

// boot starts a daemon, which dies when it has passed so many places. It reports whether that lives
// until it has taken up what was left.
func (m *mortal) boot(left int) bool {
	m.t.Helper()
	m.lives++
	state := func(life int) string { return filepath.Join(m.dir, stateFile(life)) }
	if text, err := os.ReadFile(state(m.lives - 1)); err == nil {
		if err := os.WriteFile(state(m.lives), text, 0o600); err != nil {
			m.t.Fatal(err)
		}
	}
	l := &life{dead: make(chan struct{}), over: m.over}
	l.from(left, m.see)
	m.life = l
	db, err := journal.Open(journal.Config{Path: state(m.lives), Boundary: l.place, BackupDelay: journal.NoBackups})
	if err != nil {
		m.t.Fatal(err)
	}
	m.Manager = New(Config{
		Paths: Paths{Root: m.root()}, Journal: db, Supervisor: undertaker{m.twin, l, m.dir}, Mounts: mount.New(mount.Config{Root: m.root()}),
		Table: sexton{m.table, l}, Births: nothingBorn, Reader: plainFiles{}, Wait: waitInBubble,
		Tenure: "/probe", Snapctl: "/probe", Copying: snapdata.Options{Hot: nobodyWrites},
	})
	registry := change.NewRegistry()
	m.Register(registry)
	engine := change.New(change.Config{Store: db.Changes(), Registry: registry, Boundary: func(change.Point) { l.place() }, Shorten: Shorten})
	m.Use(engine)
	ctx, cancel := context.WithCancel(context.Background())
	manager := m.Manager
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		if err := manager.Boot(ctx); err != nil {
			if ctx.Err() == nil {
				m.failed(err)
			}
			return
		}
		var group sync.WaitGroup
		group.Go(func() { _ = engine.Run(ctx) })
		select {
		case <-engine.Ready():
		case <-ctx.Done():
		}
		group.Go(func() { _ = manager.Collect(ctx) })
		group.Go(func() { _ = manager.Confirm(ctx) })
		group.Go(func() { _ = manager.Mend(ctx) })
		group.Go(func() {
			_ = manager.Settle(ctx)
			group.Go(func() { _ = manager.Attend(ctx) })
			group.Go(func() { _ = manager.ForgetOld(ctx) })
		})
		group.Wait()
	}()
	m.cancel = append(m.cancel, cancel)
	m.end = append(m.end, func() {
		<-ended
		if err := db.Close(); err != nil {
			m.t.Error(err)
		}
	})
	m.rest()
	return !l.died()
}

// rest waits until nobody has anything to do.
func (m *mortal) rest() {
	for before := -1; before != m.life.many(); {
		before = m.life.many()
		<-time.After(time.Microsecond)
		synctest.Wait()
	}
}

// fresh is the end of the machine and its start: nothing runs, and nothing is mounted.
func (m *mortal) fresh() {
	m.t.Helper()
	m.close()
	m.over, m.cancel, m.end = make(chan struct{}), nil, nil
	m.twin = supervisetest.NewTwin()
	err := m.table.DetachTree(m.t.Context(), m.root())
	err = errors.Join(err, os.RemoveAll(filepath.Join(m.root(), "run")), os.MkdirAll(filepath.Join(m.root(), "run/tenure"), 0o755))
	if err != nil {
		m.t.Fatal(err)
	}
}

// close lets all go who stand still.
func (m *mortal) close() {
	for _, cancel := range m.cancel {
		cancel()
	}
	close(m.over)
	for _, end := range m.end {
		end()
	}
	m.rest() // Who asked may have been on the way to a place.
}

// settle waits until the daemon has died, or no change goes on.
func (m *mortal) settle() (alive bool) {
	m.t.Helper()
	// What takes its time takes none here.
	for range 100 {
		<-time.After(time.Second)
		m.rest()
		if m.life.died() {
			return false
		}
		if len(m.engine.List(change.Filter{Select: change.InProgress})) == 0 {
			return true
		}
	}
	m.t.Fatalf("there is no end to %+v", m.engine.List(change.Filter{Select: change.InProgress}))
	return false
}

// mark writes into the data of each current revision, as the snap would.
func (m *mortal) mark() {
	m.t.Helper()
	for _, snap := range []string{"probe", "other"} {
		data := filepath.Join(m.root(), "var/snap", snap)
		current, err := os.Readlink(filepath.Join(data, "current"))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err := errors.Join(err, os.WriteFile(filepath.Join(data, current, "mark"), []byte(current), 0o600)); err != nil {
			m.t.Fatal(err)
		}
	}
}

// file makes a snap file of apps and hooks.
func (m *mortal) file(name, apps string, hooks ...string) File {
	m.t.Helper()
	text := "name: " + name + "\nversion: 1\nsummary: s\ndescription: d\nbase: bare\nconfinement: strict\napps:\n" + apps +
		hooksMark + " " + strings.Join(hooks, " ") + "\n"
	path := filepath.Join(m.dir, name+".snap")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		m.t.Fatal(err)
	}
	return File{Path: path, Label: filepath.Base(path)}
}

// main is the main process of the service.
func (m *mortal) main() tenure.Process {
	m.t.Helper()
	status, err := m.statusOf(m.t.Context(), tenure.ServiceUnit(probe, "svc"))
	if err != nil && !errors.Is(err, supervise.ErrUnknown) {
		m.t.Fatal(err)
	}
	return status.Main
}

// carriedOut reports whether the last change, if there is any but those before, is done.
func (m *mortal) carriedOut() bool {
	list := m.engine.List(change.Filter{Select: change.All})
	return len(list) > m.prepared && list[len(list)-1].Status == change.Done
}
