package systemd

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// What an administrator adds to a service is in files beside its unit file, in directories
// named by the unit ("drop-ins", systemd.unit(5)). Written by hand they are for the alias;
// systemctl(1) puts those of "edit" and "set-property" under the name of the generation that the
// alias is. All of them are kept under the alias, which outlives generations, and linked
// from each generation, for one that overlaps with the service has no alias.

// dropIn is the end of the name of a directory of drop-ins.
const dropIn = ".d"

// editedDirs have the drop-ins that systemctl(1) writes, in systemd's order of precedence.
func editedDirs() []string {
	return []string{
		"/etc/systemd/system.control", "/run/systemd/system.control", "/etc/systemd/system", "/run/systemd/system",
	}
}

// installedDirs have the drop-ins of packages.
func installedDirs() []string {
	return []string{"/usr/local/lib/systemd/system", "/usr/lib/systemd/system"}
}

// carry has what was added to a service, as the generation old and by its alias, added to the
// generation name, too.
func (f *files) carry(alias, old, name string) error {
	err := error(nil)
	if old != "" {
		err = gather(alias, old)
	}
	links := filepath.Join(f.units, name+dropIn)
	for _, dir := range append(editedDirs(), installedDirs()...) {
		added := filepath.Join(dir, alias+dropIn)
		entries, _ := os.ReadDir(added) // Mostly there is none.
		for _, entry := range entries {
			err = errors.Join(err, link(filepath.Join(added, entry.Name()), links, entry.Name()))
		}
	}
	return err
}

// gather puts the drop-ins of a generation under the alias, in whose place they are linked.
func gather(alias, name string) error {
	var errs []error
	for _, dir := range editedDirs() {
		own, kept := filepath.Join(dir, name+dropIn), filepath.Join(dir, alias+dropIn)
		entries, _ := os.ReadDir(own) // Mostly there is none.
		for _, entry := range entries {
			path := filepath.Join(own, entry.Name())
			if linksInto(path, alias) {
				continue
			}
			target := filepath.Join(kept, entry.Name())
			err := os.MkdirAll(kept, 0o755)
			if err == nil {
				err = os.Rename(path, target)
			}
			if err == nil {
				err = os.Symlink(target, path)
			}
			errs = append(errs, err)
		}
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("keep what was added to %s: %w", name, err)
	}
	return nil
}

// linksInto reports whether a file is the link to a drop-in of the alias.
func linksInto(path, alias string) bool {
	target, err := os.Readlink(path)
	return err == nil && filepath.Base(filepath.Dir(target)) == alias+dropIn
}

// link names a file in a directory, unless something else has that name in it.
func link(target, dir, name string) error {
	err := os.MkdirAll(dir, 0o755)
	if err == nil {
		err = os.Symlink(target, filepath.Join(dir, name))
	}
	if err != nil && !errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("add %s: %w", target, err)
	}
	return nil
}

// dropAdded removes what was added to a generation; under the alias of its service it is kept.
func dropAdded(alias, name string) error {
	if err := gather(alias, name); err != nil {
		return err
	}
	var errs []error
	for _, dir := range editedDirs() {
		if err := os.RemoveAll(filepath.Join(dir, name+dropIn)); err != nil {
			errs = append(errs, fmt.Errorf("remove unit: %w", err))
		}
	}
	return errors.Join(errs...)
}

// aliasOf is the alias of the service that a unit is a generation of.
func aliasOf(name string) (alias string, ok bool) {
	stem, isService := strings.CutSuffix(name, service)
	dot := strings.LastIndexByte(stem, '.')
	if !isService || dot < 0 {
		return "", false
	}
	return stem[:dot] + service, true
}
