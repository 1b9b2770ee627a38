package refresh

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"maps"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"tenure"
	"tenure/internal/change"
	"tenure/internal/clock"
	"tenure/internal/journal"
	"tenure/internal/mount"
	"tenure/internal/notice"
	"tenure/internal/proc"
	"tenure/internal/rules/rulefile"
	"tenure/internal/snapdata"
	"tenure/internal/squash"
	"tenure/internal/supervise"
)

// Config is what a Manager works with. All fields without a default are required.
type Config struct {
	Paths   Paths
	Journal *journal.DB
	// History is where what happens is written down; by default nobody does.
	History    *journal.History
	Supervisor supervise.Supervisor
	Mounts     *mount.Store
	// Table is what is mounted; by default what the kernel says.
	Table mount.Table
	// Copying is how data is copied.
	Copying snapdata.Options
	// Births tell of processes that become other programs; by default those of the kernel.
	Births func(ctx context.Context, kinds ...proc.BirthKind) (iter.Seq[proc.Birth], error)
	// Reader reads snap files that nobody trusts yet.
	Reader Reader
	// Tenure is the path of the command line program, for the entries in snap/bin.
	Tenure string
	// Snapctl is the path of the program that packages call, which units with a root
	// of their own see.
	Snapctl string
	// Rules are the administrator's; nil is none.
	Rules *rulefile.Keeper
	// Trial is that it is only to be seen whether this program could be the daemon: what the one before has left to be
	// mended is left to the next one.
	Trial bool
	// Sources are the kinds of sources that there are, by their names.
	Sources map[string]Opener
	// Logger hears what nobody waits for; by default nobody does.
	Logger *slog.Logger
	// Now is the clock; by default the real one. Wait waits until it has come to a time,
	// or longer if it is set; by default package clock does.
	Now  func() time.Time
	Wait func(ctx context.Context, until time.Time) error
}

// Reader reads snap files, as squash.Reader does.
type Reader interface {
	List(ctx context.Context, path string) ([]squash.Entry, error)
	ReadFile(ctx context.Context, path, inner string, limit int64) ([]byte, error)
}

// Manager carries out requests. Make one with New, give its steps to an engine
// with Register, and the engine to the Manager with Use.
type Manager struct {
	cfg      Config
	engine   *change.Engine
	snaps    *states
	settings *journal.Collection[json.RawMessage]
	waits    *journal.Collection[wait]
	confs    confs
	sources  sources
	holds    holds
	failures failures
	outcomes outcomes
	// estimates are how long stopping units took.
	estimates estimates
	autos     *journal.Collection[autoState]
	// looks wakes the automatic refreshes.
	looks signal
	// dates wakes what sees to it that nothing endures for too long.
	dates signal
	// troubled wakes what announces warnings.
	troubled signal
	notices  *notice.Book
	// snapshots are copies of data.
	snapshots snapshots
	launch    launcher
	claims    claims
	// instances are those of service templates.
	instances instances
	// allowances are what snaps may start of others.
	allowances allowances
	aliases    aliases
	warnings   warnings
	// copies are the data copies of changes that run, between their passes.
	copies running
	// aheads are the programs of revisions that are about to start.
	aheads aheads
	// sound are the paths of staged files that this daemon has admitted as they are: nobody else writes to them, and a disk that
	// has not taken them says so when they are kept.
	sound sync.Map
	// collect wakes the collector.
	collect chan struct{}
	// mends is what the disk has refused.
	mends   mends
	endings endings
	// broken are the revisions that could not be brought back.
	broken broken
	// plans and chatter are for the history.
	plans   planCache
	chatter chatter
	// trusted are changes that are observed no longer.
	trusted trust
	// voices are those of the hooks that run.
	voices voices
	// asked is for packages that ask what there is to refresh to.
	asked Turn
}

// New makes a Manager. It touches nothing.
func New(cfg Config) *Manager {
	cfg.Logger = cmp.Or(cfg.Logger, slog.New(slog.DiscardHandler))
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Wait == nil {
		cfg.Wait = clock.Wait
	}
	if cfg.Table == nil {
		cfg.Table = mount.Kernel{}
	}
	if cfg.Births == nil {
		cfg.Births = proc.Births
	}
	troubled := make(signal, 1)
	return &Manager{
		cfg:        cfg,
		notices:    notice.New(cfg.Now),
		troubled:   troubled,
		snapshots:  newSnapshots(cfg.Paths, cfg.Journal),
		snaps:      newStates(cfg.Journal),
		settings:   journal.NewCollection[json.RawMessage](cfg.Journal, journal.Settings),
		waits:      journal.NewCollection[wait](cfg.Journal, "waits"),
		confs:      newConfs(cfg.Journal),
		instances:  instances{journal.NewCollection[instance](cfg.Journal, "instances")},
		allowances: allowances{journal.NewCollection[Allowance](cfg.Journal, "allowances")},
		aliases:    newAliases(cfg.Journal),
		warnings:   warnings{docs: journal.NewCollection[time.Time](cfg.Journal, "warnings")},
		launch:     launcher{snapctl: cfg.Snapctl, paths: cfg.Paths, usernames: filepath.Join(cfg.Paths.Run(), "etc")},
		collect:    make(chan struct{}, 1),
		mends:      newMends(),
		sources:    newSources(cfg.Journal, cfg.Sources),
		holds:      newHolds(cfg.Journal),
		failures:   newFailures(cfg.Journal, troubled),
		estimates:  newEstimates(cfg.Journal),
		autos:      journal.NewCollection[autoState](cfg.Journal, "auto-refresh"),
		looks:      make(signal, 1),
		asked:      NewTurn(),
		dates:      make(signal, 1),
	}
}

// Use is the engine that runs changes. It must have the steps of Register, and be
// set before anything else is asked of m.
func (m *Manager) Use(engine *change.Engine) { m.engine = engine }

// Engine is the engine that runs changes.
func (m *Manager) Engine() *change.Engine { return m.engine }

// Register adds the steps of m to reg.
func (m *Manager) Register(reg *change.Registry) {
	change.Register(reg, taskPrepare, prepareStep{m})
	change.Register(reg, taskMount, mountStep{m: m})
	change.Register(reg, taskAside, asideStep{m})
	change.Register(reg, taskSwitch, switchStep{m})
	change.Register(reg, taskHold, holdStep{m})
	change.Register(reg, taskGate, gateStep{m})
	change.Register(reg, taskCopy, copyStep{m})
	change.Register(reg, taskPrepareAll, togetherStep[prepareParams]{prepareStep{m}})
	change.Register(reg, taskMountAll, togetherStep[mountParams]{mountStep{m: m, waits: true}})
	change.Register(reg, taskCopyAll, togetherStep[copyParams]{copyStep{m}})
	change.Register(reg, taskDecide, decideStep{m})
	change.Register(reg, taskStop, stopStep{m})
	change.Register(reg, taskAwait, awaitStep{m})
	change.Register(reg, taskUpdate, updateStep{m})
	change.Register(reg, taskLink, linkStep{m})
	change.Register(reg, taskStart, startStep{m})
	change.Register(reg, taskReload, reloadStep{m})
	change.Register(reg, taskRecall, recallStep{m})
	change.Register(reg, taskTell, tellStep{m})
	change.Register(reg, taskRemember, rememberStep{m})
	change.Register(reg, taskFollow, followStep{m})
	change.Register(reg, taskSucceed, succeedStep{m})
	change.Register(reg, taskHandOver, handOverStep{m})
	change.Register(reg, taskCommit, commitStep{m})
	change.Register(reg, taskCompare, compareStep{m})
	change.Register(reg, taskObserve, observeStep{m})
	change.Register(reg, taskCollect, collectStep{m})
	change.Register(reg, taskKeepConf, keepConfStep{m})
	change.Register(reg, taskHook, outsideHookStep{hookStep{m}})
	change.Register(reg, taskHookInGap, hookStep{m})
	change.Register(reg, taskConfigure, configureStep{m})
	change.Register(reg, taskAlias, aliasStep{m})
	change.Register(reg, taskInstances, keepInstancesStep{m})
	change.Register(reg, taskSave, saveStep{m})
	change.Register(reg, taskUnpack, unpackStep{m})
	change.Register(reg, taskRestore, restoreStep{m})
	change.Register(reg, taskDropOld, dropOldStep{m})
	change.Register(reg, taskCheck, checkStep{m})
	change.Register(reg, taskForget, forgetStep{m})
}

// states are the documents of snaps in the journal.
type states struct {
	db   *journal.DB
	docs *journal.Collection[snapState]
}

func newStates(db *journal.DB) *states {
	return &states{db: db, docs: journal.NewCollection[snapState](db, journal.Snaps).Remember(cloneState)}
}

// All are all instances of which anything may be on the machine, ordered by name.
func (s *states) All() ([]snapState, error) {
	all, err := s.docs.All()
	if err != nil {
		return nil, fmt.Errorf("read snaps: %w", err)
	}
	var failures []error
	for key := range all {
		failures = append(failures, checked(key, all[key]))
	}
	if err := errors.Join(failures...); err != nil {
		return nil, fmt.Errorf("read snaps: %w", err)
	}
	list := slices.Collect(maps.Values(all))
	slices.SortFunc(list, func(a, b snapState) int { return cmp.Compare(a.Instance, b.Instance) })
	return list, nil
}

// Names are all instances of which anything may be on the machine, ordered. No state is read for them.
func (s *states) Names() ([]tenure.Instance, error) {
	keys, err := s.docs.Keys()
	if err != nil {
		return nil, fmt.Errorf("read the names of snaps: %w", err)
	}
	names := make([]tenure.Instance, 0, len(keys))
	for _, key := range keys {
		names = append(names, tenure.Instance(key))
	}
	return names, nil
}

// Get is the state of one instance; nil when there is none.
func (s *states) Get(snap tenure.Instance) (*snapState, error) {
	state, found, err := s.docs.Get(string(snap))
	if err == nil && found {
		err = checked(string(snap), state)
	}
	if err != nil {
		return nil, fmt.Errorf("read snap %s: %w", snap, err)
	}
	if !found {
		return nil, nil //nolint:nilnil // No state is not an error, and its zero value would look like one.
	}
	return &state, nil
}

// Put makes state durable; nil drops that of snap.
func (s *states) Put(snap tenure.Instance, state *snapState) error {
	if err := s.db.Update(s.write(snap, state)); err != nil {
		return fmt.Errorf("record snap %s: %w", snap, err)
	}
	return nil
}

// PutAlong has state become durable together with what the step did that runs with ctx; nil drops that of snap. Until then
// Get returns the one before.
func (s *states) PutAlong(ctx context.Context, snap tenure.Instance, state *snapState) error {
	if err := s.db.Along(ctx, s.write(snap, state)); err != nil {
		return fmt.Errorf("record snap %s: %w", snap, err)
	}
	return nil
}

// write puts state, or drops that of snap if it is nil.
func (s *states) write(snap tenure.Instance, state *snapState) func(*journal.Tx) error {
	return func(tx *journal.Tx) error {
		if state == nil {
			return s.docs.In(tx).Delete(string(snap))
		}
		return s.docs.In(tx).Put(string(snap), *state)
	}
}

// PutAll makes all of states durable, or none.
func (s *states) PutAll(all []*snapState) error {
	if len(all) == 0 {
		return nil
	}
	err := s.db.Update(func(tx *journal.Tx) error {
		for _, state := range all {
			if err := s.docs.In(tx).Put(string(state.Instance), *state); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("record snaps: %w", err)
	}
	return nil
}

// Slim drops what is only kept to be had sooner the next time.
func (m *Manager) Slim() {
	m.snaps.docs.Forget()
	m.plans.drop()
}

// installedSnap is the state of snap, or an error that says that it is not installed.
func (m *Manager) installedSnap(op string, snap tenure.Instance) (*snapState, error) {
	state, err := m.snaps.Get(snap)
	if err != nil {
		return nil, err
	}
	if state == nil || !state.Line.Installed() {
		return nil, &Error{Kind: KindNotInstalled, Op: op, Object: string(snap), Err: fmt.Errorf("snap %q is not installed", snap)}
	}
	return state, nil
}

// conflict words what the engine says of a snap that is busy.
func conflict(op, object string, err error) error {
	busy, ok := errors.AsType[*change.ConflictError](err)
	if !ok {
		return fmt.Errorf("%s %s: %w", op, object, err)
	}
	return &Error{
		Kind: KindConflict, Op: op, Object: object,
		Hint: "wait for it (tenure watch " + busy.ID.String() + ") or stop it (tenure abort " + busy.ID.String() + ")",
		Err:  busy,
	}
}
