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
)

// seekLast bounds the cursor at the end of the log as it is now, and puts it n lines before, or
// at the beginning when n is negative. It returns how many lines there are between
// both, at most n; or 0 when n is negative.
func (c *cursor) seekLast(n int) (int, error) {
	numbers, err := settled(c.dir)
	if err != nil {
		return 0, err
	}
	c.bounded = true
	if len(numbers) == 0 {
		return 0, nil
	}
	c.end.number = numbers[len(numbers)-1]
	c.at.number = numbers[0]
	total := 0
	block := make([]byte, blockSize)
	for i, number := range slices.Backward(numbers) {
		lines, err := c.seekSegment(number, n-total, block)
		if errors.Is(err, fs.ErrNotExist) {
			break // Deleted meanwhile, and all older ones with it.
		}
		if err != nil {
			return 0, fmt.Errorf("read log of %s: %w", c.unit, err)
		}
		total += lines
		if n < 0 || total >= n || i == 0 {
			break
		}
	}
	return total, nil
}

// seekSegment puts the cursor n lines before the end of a segment, or at its beginning when it
// has fewer, and returns how many there are. When n is negative it only finds the end.
func (c *cursor) seekSegment(number, n int, block []byte) (int, error) {
	f, err := os.Open(filepath.Join(c.dir, segmentName(number)))
	if err != nil {
		return 0, err //nolint:wrapcheck // The caller does.
	}
	b := backward{file: f, block: block}
	lines, err := b.skip(n)
	if err == nil && number == c.end.number {
		c.end.offset = b.end
	}
	if err != nil || n < 0 {
		_ = f.Close()
		return 0, err
	}
	c.hold(f, number, b.start)
	return lines, nil
}

// hold makes f the segment to read.
func (c *cursor) hold(f *os.File, number int, offset int64) {
	if c.file != nil {
		_ = c.file.Close()
	}
	c.file, c.at = f, position{number: number, offset: offset}
}

// backward looks for lines from the end of a segment.
type backward struct {
	file  *os.File
	block []byte
	start int64 // Where the first of the lines begins.
	end   int64 // After the last whole line.
}

// skip goes n whole lines back, or to the beginning when there are fewer or n is
// negative, and returns how many it found.
func (b *backward) skip(n int) (int, error) {
	info, err := b.file.Stat()
	if err != nil {
		return 0, err //nolint:wrapcheck // The caller does.
	}
	lines := 0
	ended := false
	for at := info.Size(); at > 0; {
		from := max(0, at-int64(len(b.block)))
		block := b.block[:at-from]
		if _, err := b.file.ReadAt(block, from); err != nil && !errors.Is(err, io.EOF) {
			return 0, err //nolint:wrapcheck // The caller does.
		}
		for len(block) > 0 {
			newline := bytes.LastIndexByte(block, '\n')
			if newline < 0 {
				break
			}
			after := from + int64(newline) + 1
			switch {
			case !ended:
				b.end, ended = after, true
			default:
				lines++
			}
			if lines == n || n < 0 {
				b.start = after
				return max(0, lines), nil
			}
			block = block[:newline]
		}
		at = from
	}
	b.start = 0
	if ended {
		lines++ // The first line, which no newline precedes.
	}
	return lines, nil
}
