// Package daemon is the wiring: it makes every component, and is the only
// package that starts them.
//
// The end of the daemon ends no unit and takes back no mount; only Shutdown
// does. At most one daemon works below a root at a time.
//
// Run may be called once for each root in a process.
package daemon

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"sync"

	"golang.org/x/sync/errgroup"

	"tenure/internal/api"
	"tenure/internal/change"
	"tenure/internal/durable"
	"tenure/internal/hook"
	"tenure/internal/journal"
	"tenure/internal/mount"
	"tenure/internal/polkit"
	"tenure/internal/proc"
	"tenure/internal/refresh"
	"tenure/internal/relay"
	"tenure/internal/rules/rulefile"
	sourcedir "tenure/internal/source/dir"
	"tenure/internal/squash"
	"tenure/internal/supervise/fdstore"
)

// Version is the version of this build, set by the linker.
var Version = "unknown" //nolint:gochecknoglobals // Only the linker can set it, before the program starts.

// Config says what to run.
type Config struct {
	// Root is the directory below which everything lies, absolute; "/" is the
	// machine itself.
	Root string
	// Self is the path of the program, which is run again as the holder.
	Self string
	// Args are what the program was called with: another one that takes its place is called so too.
	Args []string
	// Handed is what a program has left that this one takes the place of.
	Handed Handed
	// Told, if set, is how the process hears that it is to end.
	Told *Told
	// SnapdSocket, if set, is a second path to listen at: where programs made for snapd
	// look for it.
	SnapdSocket string
	// Supervisor is which one to use; empty is that for the machine.
	Supervisor SupervisorKind
	Logger     *slog.Logger
	// Ready, if set, is called when requests are answered.
	Ready func()
	// API, Snapctl and Snapd, if set, are sockets that listen already for the root; the last
	// one is in place of SnapdSocket.
	API, Snapctl, Snapd *net.UnixListener
	// Entry is the same for those who want to become an app.
	Entry *net.UnixListener
	// Manager is who manages the daemon's process.
	Manager Manager

	// early is that this is done before services are started with the machine.
	early bool
	// ending is that this is the end of all that runs.
	ending bool
	// helper is that this ends one unit.
	helper bool
	// trial is that this only tries whether it could be the daemon.
	trial bool
}

// spareThreads are for when the machine is out of processes: what the daemon and the holder do
// meanwhile must not need one more. Each takes some ten kilobytes.
const spareThreads = 12

// parts are the components of one daemon.
type parts struct {
	cfg                    Config
	paths                  refresh.Paths
	lock                   *os.File
	journal                *journal.DB
	history                *journal.History
	hierarchy, holderGroup *proc.Hierarchy
	holder                 *fdstore.Client
	supervisor             supervisor
	rules                  *rulefile.Keeper
	manager                *refresh.Manager
	engine                 *change.Engine
	sparing                *sparing
	// asked is told when a request was answered.
	asked chan struct{}

	doors      *doors
	succession *succession
	// upgrading is locked from when an upgrade is asked for, next has it when it begins, and
	// replacement is it when this daemon has ended for it.
	upgrading   sync.Mutex
	next        chan replacement
	replacement *replacement
}

// Run is the daemon's life. It ends with ctx, and leaves everything running; or another program
// takes its place in the process.
func Run(ctx context.Context, cfg Config) error {
	proc.KeepThreads(spareThreads)
	p := parted(cfg)
	p.succession = p.succeed(ctx)
	p.sparing.start(true)
	err := p.open(ctx)
	if err == nil {
		err = p.run(ctx, p.serve)
	}
	if p.replacement != nil && errors.Is(err, errReplaced) {
		return p.replace(ctx)
	}
	p.closeAll()
	if err != nil || ctx.Err() != nil {
		p.succession.fail(err)
	}
	p.doors.drop()
	p.unlock()
	if ctx.Err() != nil && errors.Is(err, ctx.Err()) {
		return nil // It was told to end before it had begun.
	}
	return err
}

// kept are the connections that the program before has left of a door: as soon as that does not come back. It is
// called before this one is ready.
func (p *parts) kept(ctx context.Context, door string) <-chan relay.Passed {
	kept, left := make(chan relay.Passed), p.cfg.Handed.left(door)
	go func() {
		defer close(kept)
		if p.succession == nil || !await(ctx, p.succession.serving) {
			return
		}
		for _, conn := range left {
			kept <- conn // Whoever serves takes all.
		}
	}()
	return kept
}

// Shutdown ends the daemon of a root, if there is one, and what runs below it, as
// the end of the machine does, and takes its mounts back. No change is
// taken up: what was interrupted goes on at the next start.
func Shutdown(ctx context.Context, cfg Config) error {
	cfg.ending = true
	p, err := assemble(ctx, cfg)
	if err != nil {
		return err
	}
	defer p.close()
	if ready, err := p.supervised(ctx, p.manager.Shutdown); err != nil || !ready {
		return err
	}
	return p.dropGroups(ctx)
}

// supervised calls then when the supervisor is ready, if it comes to that, and ends the supervisor.
func (p *parts) supervised(ctx context.Context, then func(context.Context) error) (ready bool, err error) {
	ctx, done := context.WithCancel(ctx)
	defer done()
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return p.history.Run(ctx) })
	group.Go(func() error { return p.supervisor.Run(ctx) })
	if ready = await(ctx, p.supervisor.Ready()); ready {
		err = then(ctx)
		done()
	}
	return ready, errors.Join(err, group.Wait())
}

// parted are no components yet.
func parted(cfg Config) *parts {
	cfg.Logger = cmp.Or(cfg.Logger, slog.New(slog.DiscardHandler))
	return &parts{cfg: cfg, paths: refresh.Paths{Root: cfg.Root}, doors: newDoors(), next: make(chan replacement, 1), sparing: new(sparing), asked: make(chan struct{}, 1)}
}

func assemble(ctx context.Context, cfg Config) (*parts, error) {
	p := parted(cfg)
	if err := p.open(ctx); err != nil {
		p.close()
		return nil, err
	}
	return p, nil
}

func (p *parts) open(ctx context.Context) (err error) {
	// A journal that is on the disk is found there if the way to it is.
	if err := errors.Join(durable.MkdirAll(0o755, p.paths.Logs(), p.paths.State()), os.MkdirAll(p.paths.Run(), 0o755)); err != nil {
		return fmt.Errorf("make directories: %w", err)
	}
	switch {
	case p.cfg.helper:
		p.lock, err = lockRoot(p.paths, helperMark)
	case p.cfg.ending:
		p.lock, err = seizeRoot(ctx, p.paths)
	case p.cfg.trial:
		if err = checkShared(p.paths); errors.Is(err, errNotShared) {
			p.lock, err = takeRoot(ctx, p.paths)
		}
	case p.cfg.Handed.lock != nil:
		// It is held since before this program was there, by this process or by one that it has guarded.
		p.lock, err = p.cfg.Handed.lock, inheritRoot(ctx, p.cfg.Handed.lock)
	default:
		p.lock, err = takeRoot(ctx, p.paths)
	}
	if err != nil {
		return err
	}
	// One waits for the disk, the other for the holder.
	var opening errgroup.Group
	opening.Go(p.openRecords)
	opening.Go(func() error { return p.openHolder(ctx) })
	if err := opening.Wait(); err != nil {
		return err
	}
	p.reapInherited(ctx)
	if err := p.openSupervisor(); err != nil {
		return err
	}
	p.rules = rulefile.New(rulefile.Config{Path: p.paths.Policy(), Kept: p.paths.KeptPolicy(), Logger: p.cfg.Logger})
	p.manager = refresh.New(refresh.Config{
		Paths:      p.paths,
		Rules:      p.rules,
		Journal:    p.journal,
		History:    p.history,
		Supervisor: p.supervisor,
		Mounts:     mount.New(mount.Config{Root: p.cfg.Root}),
		Reader:     squash.Open(squash.Config{}),
		Tenure:     companion(p.cfg.Self, companionTenure),
		Snapctl:    companion(p.cfg.Self, companionSnapctl),
		Sources:    map[string]refresh.Opener{"dir": sourcedir.Open},
		Trial:      p.cfg.trial,
		Logger:     p.cfg.Logger,
	})
	registry := change.NewRegistry()
	p.manager.Register(registry)
	p.engine = change.New(change.Config{
		Store: p.journal.Changes(), Registry: registry, Logger: p.cfg.Logger, Boundary: boundary(p.paths),
		Explain: refresh.Advised,
		Gap:     p.gap(p.sparing.gap), Shorten: refresh.Shorten,
	})
	p.manager.Use(p.engine)
	return p.manager.Began()
}

func (p *parts) journalPath() string { return filepath.Join(p.paths.State(), "state.db") }

// openRecords opens the journal and the history.
func (p *parts) openRecords() (err error) {
	if err := p.openJournal(); err != nil {
		return err
	}
	p.history, err = journal.OpenHistory(journal.HistoryConfig{Dir: p.paths.History(), Logger: p.cfg.Logger})
	return err
}

// openHolder connects to the holder, or starts one in a group of its own, which
// nothing that ends the daemon's group or its units reaches.
func (p *parts) openHolder(ctx context.Context) (err error) {
	if p.holderGroup, err = proc.OpenHierarchy(HierarchyName(p.cfg.Root) + "-holder"); err != nil {
		return err
	}
	spawner := fdstore.Spawner{
		Path: p.cfg.Self, Args: []string{"holder", "--root", p.cfg.Root}, Env: []string{}, Group: p.holderGroup.Path(),
	}
	p.holder, err = fdstore.New(ctx, fdstore.Config{Socket: HolderSocket(p.paths), Spawn: spawner.Spawn, Log: p.cfg.Logger})
	return err
}

// dropGroups removes the control groups when nothing runs in them any more. The
// holder ends by itself as soon as it holds nothing for anybody.
func (p *parts) dropGroups(ctx context.Context) error {
	if err := p.holder.Close(); err != nil {
		return fmt.Errorf("leave the holder: %w", err)
	}
	p.holder = nil
	watcher, err := p.holderGroup.Watch(ctx)
	if err != nil {
		return err
	}
	group := proc.GroupAt(p.holderGroup.Path())
	watch, err := watcher.Add(group)
	if err != nil {
		return err
	}
	for {
		populated, err := group.Populated()
		if err != nil {
			return err
		}
		if !populated {
			return errors.Join(p.supervisor.Vacate(ctx), p.holderGroup.Remove(), p.hierarchy.Remove())
		}
		select {
		case <-watch.C():
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// HolderSocket is where the holder of a root listens.
func HolderSocket(paths refresh.Paths) string { return filepath.Join(paths.Run(), "holder.sock") }

// ServeHolder is the life of the holder of a root.
func ServeHolder(ctx context.Context, root string) error {
	proc.KeepThreads(spareThreads)
	paths := refresh.Paths{Root: root}
	return fdstore.Serve(ctx, fdstore.ServeConfig{
		Socket: HolderSocket(paths), Logs: paths.Logs(), Ready: os.Stdout, Rest: slim, RestAfter: quiet,
	})
}

// run starts the components, each after those that it needs, and then main.
func (p *parts) run(ctx context.Context, main func(context.Context) error) error {
	ctx, failed := context.WithCancelCause(ctx)
	defer failed(nil)
	group, ctx := errgroup.WithContext(ctx)
	defer context.AfterFunc(ctx, p.doors.dropUnlessQuiet)()
	group.Go(func() error { return p.journal.Run(ctx) })
	group.Go(func() error { return p.history.Run(ctx) })
	group.Go(func() error { return p.supervisor.Run(ctx) })
	if !await(ctx, p.supervisor.Ready()) {
		return group.Wait()
	}
	if err := errors.Join(p.manager.Boot(ctx), fault(ctx, "start")); err != nil {
		failed(err)
		return errors.Join(err, group.Wait())
	}
	group.Go(func() error { return p.engine.Run(ctx) })
	if !await(ctx, p.engine.Ready()) {
		return group.Wait()
	}
	group.Go(func() error { return p.manager.Collect(ctx) })
	group.Go(func() error { return p.manager.Confirm(ctx) })
	group.Go(func() error { return p.manager.Mend(ctx) })
	group.Go(func() error { return p.rules.Watch(ctx, func() { p.manager.RulesChanged(ctx) }) })
	kept := p.kept(ctx, doorSnapctl)
	// It is there before anybody is told that all is.
	listener, err := p.doors.open(doorSnapctl, p.cfg.Snapctl, func() (*net.UnixListener, error) { return hook.Listen(p.paths.SnapctlSocket()) })
	p.doors.answer(group, func() error {
		if err != nil {
			return fmt.Errorf("serve snapctl: %w", err)
		}
		return hook.Serve(ctx, hook.ServeConfig{
			Listener: listener, Host: p.manager.Packages(Version), Logger: p.cfg.Logger, Quiesce: p.doors.quiet,
			Kept: kept, Box: &p.doors.box,
		})
	})
	group.Go(func() error {
		giveBack(ctx, p.engine, p.asked, p.sparing.fit, p.manager.Slim)
		return nil
	})
	group.Go(func() error { return main(ctx) })
	return group.Wait()
}

func (p *parts) serve(ctx context.Context) error {
	if err := p.manager.Settle(ctx); err != nil {
		return err
	}
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return p.manager.Attend(ctx) })
	group.Go(func() error { return p.manager.Converge(ctx) })
	group.Go(func() error { return p.manager.Announce(ctx) })
	group.Go(func() error { return p.manager.ForgetOld(ctx) })
	group.Go(func() error { return p.manager.AutoRefresh(ctx) })
	p.serveEntry(ctx, group)
	p.doors.answer(group, func() error {
		return p.serveAPI(ctx, func() error {
			// Whoever is answered from here on is not answered by the program before.
			if err := fault(ctx, "ready"); err != nil {
				return err
			}
			p.succession.ready()
			return nil
		})
	})
	group.Go(func() error {
		if await(ctx, p.succession.serving) {
			p.sparing.start(false)
			p.ready(ctx)
		}
		return nil
	})
	group.Go(func() error { return p.awaitReplacement(ctx) })
	return group.Wait()
}

func (p *parts) serveAPI(ctx context.Context, ready func() error) error {
	own, err := p.doors.open(doorAPI, p.cfg.API, func() (*net.UnixListener, error) {
		return api.Listen(ctx, filepath.Join(p.paths.Run(), "tenured.sock"))
	})
	if err != nil {
		return err
	}
	snapd := p.cfg.Snapd
	if snapd != nil || p.cfg.SnapdSocket != "" {
		snapd, err = p.doors.open(doorSnapd, snapd, func() (*net.UnixListener, error) { return api.Listen(ctx, p.cfg.SnapdSocket) })
	}
	if err != nil {
		return errors.Join(err, own.Close())
	}
	return api.Serve(ctx, api.Config{
		Listener: own, SnapdListener: snapd, Quiesce: p.doors.quiet, Grace: answering,
		Manager: p.manager, Logs: p.supervisor, Upgrader: p, Version: Version, Logger: p.cfg.Logger,
		Polkit: polkit.New(polkit.Config{}),
		Ready:  ready,
		Asked: func() {
			select {
			case p.asked <- struct{}{}:
			default:
			}
		},
		Kept: p.cfg.Handed.left(doorAPI, doorSnapd), Box: &p.doors.box,
	})
}

// close gives back what open has taken, as far as it came.
func (p *parts) close() {
	p.closeAll()
	p.unlock()
}

// unlock lets others have the root.
func (p *parts) unlock() {
	if p.lock != nil {
		_ = p.lock.Close() // Closing gives the lock back.
	}
}

// closeAll is close, but for the lock.
func (p *parts) closeAll() {
	if p.holder != nil {
		_ = p.holder.Close() // The holder keeps what it holds.
	}
	if p.history != nil {
		if err := p.history.Close(); err != nil {
			p.cfg.Logger.Error("cannot close the history", slog.Any("error", err))
		}
	}
	if p.journal != nil {
		if err := p.journal.Close(); err != nil {
			p.cfg.Logger.Error("cannot close the journal", slog.Any("error", err))
		}
	}
}

func await(ctx context.Context, ready <-chan struct{}) bool {
	select {
	case <-ready:
		return true
	case <-ctx.Done():
		return false
	}
}

// HierarchyName is the name of the control group of a root, absolute: short, and
// the same at every start. That of its holder has "-holder" behind it.
func HierarchyName(root string) string {
	sum := sha256.Sum256([]byte(filepath.Clean(root)))
	return "tenure-" + hex.EncodeToString(sum[:4])
}
