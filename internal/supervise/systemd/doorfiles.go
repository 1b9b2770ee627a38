package systemd

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// nameDoor gives a unit its alias, if it has not got it yet (writeDoor).
func (h *host) nameDoor(alias, name string) error {
	path := filepath.Join(h.files.units, alias)
	if old, err := os.Readlink(path); err == nil && old == name {
		return nil
	}
	if _, err := h.files.pointTo(path, name); err != nil {
		return fmt.Errorf("name %s: %w", alias, err)
	}
	h.files.stale()
	return nil
}

// door is the unit of a declaration: its name and alias, what starts it at boot, its file, and that of what it starts.
type door struct{ name, alias, target, text, teller string }

// writeDoor makes the files of a declaration: its unit, what that starts, and its start at boot; and its alias
// where systemd knows no other unit by that. Where it does, it refuses to read a unit that is to have the alias,
// and needs to read all again when that is read.
func (h *host) writeDoor(ctx context.Context, d *door) error {
	stem := strings.TrimSuffix(d.name, filepath.Ext(d.name))
	changed := false
	for file, text := range map[string]string{d.name: d.text, stem + service: d.teller} {
		path := filepath.Join(h.files.units, file)
		old, err := os.ReadFile(path)
		if err == nil && string(old) == text {
			continue
		}
		changed = changed || err == nil
		if err := replace(path, []byte(text), 0o644); err != nil {
			return err
		}
	}
	if _, err := h.files.pointTo(filepath.Join(h.files.units, d.target+".wants", d.name), filepath.Join("..", d.name)); err != nil {
		return err
	}
	path := filepath.Join(h.files.units, d.alias)
	if old, err := os.Readlink(path); err != nil || old != d.name {
		if taken, err := h.bus.knows(ctx, d.alias); err == nil && !taken {
			if _, err := h.files.pointTo(path, d.name); err != nil {
				return fmt.Errorf("name %s: %w", d.alias, err)
			}
		}
	}
	if changed {
		h.files.stale()
	}
	return h.files.touch()
}

// doors are the declarations of a service that there are units of, by their names without the kind.
func (f *files) doors(stem, mark string) []string {
	found := make(map[string]bool)
	entries, _ := os.ReadDir(f.units) // None is known then.
	for _, entry := range entries {
		rest, ours := strings.CutPrefix(entry.Name(), stem+"."+mark)
		id, _, _ := strings.Cut(rest, ".")
		if ours && entry.Type().IsRegular() && isHash(id) {
			found[stem+"."+mark+id] = true
		}
	}
	return slices.Sorted(maps.Keys(found))
}

func isHash(text string) bool { return len(text) == 16 && strings.Trim(text, "0123456789abcdef") == "" }

// removeDoor removes the files of a declaration, and the aliases that are its own.
func (f *files) removeDoor(stem string) error {
	var errs []error
	for _, kind := range []string{socketUnit, timerUnit, service} {
		errs = append(errs, removeFile(filepath.Join(f.units, stem+kind)))
	}
	for _, target := range []string{socketsTarget + ".wants/" + socketUnit, timersTarget + ".wants/" + timerUnit} {
		dir, kind := filepath.Split(target)
		errs = append(errs, removeFile(filepath.Join(f.units, dir, filepath.Base(stem)+kind)))
	}
	entries, _ := os.ReadDir(f.units) // It has none then.
	for _, entry := range entries {
		path := filepath.Join(f.units, entry.Name())
		if entry.Type() != os.ModeSymlink {
			continue
		}
		if target, err := os.Readlink(path); err == nil && strings.TrimSuffix(target, filepath.Ext(target)) == stem {
			errs = append(errs, removeFile(path))
		}
	}
	return errors.Join(append(errs, f.touch())...)
}
