package systemd

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"time"

	sd "github.com/coreos/go-systemd/v22/dbus"
	"github.com/godbus/dbus/v5"

	"tenure"
	"tenure/internal/proc"
)

// private is where systemd itself listens, also where there is no bus.
const private = "unix:path=/run/systemd/private"

// bus is a connection to systemd that is made anew when systemd has been replaced by
// another (daemon-reexec).
type bus struct {
	// life bounds the connections.
	life context.Context //nolint:containedctx // That of the supervisor.
	// early is that units are started before what they wait for.
	early bool

	mu   sync.Mutex
	conn *sd.Conn
	raw  *dbus.Conn
	lost <-chan struct{}
}

// errLost is that systemd has gone away before it said what became of a job.
var errLost = errors.New("the connection to systemd was lost")

// errCanceled is that systemd was asked for something else before the job was done.
var errCanceled = errors.New("the job of systemd was canceled")

// get is a connection that works, and what is closed when it does not any more.
func (b *bus) get() (*sd.Conn, <-chan struct{}, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.conn != nil && b.conn.Connected() {
		return b.conn, b.lost, nil
	}
	if b.conn != nil {
		b.conn.Close()
	}
	var last *dbus.Conn
	conn, err := sd.NewConnection(func() (*dbus.Conn, error) {
		conn, err := dbus.Dial(private, dbus.WithContext(b.life))
		if err != nil {
			return nil, err
		}
		if err := conn.Auth([]dbus.Auth{dbus.AuthExternal(strconv.Itoa(0))}); err != nil {
			return nil, errors.Join(err, conn.Close())
		}
		last = conn
		return conn, nil
	})
	if err != nil {
		return nil, nil, fmt.Errorf("connect to systemd: %w", err)
	}
	b.conn, b.raw, b.lost = conn, last, last.Context().Done()
	return b.conn, b.lost, nil
}

func (b *bus) close() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.conn != nil {
		b.conn.Close()
		b.conn = nil
	}
}

// job is something that systemd has been asked to do.
type job struct {
	unit string
	done chan string
	lost <-chan struct{}
}

// begin asks for a job.
func (b *bus) begin(unit string, ask func(*sd.Conn, chan<- string) error) (*job, error) {
	conn, lost, err := b.get()
	if err != nil {
		return nil, err
	}
	j := &job{unit: unit, done: make(chan string, 1), lost: lost}
	if err := ask(conn, j.done); err != nil {
		return nil, fmt.Errorf("%s: %w", unit, err)
	}
	return j, nil
}

// wait returns when systemd has done the job.
func (j *job) wait(ctx context.Context) error {
	select {
	case result := <-j.done:
		return j.outcome(result)
	case <-j.lost:
		return errLost
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// outcome is the error of a job that did not come to what was asked.
func (j *job) outcome(result string) error {
	switch result {
	case "done":
		return nil
	case "canceled":
		return fmt.Errorf("%s: %w", j.unit, errCanceled)
	}
	return fmt.Errorf("%s: the job of systemd ended as %q", j.unit, result)
}

// beforeAll is the mode of a job that is carried out at once, whatever else is to be done before, or
// instead.
const beforeAll = "ignore-dependencies"

// start starts a unit that does not run, also one that waits to be restarted: that is not started
// before its time is over, but restarted at once.
func (b *bus) start(ctx context.Context, unit string) (*job, error) {
	mode := "replace"
	if b.early {
		mode = beforeAll
	}
	return b.begin(unit, func(conn *sd.Conn, done chan<- string) error {
		_, err := conn.RestartUnitContext(ctx, unit, mode, done)
		return err
	})
}

// startPlain starts a unit that may run already, in a mode: what else is to be done with it is given up
// ("replace"), or comes before ("fail").
func startPlain(ctx context.Context, unit, mode string) func(*sd.Conn, chan<- string) error {
	return func(conn *sd.Conn, done chan<- string) error {
		_, err := conn.StartUnitContext(ctx, unit, mode, done)
		return err
	}
}

// downSince is when a unit was last seen to end.
func (b *bus) downSince(ctx context.Context, unit string) (time.Time, error) {
	conn, _, err := b.get()
	if err != nil {
		return time.Time{}, err
	}
	property, err := conn.GetUnitPropertyContext(ctx, unit, "InactiveEnterTimestamp")
	var micros uint64
	if err == nil {
		err = property.Value.Store(&micros)
	}
	if err != nil {
		return time.Time{}, fmt.Errorf("look at %s: %w", unit, err)
	}
	return time.UnixMicro(int64(micros)), nil //nolint:gosec // A time of this century.
}

// knows reports whether systemd has a unit of a name in mind. It is not made to read it.
func (b *bus) knows(ctx context.Context, unit string) (bool, error) {
	if _, _, err := b.get(); err != nil {
		return false, err
	}
	err := b.manager().CallWithContext(ctx, "org.freedesktop.systemd1.Manager.GetUnit", 0, unit).Err
	if notLoaded(err) {
		return false, nil
	}
	return err == nil, err
}

// resolve are the units that systemd takes names for.
func (b *bus) resolve(ctx context.Context, names []string) (units []string, err error) {
	conn, _, err := b.get()
	if err != nil {
		return nil, err
	}
	found, err := conn.ListUnitsByNamesContext(ctx, names)
	if err != nil {
		return nil, fmt.Errorf("look at what units are called: %w", err)
	}
	for _, unit := range found {
		units = append(units, unit.Name)
	}
	return units, nil
}

// changed reports whether the files of a unit are others than systemd has read.
func (b *bus) changed(ctx context.Context, unit string) (changed bool, err error) {
	conn, _, err := b.get()
	if err != nil {
		return false, err
	}
	property, err := conn.GetUnitPropertyContext(ctx, unit, "NeedDaemonReload")
	if err == nil {
		err = property.Value.Store(&changed)
	}
	if err != nil {
		return false, fmt.Errorf("look at %s: %w", unit, err)
	}
	return changed, nil
}

// notLoaded reports whether an error is that systemd knows no such unit.
func notLoaded(err error) bool {
	refused, is := errors.AsType[dbus.Error](err)
	return is && refused.Name == "org.freedesktop.systemd1.NoSuchUnit"
}

// stop does not undo what anybody else has asked for.
func (b *bus) stop(ctx context.Context, unit string) error { return b.stopInMode(ctx, unit, "fail") }

// cancel stops a unit whatever else has been asked for, also meanwhile, and whatever becomes of the connection.
func (b *bus) cancel(ctx context.Context, unit string) error {
	const often = 10 // Who starts it again each time has the last word.
	for n := 1; ; n++ {
		err := b.stopInMode(ctx, unit, "replace")
		if !errors.Is(err, errLost) && !errors.Is(err, errCanceled) || ctx.Err() != nil || n == often {
			return err
		}
	}
}

func (b *bus) stopInMode(ctx context.Context, unit, mode string) error {
	j, err := b.begin(unit, func(conn *sd.Conn, done chan<- string) error {
		_, err := conn.StopUnitContext(ctx, unit, mode, done)
		return err
	})
	if err != nil {
		return err
	}
	return j.wait(ctx)
}

// destructive is the name of the error that what is asked for would undo what systemd is to do already.
const destructive = "org.freedesktop.systemd1.TransactionIsDestructive"

// startTransient starts a unit once. It is started also where its slice is to be stopped, as when the
// machine ends: what ends a unit is not kept from running by that end.
func (b *bus) startTransient(ctx context.Context, unit string, properties []sd.Property) (*job, error) {
	start := func(mode string) (*job, error) {
		return b.begin(unit, func(conn *sd.Conn, done chan<- string) error {
			_, err := conn.StartTransientUnitContext(ctx, unit, mode, properties, done)
			return err
		})
	}
	j, err := start("fail")
	if refused, is := errors.AsType[dbus.Error](err); is && refused.Name == destructive {
		return start(beforeAll)
	}
	return j, err
}

func (b *bus) attach(ctx context.Context, unit string, pids []uint32) error {
	conn, _, err := b.get()
	if err == nil {
		err = conn.AttachProcessesToUnit(ctx, unit, "", pids)
	}
	if err != nil {
		return fmt.Errorf("move processes to %s: %w", unit, err)
	}
	return nil
}

func (b *bus) resetFailed(ctx context.Context, unit string) error {
	conn, _, err := b.get()
	if err == nil {
		err = conn.ResetFailedUnitContext(ctx, unit)
	}
	if err != nil {
		return fmt.Errorf("reset %s: %w", unit, err)
	}
	return nil
}

func (b *bus) reload(ctx context.Context) error {
	conn, _, err := b.get()
	if err == nil {
		err = conn.ReloadContext(ctx)
	}
	if err != nil {
		return fmt.Errorf("reload systemd: %w", err)
	}
	return nil
}

// condition is how a unit is doing.
type condition struct {
	// active is its ActiveState ("active", "failed").
	active string
	// job is what kind of job waits or runs for it ("stop"); empty for none.
	job string
}

// look reads how a unit is doing.
func (b *bus) look(ctx context.Context, unit string) (condition, error) {
	conn, _, err := b.get()
	if err != nil {
		return condition{}, err
	}
	c := condition{}
	active, err := conn.GetUnitPropertyContext(ctx, unit, "ActiveState")
	if err == nil {
		err = active.Value.Store(&c.active)
	}
	if err != nil {
		return condition{}, fmt.Errorf("look at %s: %w", unit, err)
	}
	job, err := conn.GetUnitPropertyContext(ctx, unit, "Job")
	if err != nil {
		return condition{}, fmt.Errorf("look at %s: %w", unit, err)
	}
	if pair, ok := job.Value.Value().([]any); ok && len(pair) == 2 {
		if id, ok := pair[0].(uint32); ok && id != 0 {
			c.job = b.jobType(ctx, conn, id)
		}
	}
	return c, nil
}

// machineEnds reports whether systemd stops everything, as it says; what cannot be asked
// stops nothing.
func (b *bus) machineEnds(ctx context.Context) bool {
	conn, _, err := b.get()
	if err != nil {
		return false
	}
	state, err := conn.SystemStateContext(ctx)
	return err == nil && state.Value.Value() == "stopping"
}

// main is the main process of a service, which may have ended.
func (b *bus) main(ctx context.Context, unit string) (process tenure.Process, err error) {
	conn, _, err := b.get()
	if err != nil {
		return process, err
	}
	property, err := conn.GetServicePropertyContext(ctx, unit, "MainPID")
	var pid uint32
	if err == nil {
		err = property.Value.Store(&pid)
	}
	if err != nil {
		return process, fmt.Errorf("main process of %s: %w", unit, err)
	}
	info, err := proc.Read(int(pid))
	if err != nil {
		return process, fmt.Errorf("main process of %s: %w", unit, err)
	}
	return info.Process, nil
}

// jobType is what kind of job has an id; empty when it is done.
func (b *bus) jobType(ctx context.Context, conn *sd.Conn, id uint32) string {
	jobs, err := conn.ListJobsContext(ctx)
	if err != nil {
		return ""
	}
	for _, j := range jobs {
		if j.Id == id {
			return j.JobType
		}
	}
	return ""
}
