package logfile

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"tenure"
)

const (
	suffix = ".log"
	digits = 8
)

// DirName is the name of a unit's directory: its text form with "/" written as "+", "~" as
// "=" and "@" as ",", none of which occurs in the name of a unit.
func DirName(unit tenure.UnitID) string {
	return strings.NewReplacer("/", "+", "~", "=", "@", ",").Replace(unit.String())
}

// ParseDirName is the unit that a directory belongs to.
func ParseDirName(name string) (tenure.UnitID, error) {
	if strings.ContainsAny(name, "/~@") {
		return tenure.UnitID{}, fmt.Errorf("%w: log directory %q", tenure.ErrName, name)
	}
	unit, err := tenure.ParseUnit(strings.NewReplacer("+", "/", "=", "~", ",", "@").Replace(name))
	if err != nil {
		return tenure.UnitID{}, fmt.Errorf("log directory %q: %w", name, err)
	}
	return unit, nil
}

// Remove deletes the log of a unit. What is still being written goes nowhere
// until the next segment begins.
func Remove(dir string, unit tenure.UnitID) error {
	if unit.IsZero() {
		return fmt.Errorf("remove log: %w: no unit", tenure.ErrName)
	}
	if err := os.RemoveAll(filepath.Join(dir, DirName(unit))); err != nil {
		return fmt.Errorf("remove log of %s: %w", unit, err)
	}
	return nil
}

// RemoveAll deletes the logs of all units of a snap.
func RemoveAll(dir string, snap tenure.Instance) error {
	entries, err := os.ReadDir(dir)
	if err != nil && !os.IsNotExist(err) {
		return fmt.Errorf("remove logs of %s: %w", snap, err)
	}
	var failures []error
	for _, entry := range entries {
		if unit, err := ParseDirName(entry.Name()); err == nil && unit.Snap == snap {
			failures = append(failures, Remove(dir, unit))
		}
	}
	return errors.Join(failures...)
}

// segmentName is the file name of a segment; numbers of more than eight digits are longer.
func segmentName(number int) string { return fmt.Sprintf("%0*d%s", digits, number, suffix) }

func parseSegmentName(name string) (number int, ok bool) {
	s, found := strings.CutSuffix(name, suffix)
	number, err := strconv.Atoi(s)
	return number, found && err == nil && number > 0 && segmentName(number) == name
}

// segments are the numbers of the segments in dir, oldest first. A directory that
// does not exist has none.
func segments(dir string) ([]int, error) {
	entries, err := os.ReadDir(dir)
	if os.IsNotExist(err) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list log segments: %w", err)
	}
	var numbers []int
	for _, e := range entries {
		if n, ok := parseSegmentName(e.Name()); ok {
			numbers = append(numbers, n)
		}
	}
	slices.Sort(numbers)
	return numbers, nil
}

// settled are the segments in dir, without holes though segments may be made meanwhile: a listing
// may miss one and yet have a later one. Whatever is older than what one listing has is in the
// next.
func settled(dir string) ([]int, error) {
	first, err := segments(dir)
	if err != nil || len(first) == 0 {
		return nil, err
	}
	newest := first[len(first)-1]
	numbers, err := segments(dir)
	return slices.DeleteFunc(numbers, func(n int) bool { return n > newest }), err
}
