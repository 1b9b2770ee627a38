// Package rulefile keeps the rules of a file: those of the file as it is, or, while that is
// broken, those of the last good one.
//
// What is always true: whoever asks gets the rules of the file as it is at that moment,
// or the last good ones together with what is wrong with it. A copy of the last good file
// outlives the daemon. A file that is not there has no rules.
//
// A Keeper may be asked by many at the same time. No lock is held: what was loaded is
// replaced as a whole.
package rulefile

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"sync/atomic"
	"syscall"
	"time"

	"tenure/internal/rules"
)

// Config says which file.
type Config struct {
	// Path is the file of the administrator.
	Path string
	// Kept is where the copy of the last good one is.
	Kept string
	// Logger hears of every file that was loaded, and of those that are broken.
	Logger *slog.Logger
	// Now is the clock; by default the real one.
	Now func() time.Time
}

// Keeper keeps the rules of one file. Make one with New.
type Keeper struct {
	cfg Config
	now atomic.Pointer[loaded]
}

// Status is how it stands with the file.
type Status struct {
	Path string `json:"path"`
	// Present is that there is a file.
	Present bool `json:"present"`
	// Rules are the names of the rules that hold, and Since the time when they were read:
	// zero for those of a copy that an earlier daemon has kept.
	Rules []string  `json:"rules,omitempty"`
	Since time.Time `json:"since,omitzero"`
	// Broken is what is wrong with the file: the rules of an earlier one hold.
	Broken []string `json:"broken,omitempty"`
}

// Warning is one line about a broken file; empty if it is not.
func (s *Status) Warning() string {
	if len(s.Broken) == 0 {
		return ""
	}
	text := fmt.Sprintf("%s is broken", s.Path)
	switch {
	case !s.Since.IsZero():
		text += ", and its rules of " + s.Since.UTC().Format(time.RFC3339) + " hold"
	case len(s.Rules) > 0:
		text += ", and those that held before hold"
	default:
		text += ", and there are no rules from before"
	}
	return text + " (see tenure policy): " + s.Broken[0]
}

// identity tells one content of the file from another, without reading it.
type identity struct {
	there             bool
	dev, inode        uint64
	size              int64
	modified, changed syscall.Timespec
}

// loaded is a file that was read.
type loaded struct {
	is     identity
	set    *rules.Set
	status Status
}

// New makes a Keeper. It reads nothing.
func New(cfg Config) *Keeper {
	cfg.Logger = cmp.Or(cfg.Logger, slog.New(slog.DiscardHandler))
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	return &Keeper{cfg: cfg}
}

// Rules are the rules that hold now; nil if there are none.
func (k *Keeper) Rules() (*rules.Set, Status) {
	for {
		before := k.now.Load()
		is := identify(os.Stat(k.cfg.Path))
		if before != nil && before.is == is {
			return before.set, before.status
		}
		next, good := k.load(before)
		if k.now.CompareAndSwap(before, next) {
			if good != nil || !next.status.Present {
				k.keep(good)
			}
			k.tell(next)
			return next.set, next.status
		}
	}
}

func identify(info fs.FileInfo, err error) identity {
	if errors.Is(err, fs.ErrNotExist) {
		return identity{}
	}
	is := identity{there: true}
	if err != nil {
		return is
	}
	if stat, ok := info.Sys().(*syscall.Stat_t); ok {
		is.dev, is.inode, is.size, is.modified, is.changed = stat.Dev, stat.Ino, stat.Size, stat.Mtim, stat.Ctim
	}
	return is
}

// load reads the file as it is. What is good of it is given too.
func (k *Keeper) load(before *loaded) (next *loaded, good []byte) {
	data, is, err := k.read()
	next = &loaded{is: is, status: Status{Path: k.cfg.Path, Present: is.there}}
	if !is.there {
		return next, nil
	}
	if err == nil {
		next.set, err = rules.Parse(k.cfg.Path, data)
	}
	if err == nil {
		next.status.Rules, next.status.Since = next.set.Names(), k.cfg.Now()
		return next, data
	}
	next.status.Broken = lines(err)
	if before == nil {
		before = k.kept()
	}
	next.set, next.status.Rules, next.status.Since = before.set, before.status.Rules, before.status.Since
	return next, nil
}

// read gives the content of the file, and whose it is. What is no regular file is not
// waited for.
func (k *Keeper) read() (data []byte, is identity, err error) {
	file, err := os.OpenFile(k.cfg.Path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, identify(nil, err), fmt.Errorf("read the rules: %w", err)
	}
	defer file.Close() //nolint:errcheck // Opened for reading.
	info, err := file.Stat()
	if is = identify(info, err); err != nil {
		return nil, is, fmt.Errorf("read the rules: %w", err)
	}
	if !info.Mode().IsRegular() {
		return nil, is, fmt.Errorf("read the rules: %s is no regular file", k.cfg.Path)
	}
	data, err = io.ReadAll(io.LimitReader(file, rules.MaxFile+1))
	if err != nil {
		return nil, is, fmt.Errorf("read the rules: %w", err)
	}
	return data, is, nil
}

// kept is the last good file of an earlier daemon.
func (k *Keeper) kept() *loaded {
	none := &loaded{}
	data, err := os.ReadFile(k.cfg.Kept)
	if err != nil {
		return none
	}
	set, err := rules.Parse(k.cfg.Kept, data)
	if err != nil {
		return none
	}
	return &loaded{set: set, status: Status{Rules: set.Names()}}
}

// keep makes a copy of a good file, or drops the one that there is.
func (k *Keeper) keep(data []byte) {
	if err := k.replace(data); err != nil {
		k.cfg.Logger.Error("cannot keep a copy of the rules", slog.Any("error", err))
	}
}

func (k *Keeper) replace(data []byte) error {
	if data == nil {
		if err := os.Remove(k.cfg.Kept); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		return nil
	}
	file, err := os.CreateTemp(filepath.Dir(k.cfg.Kept), ".rules-")
	if err != nil {
		return err
	}
	_, err = file.Write(data)
	if err == nil {
		err = file.Sync()
	}
	err = errors.Join(err, file.Close())
	if err == nil {
		err = os.Rename(file.Name(), k.cfg.Kept)
	}
	if err != nil {
		return errors.Join(err, os.Remove(file.Name()))
	}
	return nil
}

// lines are what is wrong, one problem each.
func lines(err error) []string {
	invalid, ok := errors.AsType[*rules.InvalidError](err)
	if !ok {
		return []string{err.Error()}
	}
	var all []string
	for _, problem := range invalid.Problems {
		all = append(all, problem.Error())
	}
	return all
}

func (k *Keeper) tell(l *loaded) {
	switch {
	case len(l.status.Broken) > 0:
		k.cfg.Logger.Warn("the rules cannot be used, and the last good ones hold",
			slog.String("path", k.cfg.Path), slog.String("error", l.status.Broken[0]), slog.Any("rules", l.status.Rules))
	case l.status.Present:
		k.cfg.Logger.Info("rules loaded", slog.String("path", k.cfg.Path), slog.Any("rules", l.status.Rules))
	default:
		k.cfg.Logger.Debug("there are no rules", slog.String("path", k.cfg.Path))
	}
}
