package tenure

import (
	"fmt"
	"strconv"
	"strings"
)

// UnitKind tells what a unit is for.
type UnitKind string

// The kinds of units.
const (
	Service  UnitKind = "service"
	Workload UnitKind = "workload"
	AppRun   UnitKind = "app"
	HookRun  UnitKind = "hook"
)

// UnitID names a set of processes that is tracked together. It is comparable.
// Its text form is unique and tells its kind:
//
//	virt.virtd             the service virtd of virt
//	virt.vm@web1           the instance web1 of the service template vm
//	virt.virtd/vm.4711     the workload vm that came out of virtd, first process 4711
//	virt.virtd/vm@web1     the workload vm that virtd itself has named web1
//	virt.virtd/vm          the workload vm that virtd itself has named so, and no more
//	virt.virtd/leftover.9  what virtd left behind without naming it
//	virt.virtd/successor.3 what is to be the third generation of virtd, until it is
//	virt.virtd/draining.7  a generation of virtd that has handed over, and ends
//	virt.qemu-img~4711     one run of the app qemu-img
//	virt.hook.configure~9  one run of a hook
type UnitID struct {
	Snap Instance
	Kind UnitKind
	// App is the app that the unit belongs to, or the name of the hook.
	App App
	// At is the instance of a service template that the unit is or came out of.
	At string
	// Name is the name of a workload, which is its kind: several may have it.
	Name string
	// Label is what a service calls a workload that it has named itself, if it has
	// more than one of a kind.
	Label string
	// Serial tells units of one name apart: the pid that their first process
	// had, for a hook, which must be found again, the change that it runs for, and for
	// a successor its generation. It is 0 for services, and for workloads that
	// their service has named.
	Serial int
}

// Leftover is the workload name of processes that a service left behind
// without naming them.
const Leftover = "leftover"

// Successor is the workload name of the next generation of a service that hands
// over, until it is the service itself.
const Successor = "successor"

// Draining is the workload name of a generation of a service that has handed
// over to the next one, and answers what it still has.
const Draining = "draining"

// Reserved are the names that no package can give to its workloads.
func Reserved() []string { return []string{Leftover, Successor, Draining} }

// Overlaps reports whether u is a generation of a service beside the one that is
// the service itself.
func (u UnitID) Overlaps() bool {
	return u.Kind == Workload && (u.Name == Successor || u.Name == Draining)
}

// ServiceUnit is the unit of the service app of snap.
func ServiceUnit(snap Instance, app App) UnitID {
	return UnitID{Snap: snap, Kind: Service, App: app}
}

// InstanceUnit is the unit of one instance of the service template app of snap.
func InstanceUnit(snap Instance, app App, at string) UnitID {
	return UnitID{Snap: snap, Kind: Service, App: app, At: at}
}

// Workload is the unit of a workload that came out of the service u.
func (u UnitID) Workload(name string, pid int) UnitID {
	return UnitID{Snap: u.Snap, Kind: Workload, App: u.App, At: u.At, Name: name, Serial: pid}
}

// Named reports whether u is a workload that its service has named itself. Such
// a name can be given again, and is known until it is forgotten.
func (u UnitID) Named() bool { return u.Kind == Workload && u.Serial == 0 }

// ParseWorkload reads the name of a workload of the service u, as it stands behind
// the slash: "vm@web1", "vm" or "vm.4711".
func (u UnitID) ParseWorkload(s string) (UnitID, error) {
	w, ok := cutWorkload(s)
	if !ok {
		return UnitID{}, fmt.Errorf("%w: workload %q (want WORKLOAD, WORKLOAD@NAME or WORKLOAD.PID)", ErrName, s)
	}
	w.Snap, w.App, w.At = u.Snap, u.App, u.At
	return w, nil
}

// WorkloadName is what ParseWorkload reads.
func (u UnitID) WorkloadName() string {
	switch {
	case u.Serial != 0:
		return u.Name + "." + strconv.Itoa(u.Serial)
	case u.Label != "":
		return u.Name + "@" + u.Label
	}
	return u.Name
}

// Service is the unit of the service that u is or came out of. It is zero
// when u is the run of an app or a hook.
func (u UnitID) Service() UnitID {
	switch u.Kind {
	case Service:
		return u
	case Workload:
		return InstanceUnit(u.Snap, u.App, u.At)
	case AppRun, HookRun:
		return UnitID{}
	}
	return UnitID{}
}

// IsZero reports whether u names nothing.
func (u UnitID) IsZero() bool { return u == UnitID{} }

// String is the form that ParseUnit reads.
func (u UnitID) String() string {
	owner := string(u.Snap) + "." + string(u.App)
	if u.At != "" {
		owner += "@" + u.At
	}
	switch u.Kind {
	case Service:
		return owner
	case Workload:
		return owner + "/" + u.WorkloadName()
	case AppRun:
		return owner + "~" + strconv.Itoa(u.Serial)
	case HookRun:
		return string(u.Snap) + ".hook." + string(u.App) + "~" + strconv.Itoa(u.Serial)
	}
	return ""
}

// ParseUnit reads the text form of a unit and checks every name in it, so that
// its result is safe in file names.
func ParseUnit(s string) (UnitID, error) {
	u, ok := parseUnit(s)
	if !ok {
		return UnitID{}, fmt.Errorf("%w: unit %q (want SNAP.APP, SNAP.APP@INSTANCE, SNAP.APP/WORKLOAD.PID, SNAP.APP/WORKLOAD@NAME or SNAP.APP~PID)", ErrName, s)
	}
	return u, nil
}

func parseUnit(s string) (u UnitID, ok bool) {
	snap, rest, found := strings.Cut(s, ".")
	instance, err := ParseInstance(snap)
	if !found || err != nil {
		return UnitID{}, false
	}
	u = UnitID{Snap: instance, Kind: Service}
	if app, serial, isRun := cutSerial(rest, "~"); isRun {
		u.Kind, u.Serial = AppRun, serial
		if hook, isHook := strings.CutPrefix(app, "hook."); isHook {
			app, u.Kind = hook, HookRun
		}
		u.App, err = ParseApp(app)
		return u, err == nil
	}
	service, workload, came := strings.Cut(rest, "/")
	app, at, isInstance := strings.Cut(service, "@")
	if isInstance && CheckUnitName(at) != nil {
		return UnitID{}, false
	}
	ok = true
	if came {
		u, ok = cutWorkload(workload)
	}
	u.Snap, u.At = instance, at
	u.App, err = ParseApp(app)
	return u, ok && err == nil
}

// cutWorkload reads what stands behind the slash.
func cutWorkload(s string) (w UnitID, ok bool) {
	name, label, labelled := strings.Cut(s, "@")
	w, ok = UnitID{Kind: Workload, Name: name, Label: label}, !labelled || CheckUnitName(label) == nil
	if !labelled && strings.Contains(name, ".") {
		w.Name, w.Serial, ok = cutSerial(name, ".")
	}
	return w, ok && CheckUnitName(w.Name) == nil
}

func cutSerial(s, sep string) (name string, serial int, ok bool) {
	at := strings.LastIndex(s, sep)
	if at < 0 {
		return "", 0, false
	}
	serial, err := strconv.Atoi(s[at+1:])
	return s[:at], serial, err == nil && serial > 0 && strconv.Itoa(serial) == s[at+1:]
}

// CheckUnitName reports whether s can name a workload or an instance of a
// service template: like an app's name, at most 40 characters.
func CheckUnitName(s string) error {
	if len(s) > maxAppName || !dashed(s, true) {
		return fmt.Errorf("%w: workload or instance name %q (want 1 to %d characters of a-z, A-Z, 0-9 and single inner dashes)", ErrName, s, maxAppName)
	}
	return nil
}

// MarshalText writes the text form; the zero UnitID is empty.
func (u UnitID) MarshalText() ([]byte, error) { return []byte(u.String()), nil }

// UnmarshalText reads what MarshalText writes.
func (u *UnitID) UnmarshalText(text []byte) error {
	if len(text) == 0 {
		*u = UnitID{}
		return nil
	}
	parsed, err := ParseUnit(string(text))
	if err != nil {
		return err
	}
	*u = parsed
	return nil
}

// Process identifies one process for as long as the machine runs: a pid alone
// is given to another process as soon as this one is gone.
type Process struct {
	PID int `json:"pid"`
	// Start is the time since boot at which the process started, in clock
	// ticks: field 22 of /proc/PID/stat (proc(5)).
	Start uint64 `json:"start"`
}
