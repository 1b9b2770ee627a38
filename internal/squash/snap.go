package squash

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"tenure/internal/snapfile"
)

// CheckSnap tells whether entries are those of a snap that info describes: they
// pass Check, and the programs of its apps are there. It is asked before a snap
// file is built as before one is installed, so that nobody builds what nobody can
// install. Its errors are of the kind ErrForbidden, but for those about programs.
func CheckSnap(info *snapfile.Snap, entries []Entry) error {
	options := CheckOptions{
		Base:    info.Type == snapfile.TypeBase || info.Type == snapfile.TypeOS,
		Classic: info.Confinement == snapfile.Classic,
	}
	if err := Check(entries, options); err != nil {
		return err
	}
	files := make(map[string]Entry, len(entries))
	for _, entry := range entries {
		files[entry.Path] = entry
	}
	for i := range info.Apps {
		if err := checkPrograms(&info.Apps[i], files); err != nil {
			return err
		}
	}
	return nil
}

// checkPrograms finds the programs of an app before something is stopped for a
// revision that cannot start.
func checkPrograms(app *snapfile.App, files map[string]Entry) error {
	commands := []snapfile.Command{app.Command, app.StopCommand, app.PostStopCommand, app.ReloadCommand}
	commands = append(commands, app.CommandChain...)
	for i := range app.Lifecycle.Workloads {
		commands = append(commands, app.Lifecycle.Workloads[i].StopCommand)
	}
	for _, command := range commands {
		if len(command) == 0 {
			continue
		}
		entry, found := files[command[0]]
		switch {
		case !found && throughLink(command[0], files):
		case !found:
			return fmt.Errorf("app %s: there is no file %.100q in the snap", app.Name, command[0])
		case entry.Mode.IsDir():
			return fmt.Errorf("app %s: %.100q is a directory", app.Name, command[0])
		case entry.Mode.IsRegular() && entry.Mode&0o111 == 0:
			return fmt.Errorf("app %s: the file %.100q is not executable", app.Name, command[0])
		}
	}
	return nil
}

// throughLink reports whether a parent of path is a symbolic link, so that only
// the unit itself can tell what is there.
func throughLink(name string, files map[string]Entry) bool {
	for i, r := range name {
		if r == '/' && files[name[:i]].Target != "" {
			return true
		}
	}
	return false
}

// ListDir returns everything in a directory, as List would return it from the
// snap file that Build makes of it: the root comes first, and everybody may enter
// it, whatever its mode is here.
func ListDir(dir string) ([]Entry, error) {
	dir, err := realDir(dir)
	if err != nil {
		return nil, err
	}
	var entries []Entry
	err = filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		entry, err := entryAt(dir, path, d)
		entries = append(entries, entry)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("list directory %s: %w", dir, err)
	}
	return entries, nil
}

func entryAt(dir, path string, d fs.DirEntry) (Entry, error) {
	info, err := d.Info()
	if err != nil {
		return Entry{}, err
	}
	rel, err := filepath.Rel(dir, path)
	if err != nil {
		return Entry{}, err
	}
	entry := Entry{Path: rel, Mode: info.Mode(), Size: info.Size()}
	if rel == "." {
		entry.Mode = fs.ModeDir | 0o755
	}
	if info.Mode()&fs.ModeSymlink != 0 {
		entry.Target, err = os.Readlink(path)
	}
	return entry, err
}
