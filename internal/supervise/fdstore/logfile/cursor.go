package logfile

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"tenure"
	"tenure/internal/supervise"
)

const (
	firstBuffer = 4 << 10
	maxBuffer   = 2 * maxLine
	blockSize   = 64 << 10
)

// position is a place between two lines of a log.
type position struct {
	number int
	offset int64
}

// cursor reads the log of one unit forward. It holds the segment that it reads, and the next as
// soon as there is one, so that it goes on when both have been deleted.
type cursor struct {
	unit tenure.UnitID
	dir  string
	rank int // Breaks ties between logs.
	// at is where the next line begins; a number without a file is the least one to
	// be opened.
	at   position
	file *os.File
	next *os.File
	// nextNumber is the number of next. When there is a next nothing is appended to file.
	nextNumber int
	// end is where to stop, if bounded is set.
	end     position
	bounded bool
	// buf are the bytes of file from at on, as far as they have been read.
	buf []byte
	// size is how much to read at once: more after each read that was not enough.
	size int
	// line is the line that advance found.
	line supervise.LogLine
	// restart tells that the directory was deleted: after this file comes a first one.
	restart bool
}

func newCursor(dir string, unit tenure.UnitID) *cursor {
	return &cursor{unit: unit, dir: filepath.Join(dir, DirName(unit))}
}

// advance finds the next line; false is that there is none yet.
func (c *cursor) advance() (bool, error) {
	for {
		switch {
		case c.bounded && c.reached(), c.file == nil && !c.openFirst():
			return false, nil
		case c.takeLine():
			return true, nil
		}
		if c.next == nil {
			c.openNext()
		}
		sealed := c.next != nil || c.restart
		n, err := c.more()
		switch {
		case err != nil:
			return false, err
		case n > 0: // Perhaps a line.
		case !sealed:
			c.buf, c.size = nil, 0 // An idle log needs no memory.
			return false, nil
		case c.leave():
			return true, nil
		}
	}
}

func (c *cursor) reached() bool {
	return c.at.number > c.end.number || c.at.number == c.end.number && c.at.offset >= c.end.offset
}

// takeLine takes a whole line from the buffer, or what is too long for one.
func (c *cursor) takeLine() bool {
	at := bytes.IndexByte(c.buf, '\n')
	if at < 0 {
		if len(c.buf) < maxBuffer {
			return false
		}
		at = len(c.buf) - 1
	}
	c.line = parseLine(c.unit, bytes.TrimSuffix(c.buf[:at+1], []byte{'\n'}))
	c.at.offset += int64(at + 1)
	c.line.Place = c.place()
	c.buf = c.buf[at+1:]
	return true
}

func (c *cursor) place() supervise.LogPlace {
	return supervise.LogPlace{Segment: c.at.number, End: c.at.offset}
}

// more reads on behind the buffer.
func (c *cursor) more() (int, error) {
	if cap(c.buf)-len(c.buf) < firstBuffer/2 {
		c.size = max(c.size, firstBuffer)
		grown := make([]byte, len(c.buf), len(c.buf)+c.size)
		copy(grown, c.buf)
		c.buf = grown
		c.size = min(2*c.size, blockSize)
	}
	n, err := c.file.ReadAt(c.buf[len(c.buf):cap(c.buf)], c.at.offset+int64(len(c.buf)))
	c.buf = c.buf[:len(c.buf)+n]
	if err != nil && !errors.Is(err, io.EOF) {
		return n, fmt.Errorf("read log of %s: %w", c.unit, err)
	}
	return n, nil
}

// openFirst opens the oldest segment from at.number on.
func (c *cursor) openFirst() bool {
	if c.restart {
		c.restart, c.at = false, position{}
	}
	f, number := c.openFrom(c.at.number)
	if f == nil {
		return false
	}
	if number != c.at.number {
		c.at = position{number: number}
	}
	c.file = f
	return true
}

// openNext opens the segment after this one, if there is one.
func (c *cursor) openNext() {
	if c.restart {
		return
	}
	if f, err := os.Open(filepath.Join(c.dir, segmentName(c.at.number+1))); err == nil {
		c.next, c.nextNumber = f, c.at.number+1
		return
	}
	c.next, c.nextNumber = c.openFrom(c.at.number + 1)
}

// openFrom opens the oldest segment that has at least that number. When it is deleted meanwhile
// the one after it is.
func (c *cursor) openFrom(number int) (*os.File, int) {
	for {
		numbers, err := settled(c.dir)
		at, _ := slices.BinarySearch(numbers, number)
		if err != nil || at == len(numbers) {
			return nil, 0
		}
		found := numbers[at]
		f, err := os.Open(filepath.Join(c.dir, segmentName(found)))
		if err == nil {
			return f, found
		}
		if !errors.Is(err, fs.ErrNotExist) {
			return nil, 0
		}
		number = found + 1
	}
}

// leave goes on to the next segment. It reports whether there is a line about what
// is missing between both.
func (c *cursor) leave() bool {
	rest := c.buf
	lost := 0
	_ = c.file.Close()
	c.file, c.buf = nil, nil
	if c.next != nil {
		lost = c.nextNumber - c.at.number - 1
		c.file, c.next = c.next, nil
		c.at = position{number: c.nextNumber}
	} else {
		c.restart, c.at = false, position{}
	}
	switch {
	case len(rest) > 0:
		c.line = parseLine(c.unit, rest)
		c.line.Place = c.place()
		return true
	case lost > 0:
		c.line = supervise.LogLine{Time: c.line.Time, Unit: c.unit, Text: fmt.Sprintf("[%d segments lost: deleted before they were read]", lost), Place: c.place()}
		return true
	}
	return false
}

// close gives up the files.
func (c *cursor) close() {
	for _, f := range []*os.File{c.file, c.next} {
		if f != nil {
			_ = f.Close()
		}
	}
}
