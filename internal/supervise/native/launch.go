package native

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"tenure"
	"tenure/internal/proc"
	"tenure/internal/sandbox"
	"tenure/internal/supervise"
	"tenure/internal/supervise/fdstore"
)

// unitDir is where a unit with a root of its own sees its runtime directory:
// the notify socket and the reason file.
const unitDir = "/run/tenure-unit"

// The names in the runtime directory.
const (
	notifyName = "notify"
	reasonName = "reason"
)

// attrUnit is the attribute of a control group that tells whose it is to a
// supervisor that has no record of it.
const attrUnit = "unit"

// label is the value of attrUnit.
type label struct {
	Unit     tenure.UnitID   `json:"unit"`
	Revision tenure.Revision `json:"revision"`
}

// program is one process to start.
type program struct {
	command supervise.Command
	group   proc.Group
	// env is added to the command's.
	env    []string
	launch Launch
	// log is the stream to write to, and closed then; nil for a new one.
	log *os.File
	// files are passed from descriptor 3 on, with LISTEN_PID and LISTEN_FDS.
	files []*os.File
	names []string
}

// fork starts the main process of the next generation.
func (u *unit) fork(ctx context.Context) error {
	u.keepPrepared()
	group, err := u.freshGroup(false)
	if err != nil {
		return err
	}
	u.rec.Group, u.rec.Launching, u.rec.Started = group.Path(), true, time.Now()
	u.rec.State, u.rec.Since, u.rec.Change = supervise.Starting, u.rec.Started, u.by
	if err := u.s.records.save(&u.rec); err != nil {
		return err
	}
	u.publish()
	u.event(supervise.Event{Kind: supervise.EventState, State: supervise.Starting})
	if err := u.prepareDir(); err != nil {
		return err
	}
	p := program{command: u.rec.Spec.Command, group: group, env: u.lifeEnv()}
	if p.files, p.names, err = u.passed(ctx); err != nil {
		return err
	}
	defer closeFiles(p.files)
	if err := u.openNotify(ctx); err != nil {
		return err
	}
	p.launch, p.log = u.launcher()
	handle, err := u.exec(ctx, p)
	if err != nil {
		return err
	}
	u.rec.Launching = false
	u.holdMain(handle)
	u.serves()
	return nil
}

// createGroup makes a group and labels it.
func (u *unit) createGroup(name string) (proc.Group, error) {
	return u.s.createGroup(name, label{u.id, u.rec.Spec.Revision})
}

func (s *Supervisor) createGroup(name string, l label) (proc.Group, error) {
	group, err := s.cfg.Hierarchy.Create(name)
	for errors.Is(err, fs.ErrNotExist) {
		// The directory of the instance was removed as empty just now.
		group, err = s.cfg.Hierarchy.Create(name)
	}
	if err != nil {
		return proc.Group{}, err
	}
	if err := s.setLabel(group, l); err != nil {
		return proc.Group{}, errors.Join(err, group.Remove())
	}
	return group, nil
}

// dir is the unit's runtime directory on the host.
func (u *unit) dir() string { return filepath.Join(u.s.cfg.RuntimeDir, u.home) }

// seenDir is the runtime directory as the unit sees it.
func (u *unit) seenDir() string {
	if hostRoot(u.rec.Spec) {
		return u.dir()
	}
	return unitDir
}

// hostRoot reports whether the unit has the host's root; the zero profile does.
func hostRoot(spec *supervise.Spec) bool {
	root := spec.Profile.Root
	return root == sandbox.RootHost || root == ""
}

// prepareDir makes the runtime directory, without a reason from an earlier end.
func (u *unit) prepareDir() error {
	if err := os.MkdirAll(u.dir(), 0o755); err != nil {
		return fmt.Errorf("make runtime directory: %w", err)
	}
	err := os.Remove(filepath.Join(u.dir(), reasonName))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("prepare runtime directory: %w", err)
	}
	return nil
}

// profile is that of spec, with the unit's runtime directory bound in. It is
// read-only: what the supervisor, with all rights, writes there by name is not for a
// unit to put links in the way of. Sockets can be spoken to nevertheless.
func (u *unit) profile(spec *supervise.Spec) sandbox.Profile {
	profile := spec.Profile
	if hostRoot(spec) {
		return profile
	}
	bind := sandbox.Mount{Kind: sandbox.Bind, Source: u.dir(), Target: unitDir, ReadOnly: true}
	profile.Mounts = append(slices.Clip(profile.Mounts), bind)
	return profile
}

// lifeEnv is what a main process is told of its supervisor.
func (u *unit) lifeEnv() []string {
	env := []string{"SNAP_LIFECYCLE_REASON_FILE=" + filepath.Join(u.seenDir(), reasonName)}
	if !u.notifies() {
		return env
	}
	env = append(env, "NOTIFY_SOCKET="+u.notifyAddress())
	if u.rec.Spec.Watchdog > 0 {
		env = append(env, "WATCHDOG_USEC="+strconv.FormatInt(u.rec.Spec.Watchdog.Microseconds(), 10))
	}
	return env
}

// passed are the descriptors that a main process gets: its declared sockets in
// order, then what its unit has stored.
func (u *unit) passed(ctx context.Context) (files []*os.File, names []string, err error) {
	if len(u.rec.Spec.Sockets) == 0 && !u.rec.Stored {
		return nil, nil, nil
	}
	kept, err := u.kept(ctx)
	if err != nil {
		return nil, nil, err
	}
	var rest []fdstore.Kept
	take := func(want func(fdstore.Kept) bool) {
		rest = rest[:0:0]
		for _, k := range kept {
			if want(k) {
				files, names = append(files, k.File), append(names, k.Name)
			} else {
				rest = append(rest, k)
			}
		}
		kept = rest
	}
	for _, socket := range u.rec.Spec.Sockets {
		take(func(k fdstore.Kept) bool { return k.Kind == fdstore.Listen && k.Name == socket.Name })
	}
	declared := len(files)
	take(func(k fdstore.Kept) bool { return k.Kind == fdstore.Stored })
	u.rec.Stored = len(files) > declared
	for _, k := range kept {
		_ = k.File.Close()
	}
	return files, names, nil
}

func closeFiles(files []*os.File) {
	for _, f := range files {
		_ = f.Close()
	}
}

// exec starts a program in its group, with the unit's profile and log. That there is no room
// for it is an error of kind *supervise.ShortError.
func (u *unit) exec(ctx context.Context, p program) (*proc.Handle, error) {
	// An attempt costs a thread, and there may be no other: one is enough to find out.
	if u.s.short.Load() {
		if err := proc.CanFork(); err != nil {
			return nil, supervise.Short(err)
		}
	}
	handle, err := u.tryExec(ctx, p)
	err = supervise.Short(err)
	u.s.short.Store(supervise.IsShort(err))
	return handle, err
}

func (u *unit) tryExec(ctx context.Context, p program) (*proc.Handle, error) {
	if host := u.s.cfg.Host; host != nil {
		return u.launchIn(ctx, host, p)
	}
	dir, dirErr := p.group.Open()
	null, nullErr := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	log, logErr := p.log, error(nil)
	if log == nil {
		log, logErr = u.s.cfg.Holder.Log(ctx, u.keeper())
	}
	// Closing one that could not be opened does nothing.
	defer closeFiles([]*os.File{dir, null, log})
	if err := errors.Join(dirErr, nullErr, logErr); err != nil {
		return nil, err
	}
	x := sandbox.Exec{
		Argv: p.command.Argv, Dir: p.command.Dir, Group: dir,
		Env:   mergeEnv(p.command.Env, p.env),
		Files: append([]*os.File{null, log, log}, p.files...),
	}
	if x.Dir == "" {
		x.Dir = "/"
	}
	if len(p.files) > 0 {
		return u.execListening(ctx, p, x)
	}
	_, pidfd, err := p.launch(ctx, u.profile(u.rec.Spec), x)
	if err != nil {
		return nil, err
	}
	return proc.FromPIDFD(pidfd)
}

// mergeEnv puts what the supervisor knows over what the unit was given.
func mergeEnv(env, own []string) []string {
	merged := make([]string, 0, len(env)+len(own))
	for _, entry := range env {
		name, _, _ := strings.Cut(entry, "=")
		if !slices.ContainsFunc(own, func(o string) bool { return strings.HasPrefix(o, name+"=") }) {
			merged = append(merged, entry)
		}
	}
	return append(merged, own...)
}

// execListening starts a program that is passed descriptors. Its environment
// must have its own pid in it, which nobody knows before it is there: ExecListen
// puts it in, and then becomes the program.
func (u *unit) execListening(ctx context.Context, p program, x sandbox.Exec) (*proc.Handle, error) {
	report, reporter, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("pipe: %w", err)
	}
	defer report.Close() //nolint:errcheck // Only read from.
	x.Files = append(x.Files, reporter)
	x.Env = mergeEnv(x.Env, []string{
		"LISTEN_FDS=" + strconv.Itoa(len(p.files)),
		"LISTEN_FDNAMES=" + strings.Join(p.names, ":"),
	})
	helper := slices.Clone(u.s.cfg.ExecHelper)
	x.Argv = append(append(helper, strconv.Itoa(len(x.Files)-1), "--"), x.Argv...)
	_, pidfd, err := p.launch(ctx, u.profile(u.rec.Spec), x)
	_ = reporter.Close()
	if err != nil {
		return nil, err
	}
	handle, err := proc.FromPIDFD(pidfd)
	if err != nil {
		return nil, err
	}
	text, err := io.ReadAll(io.LimitReader(report, 4096))
	if err == nil && len(text) > 0 {
		err = errors.New(string(text))
	}
	if err != nil {
		_, waitErr := handle.Wait(ctx)
		handle.Close()
		return nil, errors.Join(fmt.Errorf("execute %s: %w", p.command.Argv[0], err), waitErr)
	}
	return handle, nil
}

// ExecListen is the program of Config.ExecHelper: it takes the arguments that follow
// the configured ones, tells the program that it becomes its pid by
// LISTEN_PID (sd_listen_fds(3)), and returns only when that failed.
func ExecListen(args []string) error {
	if len(args) < 3 || args[1] != "--" {
		return errors.New("exec-listen is for the supervisor's own use")
	}
	fd, err := strconv.Atoi(args[0])
	if err != nil || fd < 3 {
		return fmt.Errorf("exec-listen: descriptor %q: %w", args[0], fs.ErrInvalid)
	}
	report := os.NewFile(uintptr(fd), "report") //nolint:gosec // Checked just above.
	syscall.CloseOnExec(fd)
	env := mergeEnv(os.Environ(), []string{"LISTEN_PID=" + strconv.Itoa(os.Getpid())})
	err = syscall.Exec(args[2], args[2:], env)
	_, writeErr := report.WriteString(err.Error())
	return errors.Join(fmt.Errorf("execute %s: %w", args[2], err), writeErr)
}
