// Package guest reads what the guest of the example package virt leaves
// behind: the counter on its disk and on its serial line.
//
// The counter never goes back; the disk has it before the line. The functions
// only read and may be called while the machine runs.
package guest

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
)

// sector is where the state is on the disk, and how long it is, in bytes.
const sector = 512

// State is the guest's state on its disk.
type State struct {
	Counter uint32
	// Clean is true after the guest has switched the machine off itself.
	Clean bool
}

// ReadDisk reads the state from the disk image at path. A disk whose machine
// was never booted has the zero state.
func ReadDisk(path string) (State, error) {
	file, err := os.Open(path)
	if err != nil {
		return State{}, fmt.Errorf("read the disk: %w", err)
	}
	defer file.Close() //nolint:errcheck // Only read.
	state := make([]byte, sector)
	if _, err := file.ReadAt(state, sector); err != nil {
		return State{}, fmt.Errorf("read the disk %s: %w", path, err)
	}
	if bytes.Equal(state[:8], make([]byte, 8)) {
		return State{}, nil
	}
	if string(state[:8]) != "TENURE01" {
		return State{}, fmt.Errorf("disk %s: state begins with %q, want TENURE01", path, state[:8])
	}
	return State{
		Counter: binary.LittleEndian.Uint32(state[8:]),
		Clean:   binary.LittleEndian.Uint32(state[12:]) == 1,
	}, nil
}

// Line is the story that a serial line tells.
type Line struct {
	// Boots is how often the machine was booted, Halts how often the guest
	// switched it off.
	Boots, Halts int
	// Counter is the last value.
	Counter uint32
	// Ticks is how often it was counted up.
	Ticks int
}

// ErrStepBack is the kind of errors about a counter that did not go on by one.
var ErrStepBack = errors.New("the counter did not go on by one")

// ReadLine follows the counter over the whole serial line at path and fails
// where it did not go on by exactly one with each tick, or did not go on from
// the disk after a boot. An unfinished last line is left out.
func ReadLine(path string) (Line, error) {
	file, err := os.Open(path)
	if err != nil {
		return Line{}, fmt.Errorf("read the serial line: %w", err)
	}
	defer file.Close() //nolint:errcheck // Only read.
	var line Line
	reader := bufio.NewReader(file)
	for {
		text, err := reader.ReadString('\n')
		if errors.Is(err, io.EOF) {
			return line, nil
		}
		if err != nil {
			return line, fmt.Errorf("read the serial line: %w", err)
		}
		if err := line.add(strings.TrimSuffix(text, "\n")); err != nil {
			return line, fmt.Errorf("serial line %s: %w", path, err)
		}
	}
}

func (l *Line) add(text string) error {
	word, digits, _ := strings.Cut(text, " ")
	value, err := strconv.ParseUint(digits, 10, 32)
	if err != nil {
		return fmt.Errorf("line %q: %w", text, err)
	}
	counter := uint32(value)
	switch word {
	case "boot":
		// A machine that was killed may have counted on the disk only.
		if l.Boots > 0 && counter != l.Counter && counter != l.Counter+1 {
			return fmt.Errorf("%w: %q after %d", ErrStepBack, text, l.Counter)
		}
		l.Boots++
	case "tick":
		if counter != l.Counter+1 {
			return fmt.Errorf("%w: %q after %d", ErrStepBack, text, l.Counter)
		}
		l.Ticks++
	case "halt":
		if counter != l.Counter {
			return fmt.Errorf("%w: %q after %d", ErrStepBack, text, l.Counter)
		}
		l.Halts++
	default:
		return fmt.Errorf("line %q: want boot, tick or halt", text)
	}
	l.Counter = counter
	return nil
}
