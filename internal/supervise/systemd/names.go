package systemd

import (
	"path/filepath"
	"strconv"
	"strings"

	"tenure"
	"tenure/internal/supervise/native"
)

// The kinds of units, as systemd has them.
const (
	service = ".service"
	scope   = ".scope"
	slice   = ".slice"
)

// names makes the names of units. Those of one root begin with its prefix.
type names struct{ prefix string }

// commandMark stands between the number of a unit and the command that runs for it.
const commandMark = "-"

// at is how systemd escapes that character.
const at = `\x40`

// stem is the name of a unit without its number and kind: "snap.virt.virtd",
// "snap.virt.virtd:vm.4711", "snap.virt.hook.configure::9".
func (n names) stem(unit tenure.UnitID) string {
	_, rest, _ := strings.Cut(unit.String(), ".")
	rest = strings.ReplaceAll(strings.ReplaceAll(rest, "/", ":"), "~", "::")
	return n.prefix + "." + string(unit.Snap) + "." + rest
}

// alias is the name under which people know a service.
func (n names) alias(unit tenure.UnitID) string { return n.stem(unit) + service }

// numbered is the name of the unit with a number.
func (n names) numbered(unit tenure.UnitID, number int, kind string) string {
	name := n.stem(unit) + "." + strconv.Itoa(number) + kind
	if kind == scope {
		// A scope is no instance of anything for systemd.
		name = strings.ReplaceAll(name, "@", at)
	}
	return name
}

// slice is the slice of all units of a snap. A dash would make slices within slices of its name.
func (n names) slice(snap tenure.Instance) string {
	return n.prefix + "-" + strings.ReplaceAll(string(snap), "-", `\x2d`) + slice
}

// owner is the unit whose group is rel, relative to that of the slice of all snaps, or the one
// around it.
func (n names) owner(rel string) (tenure.UnitID, bool) {
	parts := strings.SplitN(rel, "/", 3)
	if len(parts) < 2 {
		return tenure.UnitID{}, false
	}
	unit, _, ok := n.parse(parts[1])
	return unit, ok
}

// parse reads the name of a unit, and its number.
func (n names) parse(name string) (unit tenure.UnitID, number int, ok bool) {
	rest, ours := strings.CutPrefix(strings.TrimSuffix(name, filepath.Ext(name)), n.prefix+".")
	if !ours {
		return tenure.UnitID{}, 0, false
	}
	dot := strings.LastIndexByte(rest, '.')
	if dot < 0 {
		return tenure.UnitID{}, 0, false
	}
	text, _, _ := strings.Cut(rest[dot+1:], commandMark)
	number, err := strconv.Atoi(text)
	if err != nil || number < 1 {
		return tenure.UnitID{}, 0, false
	}
	id := strings.NewReplacer("::", "~", ":", "/", at, "@").Replace(rest[:dot])
	unit, err = tenure.ParseUnit(id)
	return unit, number, err == nil
}

var _ native.Host = (*host)(nil)
