package systemd

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"tenure"
	"tenure/internal/supervise"
)

// bootTarget is what has the services that are to start with the machine.
const bootTarget = "multi-user.target"

// files are the unit files, and beside each what the unit is.
type files struct {
	units, specs string
	// sockets is where systemd listens for socket files.
	sockets string
	// changed has an element when systemd does not know of the newest files.
	changed chan struct{}
}

func newFiles(units, specs string) (*files, error) {
	sockets := filepath.Join(specs, "sockets")
	dirs := []string{specs, sockets}
	for _, target := range []string{bootTarget, socketsTarget, timersTarget} {
		dirs = append(dirs, filepath.Join(units, target+".wants"))
	}
	for _, dir := range dirs {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return nil, fmt.Errorf("make directory of units: %w", err)
		}
	}
	if err := os.Chmod(sockets, 0o700); err != nil {
		return nil, fmt.Errorf("make directory of sockets: %w", err)
	}
	return &files{units: units, specs: specs, sockets: sockets, changed: make(chan struct{}, 1)}, nil
}

const specSuffix = ".json"

// specPath is where the Spec of a unit is.
func (f *files) specPath(name string) string { return filepath.Join(f.specs, name+specSuffix) }

// write makes the files of a unit, and reports whether systemd may know another one of its name.
// systemd finds new ones by the time of the directory, which is made to be another than before.
func (f *files) write(name, text string, spec *supervise.Spec) (changed bool, err error) {
	specText, err := json.Marshal(spec)
	if err != nil {
		return false, fmt.Errorf("encode %s: %w", name, err)
	}
	path := filepath.Join(f.units, name)
	old, err := os.ReadFile(path)
	isNew := errors.Is(err, fs.ErrNotExist)
	if err = replace(f.specPath(name), specText, 0o600); err != nil {
		return false, err
	}
	if string(old) == text {
		return false, nil
	}
	if err := replace(path, []byte(text), 0o644); err != nil {
		return false, err
	}
	return !isNew, f.touch()
}

func (f *files) touch() error {
	now := time.Now()
	if err := os.Chtimes(f.units, now, now); err != nil {
		return fmt.Errorf("let systemd see the units: %w", err)
	}
	return nil
}

// newSuffix is what the names of files end with that are not in their place yet.
const newSuffix = ".new"

// replace writes a file at once or not at all. One that says so already is left alone, for
// which there is always room.
func replace(path string, text []byte, mode os.FileMode) error {
	if old, err := os.ReadFile(path); err == nil && bytes.Equal(old, text) {
		return nil
	}
	temp := path + newSuffix
	if err := os.WriteFile(temp, text, mode); err != nil {
		return fmt.Errorf("write %s: %w", path, errors.Join(err, removeFile(temp)))
	}
	if err := os.Rename(temp, path); err != nil {
		return fmt.Errorf("write %s: %w", path, errors.Join(err, os.Remove(temp)))
	}
	return nil
}

// spec reads what a unit is.
func (f *files) spec(name string) (*supervise.Spec, error) { return readSpec(f.specPath(name)) }

func readSpec(path string) (*supervise.Spec, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read what a unit is: %w", err)
	}
	spec := &supervise.Spec{}
	if err := json.Unmarshal(text, spec); err != nil {
		return nil, fmt.Errorf("read %s: %w", path, err)
	}
	return spec, nil
}

// point makes an alias that of a unit, and has it started at the next boot, or not.
func (f *files) point(alias, name string, atBoot bool) (moved bool, err error) {
	for _, link := range f.links(alias) {
		path, target := link[0], link[1]
		if target == "" {
			target = name
		} else if !atBoot {
			if err := removeFile(path); err != nil {
				return moved, err
			}
			continue
		}
		was, err := f.pointTo(path, target)
		if err != nil {
			return moved, fmt.Errorf("name %s: %w", alias, err)
		}
		moved = moved || was
	}
	return moved, f.touch()
}

// pointTo makes a link that points elsewhere, and reports whether there was one.
func (f *files) pointTo(path, target string) (moved bool, err error) {
	old, err := os.Readlink(path)
	if err == nil && old == target {
		return false, nil
	}
	moved = err == nil
	if err := removeFile(path + newSuffix); err != nil {
		return moved, err
	}
	if err := os.Symlink(target, path+newSuffix); err != nil {
		return moved, err
	}
	return moved, os.Rename(path+newSuffix, path)
}

// links are the links of an alias, with what they point at; empty for the unit.
func (f *files) links(alias string) [][2]string {
	return [][2]string{
		{filepath.Join(f.units, alias), ""},
		{filepath.Join(f.units, bootTarget+".wants", alias), filepath.Join("..", alias)},
	}
}

// unpoint removes an alias.
func (f *files) unpoint(alias string) error {
	var errs []error
	for _, link := range f.links(alias) {
		errs = append(errs, removeFile(link[0]))
	}
	return errors.Join(append(errs, f.touch())...)
}

// unwant has an alias not be started when the machine boots.
func (f *files) unwant(alias string) error {
	return removeFile(filepath.Join(f.units, bootTarget+".wants", alias))
}

// clean removes the files of units that nobody knows, and returns their names.
func (f *files) clean(n names, known func(string) bool) (removed []string, err error) {
	entries, err := os.ReadDir(f.specs)
	if err != nil {
		return nil, fmt.Errorf("read units: %w", err)
	}
	for _, entry := range entries {
		name, ok := strings.CutSuffix(entry.Name(), specSuffix)
		if _, _, ours := n.parse(name); ok && ours && !known(name) {
			if err := f.remove(name); err != nil {
				return removed, err
			}
			removed = append(removed, name)
		}
	}
	return removed, nil
}

// remove removes the files of a unit.
func (f *files) remove(name string) error {
	var added error
	if alias, ok := aliasOf(name); ok {
		added = dropAdded(alias, name)
	}
	return errors.Join(added, removeFile(filepath.Join(f.units, name)), removeFile(f.specPath(name)), f.touch())
}

func removeFile(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove unit: %w", err)
	}
	return nil
}

// of are the units that there are files of for a service.
func (f *files) of(unit tenure.UnitID, n names) (units []string) {
	entries, _ := os.ReadDir(f.specs) // What is not there has no units.
	for _, entry := range entries {
		name, ok := strings.CutSuffix(entry.Name(), specSuffix)
		if owner, _, parsed := n.parse(name); ok && parsed && owner == unit {
			units = append(units, name)
		}
	}
	return units
}

// lastNumber is the greatest number of a generation of a service that there is a file of.
func (f *files) lastNumber(unit tenure.UnitID, n names) (last int) {
	for _, name := range f.of(unit, n) {
		_, number, _ := n.parse(name)
		last = max(last, number)
	}
	return last
}

// aliases are the units that the services are.
func (f *files) aliases(n names) map[tenure.UnitID]string {
	found := make(map[tenure.UnitID]string)
	entries, _ := os.ReadDir(f.units) // None is known then.
	for _, entry := range entries {
		target, err := os.Readlink(filepath.Join(f.units, entry.Name()))
		if err != nil {
			continue
		}
		if unit, _, ok := n.parse(target); ok && n.alias(unit) == entry.Name() {
			found[unit] = target
		}
	}
	return found
}

// linked are the aliases that units have, of services and of declarations, with the units.
func (f *files) linked(n names) map[string]string {
	found := make(map[string]string)
	entries, _ := os.ReadDir(f.units) // None is known then.
	for _, entry := range entries {
		if _, ours := strings.CutPrefix(entry.Name(), n.prefix+"."); !ours || strings.HasSuffix(entry.Name(), newSuffix) {
			continue
		}
		if target, err := os.Readlink(filepath.Join(f.units, entry.Name())); err == nil {
			found[entry.Name()] = target
		}
	}
	return found
}

// stale is told that systemd does not know of the newest files.
func (f *files) stale() {
	select {
	case f.changed <- struct{}{}:
	default:
	}
}
