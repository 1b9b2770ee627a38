// Command elfcheck says which shared libraries a file tree lacks.
//
// It looks at every ELF file of the first tree given, and finds what they link
// in that tree or in one of the others (the base that the tree will run on).
// It exits with 1 after naming each library that is in none. Nothing is run.
//
//nolint:forbidigo // The whole program is its main: it reads and ends its own process.
package main

import (
	"debug/elf"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

func main() {
	if len(os.Args) < 2 {
		fmt.Fprintln(os.Stderr, "usage: elfcheck TREE [BASE...]")
		os.Exit(2)
	}
	missing, err := check(os.Args[1], os.Args[2:])
	if err != nil {
		fmt.Fprintln(os.Stderr, "elfcheck:", err)
		os.Exit(1)
	}
	for _, line := range missing {
		fmt.Fprintln(os.Stderr, "elfcheck:", line)
	}
	if len(missing) > 0 {
		os.Exit(1)
	}
}

// check returns one line for each library that files of tree link and that is
// neither in tree nor in bases.
func check(tree string, bases []string) ([]string, error) {
	have := make(map[string]bool)
	users := make(map[string]string)
	for _, root := range append([]string{tree}, bases...) {
		err := walk(root, func(path string) error {
			have[filepath.Base(path)] = true
			if root != tree {
				return nil
			}
			needed, err := libraries(path)
			for _, name := range needed {
				users[name] = path
			}
			return err
		})
		if err != nil {
			return nil, err
		}
	}
	var missing []string
	for name, user := range users {
		if !have[name] {
			missing = append(missing, fmt.Sprintf("%s: needed by %s, in no tree", name, user))
		}
	}
	slices.Sort(missing)
	return missing, nil
}

// walk calls visit for every file and symlink that may be a program or a library.
func walk(root string, visit func(path string) error) error {
	err := filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if entry.Type().IsRegular() || entry.Type() == fs.ModeSymlink && strings.Contains(path, ".so") {
			return visit(path)
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("walk %s: %w", root, err)
	}
	return nil
}

// libraries are the names that the ELF file at path links; none for any other file.
func libraries(path string) ([]string, error) {
	file, err := elf.Open(path)
	if _, notELF := errors.AsType[*elf.FormatError](err); notELF || errors.Is(err, io.EOF) || errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", path, err)
	}
	needed, err := file.ImportedLibraries()
	if err := errors.Join(err, file.Close()); err != nil {
		return nil, fmt.Errorf("read %s: %w", path, err)
	}
	return needed, nil
}
