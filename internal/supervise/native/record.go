package native

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"tenure"
	"tenure/internal/change"
	"tenure/internal/proc"
	"tenure/internal/supervise"
)

// record is all that a later supervisor must know of a unit. It is written
// before what it announces is done, and survives the daemon; it need not
// survive the power, for then the processes are gone too.
type record struct {
	// Boot is the boot that the record is of; under another one it says nothing.
	Boot       string          `json:"boot"`
	Spec       *supervise.Spec `json:"spec"`
	State      supervise.State `json:"state"`
	Generation int             `json:"generation"`
	Since      time.Time       `json:"since"`
	Started    time.Time       `json:"started,omitzero"`
	Restarts   int             `json:"restarts,omitempty"`
	// Change is the change that this generation was started for, if it was.
	Change change.ID `json:"change,omitzero"`
	Streak int       `json:"streak,omitempty"`
	// Exit is how the main process of this generation ended, LastExit how the
	// last one did that ended.
	Exit     *proc.Exit `json:"exit,omitempty"`
	LastExit *proc.Exit `json:"last_exit,omitempty"`
	// Watchdog is the interval that the service chose itself, if it did.
	Watchdog time.Duration    `json:"watchdog,omitempty"`
	Main     tenure.Process   `json:"main,omitzero"`
	Text     string           `json:"text,omitempty"`
	Deadline map[alarm]moment `json:"alarms,omitempty"`
	// Next is when the unit's own timer starts it, by the clock on the wall; zero for never.
	Next time.Time `json:"next,omitzero"`

	// Group is the control group of the current generation, if any.
	Group string `json:"group,omitempty"`
	// Ceded are groups below Group that belong to other units now.
	Ceded []string `json:"ceded,omitempty"`
	// Claims are groups that a service made below its own and that belong to
	// this unit now; they are never left by the processes in them.
	Claims []string `json:"claims,omitempty"`
	// Launching is set from the intent to fork until the main process is known.
	Launching bool `json:"launching,omitempty"`
	// Found is that the main process was found in the group, by a supervisor that did not
	// start it: of a service that forks it is the first process or what that has left.
	Found bool `json:"found,omitempty"`
	// Ready is set when the current generation has been ready.
	Ready bool `json:"ready,omitempty"`
	// Passive units came out of another (Parent) or were started elsewhere: they are
	// never started again, live as long as one of their processes does, and are
	// forgotten then if they have no name of their own.
	Passive bool          `json:"passive,omitempty"`
	Parent  tenure.UnitID `json:"parent,omitzero"`
	// Heir is that the unit is to be the service that it is the successor of;
	// Draining that it was a service and has handed over.
	Heir     bool `json:"heir,omitempty"`
	Draining bool `json:"draining,omitempty"`
	// Successor is the name under which the holder may still keep what is this
	// service's own since it has taken over.
	Successor tenure.UnitID `json:"successor,omitzero"`
	// Shared are the sockets that a successor has of its service, by its own names.
	Shared map[string]string `json:"shared,omitempty"`
	// Home is the name of the runtime directory where it is not that of the unit.
	Home string `json:"home,omitempty"`
	// Moving are processes that were promised to this unit and may still be in
	// From, which is then frozen.
	Moving []tenure.Process `json:"moving,omitempty"`
	From   string           `json:"from,omitempty"`
	// Told is set after a stop that timed out: the unit runs, but when it ends it
	// was told to. Again is set when it was then asked to start.
	Told  bool `json:"told,omitempty"`
	Again bool `json:"again,omitempty"`
	// Alone is that the host has started this generation while no supervisor ran: it speaks
	// to the host.
	Alone bool `json:"alone,omitempty"`
	// Stored is set when the holder may have descriptors that the unit stored,
	// also before this record was begun.
	Stored bool `json:"stored,omitempty"`
	// Kept are the descriptors that the holder keeps for the unit, as far as they can be told
	// from others.
	Kept []keptFile `json:"kept,omitempty"`
	// Holding is set while sockets and descriptors are kept for a start to come.
	Holding bool `json:"holding,omitempty"`
	// InGap is that the unit was made ready in the gap of a change that is not over: until then
	// nobody but the supervisor starts it.
	InGap  bool    `json:"in_gap,omitempty"`
	Ending *ending `json:"ending,omitempty"`
	// Reloading is why the unit was last told to go on with another Spec.
	Reloading *reloading `json:"reloading,omitempty"`
	// Aux is the control group of a command that runs for the unit.
	Aux     string         `json:"aux,omitempty"`
	AuxMain tenure.Process `json:"aux_main,omitzero"`
	AuxKind auxKind        `json:"aux_kind,omitempty"`
}

// moment is a point in time on the clock that nobody can set, in nanoseconds: a record is
// read back by the same machine in the same boot. Nothing that a unit is given or
// kept waiting by is longer or shorter for the clock on the wall, and while the machine sleeps
// it does not pass.
type moment int64

// present is the moment of the call.
func present() moment {
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &now); err != nil {
		panic(err) // The kernel has had it since Linux 2.6.
	}
	return moment(now.Nano())
}

// in is the moment after some time.
func in(after time.Duration) moment { return present() + moment(after) }

// left is how long it is until then, and less than zero when that was.
func (m moment) left() time.Duration { return time.Duration(m - present()) }

// maxRecord bounds what is read of a file: a Spec with a large environment is
// some ten kilobytes.
const maxRecord = 4 << 20

// records is the directory of the records.
type records struct{ dir string }

// save replaces the record of a unit at once or not at all.
func (r records) save(rec *record) error {
	text, err := json.Marshal(rec)
	if err != nil {
		return fmt.Errorf("encode record of %s: %w", rec.Spec.Unit, err)
	}
	path := r.path(rec.Spec.Unit)
	if err := replaceFile(path, text, 0o600); err != nil {
		return fmt.Errorf("write record of %s: %w", rec.Spec.Unit, err)
	}
	return nil
}

func (r records) remove(unit tenure.UnitID) error {
	if err := os.Remove(r.path(unit)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove record of %s: %w", unit, err)
	}
	return nil
}

// load reads all records of this boot, and removes those of other boots and
// what was half written. A record that cannot be read is returned as a
// warning: the processes of its unit are then found by their group.
func (r records) load(boot string) (recs []*record, warnings []error) {
	entries, err := os.ReadDir(r.dir)
	if err != nil {
		return nil, []error{fmt.Errorf("read records: %w", err)}
	}
	read, failures := make([]*record, len(entries)), make([]error, len(entries))
	var workers errgroup.Group
	workers.SetLimit(runtime.GOMAXPROCS(0))
	for first := 0; first < len(entries); first += chunk {
		workers.Go(func() error {
			for i := first; i < min(first+chunk, len(entries)); i++ {
				read[i], failures[i] = r.loadOne(boot, entries[i].Name())
			}
			return nil
		})
	}
	_ = workers.Wait() // Each failure is in its place.
	return slices.DeleteFunc(read, func(rec *record) bool { return rec == nil }), compact(failures)
}

// chunk is how many records are read by one after the other: enough to be worth handing out.
const chunk = 32

// loadOne is load for one file; nil is that there is no record in it.
func (r records) loadOne(boot, file string) (*record, error) {
	path := filepath.Join(r.dir, file)
	name, ok := strings.CutSuffix(file, recordSuffix)
	unit, err := decodeUnit(name)
	if !ok || err != nil {
		return nil, os.Remove(path)
	}
	rec, err := readRecord(path)
	switch {
	case err != nil:
		return nil, fmt.Errorf("record of %s: %w", unit, err)
	case rec.Boot != boot || rec.Spec == nil || rec.Spec.Unit != unit:
		return nil, os.Remove(path)
	}
	return rec, nil
}

func compact(errs []error) (out []error) {
	for _, err := range errs {
		if err != nil {
			out = append(out, err)
		}
	}
	return out
}

func readRecord(path string) (*record, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if info.Size() > maxRecord {
		return nil, fmt.Errorf("%d bytes: %w", info.Size(), fs.ErrInvalid)
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	rec := &record{}
	if err := json.Unmarshal(text, rec); err != nil {
		return nil, err
	}
	return rec, rec.check()
}

// errRecord is that a record says something that no supervisor has written.
var errRecord = errors.New("no supervisor has written this record")

// check refuses words that are none. Who goes on with a unit does what they say: in a phase of an ending that does not
// exist it would never come to an end, and whatever is not "never" allows SIGKILL.
func (r *record) check() error {
	words := []error{
		word("state", r.State, supervise.Inactive, supervise.Listening, supervise.Waiting, supervise.Starting, supervise.Running,
			supervise.Reloading, supervise.Stopping, supervise.Backoff, supervise.Failed),
		word("command", r.AuxKind, "", auxStop, auxReload, auxPost),
	}
	if e := r.Ending; e != nil {
		words = append(words, word("phase", e.Phase, phaseCommand, phaseSignal, phaseKill, phasePost), kills(e.Terms.Kill),
			word("cause", e.Cause, supervise.CauseRequest, supervise.CauseExit, supervise.CauseTimeout, supervise.CauseWatchdog))
	}
	if spec := r.Spec; spec != nil {
		if len(spec.Command.Argv) == 0 && !r.Passive {
			words = append(words, fmt.Errorf("%w: there is no command", errRecord))
		}
		for _, c := range []*supervise.Command{spec.Reload, spec.Stop.Command, spec.PostStop} {
			if c != nil && len(c.Argv) == 0 {
				words = append(words, fmt.Errorf("%w: a command is empty", errRecord))
			}
		}
		words = append(words, kills(spec.Stop.Kill), word("target", spec.Stop.Target, "", supervise.TargetGroup, supervise.TargetMain),
			word("type", spec.Type, "", supervise.Simple, supervise.Forking, supervise.Oneshot, supervise.Notify, supervise.DBus))
		for i := range spec.Workloads {
			words = append(words, kills(spec.Workloads[i].Stop.Kill))
		}
	}
	for _, group := range slices.Concat([]string{r.Group, r.Aux, r.From}, r.Claims, r.Ceded) {
		if group != "" && (!filepath.IsAbs(group) || filepath.Clean(group) != group) {
			words = append(words, fmt.Errorf("%w: group %.100q", errRecord, group))
		}
	}
	return errors.Join(words...)
}

func kills(k supervise.Kill) error {
	return word("kill", k, "", supervise.KillAfterTimeout, supervise.KillNever)
}

// word is an error unless one is among those that there are.
func word[T ~string](what string, one T, there ...T) error {
	if slices.Contains(there, one) {
		return nil
	}
	return fmt.Errorf("%w: %s %.100q", errRecord, what, string(one))
}

const recordSuffix = ".json"

func (r records) path(unit tenure.UnitID) string {
	return filepath.Join(r.dir, encodeUnit(unit)+recordSuffix)
}

// encodeUnit is the name of a unit as a file name: the slash of a workload
// becomes a plus, which no unit has in its name.
func encodeUnit(unit tenure.UnitID) string {
	return strings.ReplaceAll(unit.String(), "/", "+")
}

func decodeUnit(name string) (tenure.UnitID, error) {
	if strings.Contains(name, "/") {
		return tenure.UnitID{}, fmt.Errorf("%w: unit file %q", tenure.ErrName, name)
	}
	return tenure.ParseUnit(strings.ReplaceAll(name, "+", "/"))
}

// groupName is the name of a unit's control group below the hierarchy:
// "virt/virtd.3" is the third generation of virt.virtd.
func groupName(unit tenure.UnitID, generation int) string {
	_, rest, _ := strings.Cut(encodeUnit(unit), ".")
	return string(unit.Snap) + "/" + rest + "." + strconv.Itoa(generation)
}

// auxMark stands between the name of a unit's group and what a command that
// runs beside it is for: "virt/virtd.3=stop1".
const auxMark = "="

// UnitOfGroup is the unit whose processes were started in the control group
// rel (relative to the hierarchy), or in one below it, and its generation. What a
// service left behind stays in its group, so a living supervisor knows better:
// see Supervisor.UnitOf.
func UnitOfGroup(rel string) (unit tenure.UnitID, generation int, ok bool) {
	parts := strings.SplitN(rel, "/", 3)
	if len(parts) < 2 {
		return tenure.UnitID{}, 0, false
	}
	name, _, _ := strings.Cut(parts[1], auxMark)
	dot := strings.LastIndexByte(name, '.')
	if dot < 0 {
		return tenure.UnitID{}, 0, false
	}
	generation, err := strconv.Atoi(name[dot+1:])
	if err != nil || generation < 1 {
		return tenure.UnitID{}, 0, false
	}
	unit, err = decodeUnit(parts[0] + "." + name[:dot])
	return unit, generation, err == nil
}

// replaceFile writes a file beside path and puts it in its place, without
// waiting for the disk. The two are exchanged, for a rename onto a file makes ext4
// write the new one out first.
func replaceFile(path string, text []byte, mode os.FileMode) error {
	temp := path + ".new"
	if err := os.Remove(temp); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := os.WriteFile(temp, text, mode); err != nil {
		return err
	}
	if unix.Renameat2(unix.AT_FDCWD, temp, unix.AT_FDCWD, path, unix.RENAME_EXCHANGE) == nil {
		return os.Remove(temp)
	}
	// There is none yet, or the file system cannot exchange.
	if err := os.Rename(temp, path); err != nil {
		return errors.Join(err, os.Remove(temp))
	}
	return nil
}
