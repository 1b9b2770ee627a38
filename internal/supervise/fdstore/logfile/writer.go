package logfile

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"time"

	"tenure"
)

// Limits bound the log of one unit.
type Limits struct {
	// Segment is the size in bytes at which a new segment begins; 0 is 1 MiB. One
	// write more may fit in.
	Segment int64
	// Total is the size in bytes of all segments of a unit; 0 is 8 MiB. It is at least two
	// segments.
	Total int64
}

func (l Limits) withDefaults() Limits {
	if l.Segment <= 0 {
		l.Segment = 1 << 20
	}
	if l.Total <= 0 {
		l.Total = 8 << 20
	}
	l.Total = max(l.Total, 2*l.Segment)
	return l
}

// Writer appends to the log of one unit. A disk that is full or broken makes it
// drop lines, which it counts and reports in the log later; it never fails.
type Writer struct {
	dir    string
	limits Limits

	// mu orders writes to the file, which is the one thing it guards that takes time.
	mu      sync.Mutex
	file    *os.File
	number  int
	size    int64
	older   map[int]int64
	dropped int
	cause   error
	// abandoned is that nobody will read what is written.
	abandoned bool
}

// NewWriter makes the writer of a unit's log below dir. Nothing is created before
// the first line.
func NewWriter(dir string, unit tenure.UnitID, limits Limits) *Writer {
	return &Writer{dir: filepath.Join(dir, DirName(unit)), limits: limits.withDefaults()}
}

// Write appends lines made by AppendLine.
func (w *Writer) Write(lines []byte) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.abandoned {
		return
	}
	if w.dropped > 0 {
		report := AppendLine(nil, time.Now(), 0, fmt.Appendf(nil, "[%d lines dropped: %v]", w.dropped, w.cause), false)
		if _, err := w.append(report); err != nil {
			w.drop(lines, err)
			return
		}
		w.dropped, w.cause = 0, nil
	}
	if n, err := w.append(lines); err != nil {
		w.drop(lines[n:], err)
	}
}

// Dropped is the number of lines that were dropped and not yet reported.
func (w *Writer) Dropped() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.dropped
}

// Drop adds to the number of dropped lines: those that a predecessor has not reported.
func (w *Writer) Drop(n int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if n > 0 {
		w.dropped += n
		w.cause = cmpError(w.cause, errors.New("reported by an earlier holder"))
	}
}

// Abandon makes everything that is written from now on go nowhere.
func (w *Writer) Abandon() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.abandoned, w.dropped, w.cause = true, 0, nil
	w.close()
}

// Close closes the segment. The writer can be used again.
func (w *Writer) Close() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.close()
}

func (w *Writer) close() {
	if w.file != nil {
		_ = w.file.Close()
		w.file = nil
	}
}

func (w *Writer) drop(lines []byte, cause error) {
	w.dropped += bytes.Count(lines, []byte{'\n'})
	w.cause = cmpError(rootCause(cause), w.cause)
	w.close() // The next write begins with a fresh look at the directory.
}

// append writes lines and returns the length of those that are on disk whole.
func (w *Writer) append(lines []byte) (int, error) {
	if err := w.ready(); err != nil {
		return 0, err
	}
	n, err := w.file.Write(lines)
	if err != nil {
		whole := bytes.LastIndexByte(lines[:n], '\n') + 1
		_ = w.file.Truncate(w.size + int64(whole))
		n = whole
	}
	w.size += int64(n)
	return n, err //nolint:wrapcheck // Only its root cause is used.
}

// ready makes sure that there is an open segment with room in it.
func (w *Writer) ready() error {
	if w.file == nil {
		if err := w.open(); err != nil {
			return err
		}
	}
	if w.size < w.limits.Segment {
		return nil
	}
	next, err := w.create(w.number + 1)
	if err != nil {
		return err
	}
	w.close()
	w.older[w.number] = w.size
	w.file, w.number, w.size = next, w.number+1, 0
	w.trim()
	return nil
}

// open goes on with the newest segment, or begins the first.
func (w *Writer) open() error {
	if err := os.MkdirAll(w.dir, 0o750); err != nil {
		return err //nolint:wrapcheck // Only its root cause is used.
	}
	numbers, err := segments(w.dir)
	if err != nil {
		return err
	}
	w.number = 1
	w.older = map[int]int64{}
	for _, n := range numbers {
		if info, err := os.Stat(filepath.Join(w.dir, segmentName(n))); err == nil {
			w.older[n] = info.Size()
		}
		w.number = n
	}
	delete(w.older, w.number)
	w.file, err = w.create(w.number)
	if err != nil {
		return err
	}
	return w.repair()
}

// repair ends a last line that has no end, as a crash of the machine leaves it.
func (w *Writer) repair() error {
	info, err := w.file.Stat()
	if err != nil {
		return err //nolint:wrapcheck // Only its root cause is used.
	}
	w.size = info.Size()
	last := []byte{'\n'}
	if w.size > 0 {
		if _, err := w.file.ReadAt(last, w.size-1); err != nil {
			return err //nolint:wrapcheck // Only its root cause is used.
		}
	}
	if last[0] != '\n' {
		n, err := w.file.Write([]byte{'\n'})
		w.size += int64(n)
		return err //nolint:wrapcheck // Only its root cause is used.
	}
	return nil
}

func (w *Writer) create(number int) (*os.File, error) {
	if err := os.MkdirAll(w.dir, 0o750); err != nil {
		return nil, err //nolint:wrapcheck // Only its root cause is used.
	}
	return os.OpenFile(filepath.Join(w.dir, segmentName(number)), os.O_RDWR|os.O_APPEND|os.O_CREATE, 0o640) //nolint:wrapcheck // Only its root cause is used.
}

// trim deletes the oldest segments until a full one fits into what is left.
func (w *Writer) trim() {
	total := w.limits.Segment
	for _, size := range w.older {
		total += size
	}
	numbers, err := segments(w.dir)
	if err != nil {
		return
	}
	for _, n := range numbers {
		if total <= w.limits.Total || n >= w.number {
			return
		}
		if err := os.Remove(filepath.Join(w.dir, segmentName(n))); err != nil && !os.IsNotExist(err) {
			return
		}
		total -= w.older[n]
		delete(w.older, n)
	}
}

// rootCause is the part of err that stays the same from file to file.
func rootCause(err error) error {
	if failed, ok := errors.AsType[*fs.PathError](err); ok {
		return failed.Err
	}
	return err
}

// cmpError is a, or b where there is no a.
func cmpError(a, b error) error {
	if a != nil {
		return a
	}
	return b
}
