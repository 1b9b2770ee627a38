package daemon

import (
	"bytes"
	"cmp"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"

	"tenure/client"
	"tenure/internal/change"
	"tenure/internal/durable"
	"tenure/internal/journal"
	"tenure/internal/refresh"
	"tenure/internal/supervise/fdstore"
)

const (
	// looking bounds how long a new program may take to say whether it is fit.
	looking = 30 * time.Second
	// answering bounds how long those are waited for who are being answered.
	answering = 10 * time.Second
	// hangingUp is what it takes beyond that to cut those off who were not.
	hangingUp = time.Second
)

// Fitness is what a program says of itself that is to take the place of a daemon.
type Fitness struct {
	Version string `json:"version"`
	// Schema is the newest that it knows.
	Schema uint64 `json:"schema"`
	// Connections is that it goes on with connections that are passed to it.
	Connections bool `json:"connections"`
	// Guarded is that it dismisses the guard of its start.
	Guarded bool `json:"guarded"`
}

// replacement is a program that is about to take the place of this one.
type replacement struct {
	program  *program
	record   client.Upgrade
	patience time.Duration
	// connections is that it goes on with those that are open, guarded that its start is.
	connections, guarded bool
}

// errReplaced ends a daemon that another program takes the place of.
var errReplaced = errors.New("another program takes the place of this one")

// Daemon implements api.Upgrader.
func (p *parts) Daemon() (client.Daemon, error) {
	d := client.Daemon{Version: Version, PID: os.Getpid(), Program: p.cfg.Self}
	record, err := readUpgrade(p.paths)
	if err == nil && record.ID != "" {
		d.Upgrade = &record
	}
	var unknown error
	d.Needs, unknown = needs()
	return d, errors.Join(err, unknown)
}

// Upgrade implements api.Upgrader: it finds out whether a program is fit, while all goes on.
func (p *parts) Upgrade(ctx context.Context, path string, patience time.Duration) (client.Upgrade, error) {
	path = cmp.Or(path, p.cfg.Self)
	refused := func(kind refresh.Kind, err error) (client.Upgrade, error) {
		return client.Upgrade{}, &refresh.Error{Kind: kind, Op: "upgrade tenured to", Object: path, Err: err}
	}
	if !p.upgrading.TryLock() {
		return refused(refresh.KindConflict, errors.New("it is being replaced already"))
	}
	next, err := openProgram(path, p.paths.DataDir(""))
	if err != nil {
		p.upgrading.Unlock()
		return refused(refresh.KindBad, err)
	}
	fit, err := p.examine(ctx, next)
	if err != nil {
		p.upgrading.Unlock()
		next.close()
		return refused(refresh.KindRefused, err)
	}
	r := replacement{program: next, patience: cmp.Or(patience, client.UpgradePatience), connections: fit.Connections, guarded: fit.Guarded, record: client.Upgrade{
		ID: rand.Text(), Program: next.path, From: Version, To: fit.Version, Status: client.UpgradeDoing, Began: time.Now(),
	}}
	if err := writeUpgrade(p.paths, r.record); err != nil {
		p.upgrading.Unlock()
		next.close()
		return client.Upgrade{}, err
	}
	p.cfg.Logger.Info("upgrade", slog.String("from", Version), slog.String("to", fit.Version), slog.String("program", next.path))
	p.next <- r // There is room for one, and it is locked for good.
	return r.record, nil
}

// examine has a program say whether it can read a copy of the state, and go on with what is in progress.
func (p *parts) examine(ctx context.Context, next *program) (Fitness, error) {
	dir, err := os.MkdirTemp(p.paths.State(), preflights)
	if err != nil {
		return Fitness{}, fmt.Errorf("copy the journal: %w", err)
	}
	defer os.RemoveAll(dir) //nolint:errcheck // What is left is swept at the next start.
	state := filepath.Join(dir, "state.db")
	if err := p.journal.WriteCopy(state); err != nil {
		return Fitness{}, err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, looking, fmt.Errorf("it has not said in %s whether it is fit", looking))
	defer cancel()
	said, err := p.have(ctx, next, nil, alongside, "preflight", "--journal", state)
	if err != nil {
		return Fitness{}, err
	}
	var fit Fitness
	if err := json.Unmarshal(said, &fit); err != nil {
		return Fitness{}, fmt.Errorf("it does not say whether it is fit, but %q", said)
	}
	return fit, nil
}

// alongside is for a program that this one goes on beside, and does all else itself: it waits for its own children.
func alongside(int) (stop func()) { return func() {} }

// have executes a program beside this one, with a command before this one's own arguments, and
// returns what it prints. It ends with ctx, and with this process, and has the files that are passed to it. during is called with its pid, and what that returns at
// its end.
func (p *parts) have(
	ctx context.Context, next *program, passed []*os.File, during func(pid int) (stop func()), command ...string,
) ([]byte, error) {
	cmd := exec.CommandContext(ctx, next.executable(), append(command, p.cfg.Args...)...) //nolint:gosec // It was checked.
	cmd.Args[0] = next.path
	// Who manages this process is to hear of this one alone.
	cmd.Env = without(os.Environ(), handedEnv, "NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID")
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	cmd.WaitDelay = time.Second
	cmd.ExtraFiles = passed
	var stdout bytes.Buffer
	complaint := &tail{}
	cmd.Stdout, cmd.Stderr = &stdout, complaint
	ended := make(chan error)
	go func() {
		runtime.LockOSThread() // The signal comes with the end of the thread.
		err := cmd.Start()
		if err == nil {
			stop := during(cmd.Process.Pid)
			err = cmd.Wait()
			stop()
		}
		ended <- err
	}()
	err := <-ended
	switch {
	case err == nil:
		return stdout.Bytes(), nil
	case ctx.Err() != nil:
		return nil, context.Cause(ctx)
	case complaint.last() != "":
		return nil, errors.New(complaint.last())
	}
	return nil, err
}

// tail passes on to the log what a program complains of, and keeps the end.
type tail struct{ text []byte }

func (t *tail) Write(b []byte) (int, error) {
	const enough = 4 << 10
	t.text = append(t.text, b...)
	t.text = t.text[max(0, len(t.text)-enough):]
	return os.Stderr.Write(b)
}

// last is the sentence that a program has ended with: its last error, or the first line of its panic.
func (t *tail) last() string {
	last := ""
	for line := range strings.Lines(string(t.text)) {
		line = strings.TrimSpace(line)
		if text, is := strings.CutPrefix(line, "error: "); is || strings.HasPrefix(line, "panic: ") || last == "" {
			last = text
			if !is {
				last = line
			}
		}
	}
	return last
}

// awaitReplacement waits for a program that is to take the place of this one, and lets it.
func (p *parts) awaitReplacement(ctx context.Context) error {
	var next replacement
	select {
	case next = <-p.next:
	case <-ctx.Done():
		return nil
	}
	p.notify(ctx, "RELOADING=1\nSTATUS=Upgrading to "+next.record.To+".")
	if next.connections {
		p.doors.box.Open()
	}
	if !p.doors.close(ctx, answering+hangingUp) {
		p.cfg.Logger.Warn("not everybody was answered", slog.Duration("after", answering))
	}
	select {
	case <-ctx.Done():
		return nil
	default:
	}
	p.replacement = &next
	return errReplaced
}

// Preflight says whether this program is fit to take the place of the daemon of a root, of whose
// journal state is a copy.
func Preflight(ctx context.Context, cfg Config, state string) (Fitness, error) {
	if err := fault(ctx, "preflight"); err != nil {
		return Fitness{}, err
	}
	paths := refresh.Paths{Root: cfg.Root}
	db, err := journal.Open(journal.Config{Path: state, Logger: cfg.Logger})
	if err != nil {
		return Fitness{}, err
	}
	defer db.Close() //nolint:errcheck // A copy.
	saved, err := db.Changes().Load(ctx)
	if err != nil {
		return Fitness{}, err
	}
	registry := change.NewRegistry()
	refresh.New(refresh.Config{Paths: paths, Journal: db, Logger: cfg.Logger}).Register(registry)
	if missing := registry.Missing(saved.Changes); len(missing) > 0 {
		return Fitness{}, fmt.Errorf("it does not know how to go on with a change that is in progress (%s)", strings.Join(missing, ", "))
	}
	return Fitness{Version: Version, Schema: journal.Schema(), Connections: true, Guarded: true}, fdstore.Understood(HolderSocket(paths))
}

func upgradePath(paths refresh.Paths) string { return filepath.Join(paths.Run(), "upgrade.json") }

// readUpgrade is what is known of the last upgrade, empty where there was none.
func readUpgrade(paths refresh.Paths) (client.Upgrade, error) {
	var record client.Upgrade
	text, err := os.ReadFile(upgradePath(paths))
	if errors.Is(err, fs.ErrNotExist) {
		return record, nil
	}
	if err == nil {
		err = json.Unmarshal(text, &record)
	}
	if err != nil {
		return client.Upgrade{}, fmt.Errorf("read what became of the upgrade: %w", err)
	}
	return record, nil
}

func writeUpgrade(paths refresh.Paths, record client.Upgrade) error {
	text, err := json.Marshal(record)
	path := upgradePath(paths)
	if err == nil {
		err = os.WriteFile(path+".new", text, 0o600)
	}
	if err == nil {
		err = os.Rename(path+".new", path)
	}
	if err != nil {
		return fmt.Errorf("note what becomes of the upgrade: %w", err)
	}
	return nil
}

// concluded notes how an upgrade that was begun has ended: well if failure is empty. What was kept for it goes.
func (p *parts) concluded(failure string) {
	if err := p.sweepUpgrade(); err != nil {
		p.cfg.Logger.Error("cannot remove what was for an upgrade", slog.Any("error", err))
	}
	record, err := readUpgrade(p.paths)
	if err == nil && record.Status != client.UpgradeDoing {
		return
	}
	record.Status, record.Err, record.Ended = client.UpgradeDone, failure, time.Now()
	if failure != "" {
		record.Status = client.UpgradeError
		p.cfg.Logger.Error("the upgrade has failed", slog.String("to", record.To), slog.String("reason", failure))
	}
	if err := errors.Join(err, writeUpgrade(p.paths, record)); err != nil {
		p.cfg.Logger.Error("cannot conclude the upgrade", slog.Any("error", err))
	}
}

// preflights is what the directories are called that copies of the journal are looked at in.
const preflights = ".upgrade-"

func (p *parts) sweepUpgrade() error {
	errs := []error{journal.Discard(p.journalPath())}
	left, err := durable.Left(p.paths.State(), preflights+"*")
	for _, dir := range left {
		errs = append(errs, os.RemoveAll(dir))
	}
	return errors.Join(append(errs, err)...)
}
