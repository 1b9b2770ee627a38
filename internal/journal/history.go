package journal

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"tenure"
)

// Event is something that happened, for the record.
type Event struct {
	Time time.Time `json:"time"`
	// Kind is a short word, such as "signal" or "ended".
	Kind string          `json:"kind"`
	Snap tenure.Instance `json:"snap,omitempty"`
	// Unit is the unit that it happened to, if it happened to one.
	Unit tenure.UnitID `json:"unit,omitzero"`
	// Data says more, as its kind defines.
	Data json.RawMessage `json:"data,omitempty"`
}

// HistoryConfig is what a History is made of.
type HistoryConfig struct {
	// Dir is the directory of the segments; it is made if it is not there. Required.
	Dir string
	// SegmentSize is how large a segment may become, by default 1 MiB, and Segments
	// how many are kept, by default 8.
	SegmentSize int64
	Segments    int
	// SyncEvery is how long what was appended may be in memory alone, where the end of
	// the machine, but not that of the daemon, loses it; by default one second.
	SyncEvery time.Duration
	// Logger hears when it cannot be synced; by default nobody does.
	Logger *slog.Logger
}

const (
	defaultSegmentSize = 1 << 20
	defaultSegments    = 8
	defaultSyncEvery   = time.Second
	// maxEvent bounds what is written and read as one event.
	maxEvent = 1 << 20
)

// History is the log of what has happened, in files of its own: DIR/NUMBER.jsonl, one
// line of JSON for each Event, the oldest file of which goes when there are too many.
//
// It is apart from the DB because it must never make anybody wait for the disk: what
// Append has returned from survives the daemon, whatever ends that, and after SyncEvery
// the machine. What it has may be lost in a whole line, and never in half of one: a
// reader passes over what is no event.
type History struct {
	cfg HistoryConfig
	// news has an element when there is something to be synced.
	news chan struct{}

	mu     sync.Mutex
	file   *os.File
	number int
	size   int64
	// torn is that the last line may have no end.
	torn bool
}

const segmentSuffix = ".jsonl"

// OpenHistory opens a history, or begins one. Nobody else may have it open for
// appending.
func OpenHistory(cfg HistoryConfig) (*History, error) {
	cfg.SegmentSize = cmp.Or(cfg.SegmentSize, defaultSegmentSize)
	cfg.Segments = cmp.Or(cfg.Segments, defaultSegments)
	cfg.SyncEvery = cmp.Or(cfg.SyncEvery, defaultSyncEvery)
	cfg.Logger = cmp.Or(cfg.Logger, slog.New(slog.DiscardHandler))
	h := &History{cfg: cfg, news: make(chan struct{}, 1)}
	if err := os.MkdirAll(cfg.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("open history: %w", err)
	}
	numbers, err := h.segments()
	if err != nil {
		return nil, err
	}
	h.number = 1
	if len(numbers) > 0 {
		h.number = numbers[len(numbers)-1]
	}
	if err := h.open(); err != nil {
		return nil, err
	}
	// A line without its end is what the power left, or an event that begins here.
	h.torn = h.size > 0
	return h, nil
}

// Close syncs the history and closes it.
func (h *History) Close() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if err := errors.Join(h.file.Sync(), h.file.Close()); err != nil {
		return fmt.Errorf("close history: %w", err)
	}
	return nil
}

// errLarge is that an event is longer than what is read as one.
var errLarge = fmt.Errorf("it has more than %d bytes", maxEvent)

// Append adds events, in one write, or none of them. Those without a Time get the present
// one, those with a Unit its Snap.
func (h *History) Append(events ...Event) error {
	var lines bytes.Buffer
	now := time.Now()
	for _, e := range events {
		if e.Time.IsZero() {
			e.Time = now
		}
		if e.Snap == "" {
			e.Snap = e.Unit.Snap
		}
		line, err := json.Marshal(e)
		if err == nil && len(line) >= maxEvent {
			err = errLarge
		}
		if err != nil {
			return fmt.Errorf("append event %s: %w", e.Kind, err)
		}
		lines.Write(line)
		lines.WriteByte('\n')
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if err := h.write(lines.Bytes()); err != nil {
		return fmt.Errorf("append to history: %w", err)
	}
	select {
	case h.news <- struct{}{}:
	default:
	}
	return nil
}

func (h *History) write(lines []byte) error {
	if h.size > 0 && h.size+int64(len(lines)) > h.cfg.SegmentSize {
		if err := h.rotate(); err != nil {
			return err
		}
	}
	if h.torn {
		lines = append([]byte{'\n'}, lines...)
	}
	n, err := h.file.Write(lines)
	h.size += int64(n)
	h.torn = err != nil
	return err
}

// rotate begins the next segment, and drops the oldest.
func (h *History) rotate() error {
	full := h.file
	h.number++
	if err := h.open(); err != nil {
		h.number--
		h.file = full
		return err
	}
	h.torn = false
	// It is on its way to the disk already, and nobody waits for the rest.
	go func() { _ = errors.Join(full.Sync(), full.Close()) }()
	numbers, err := h.segments()
	if err != nil {
		return err
	}
	for len(numbers) > h.cfg.Segments {
		if err := os.Remove(h.path(numbers[0])); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		numbers = numbers[1:]
	}
	return nil
}

func (h *History) open() error {
	file, err := os.OpenFile(h.path(h.number), os.O_CREATE|os.O_WRONLY|os.O_APPEND, fileMode)
	if err != nil {
		return fmt.Errorf("open history: %w", err)
	}
	info, err := file.Stat()
	if err != nil {
		return errors.Join(fmt.Errorf("open history: %w", err), file.Close())
	}
	h.file, h.size = file, info.Size()
	return nil
}

func (h *History) path(number int) string {
	return filepath.Join(h.cfg.Dir, fmt.Sprintf("%08d%s", number, segmentSuffix))
}

// segments are the numbers of the files, the oldest first.
func (h *History) segments() ([]int, error) {
	entries, err := os.ReadDir(h.cfg.Dir)
	if err != nil {
		return nil, fmt.Errorf("read history: %w", err)
	}
	var numbers []int
	for _, entry := range entries {
		name, ok := strings.CutSuffix(entry.Name(), segmentSuffix)
		number, err := strconv.Atoi(name)
		// Another way to write a number names no segment.
		if ok && err == nil && number > 0 && entry.Name() == filepath.Base(h.path(number)) {
			numbers = append(numbers, number)
		}
	}
	slices.Sort(numbers)
	return numbers, nil
}

// Run syncs what is appended, until ctx ends.
func (h *History) Run(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-h.news:
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(h.cfg.SyncEvery):
		}
		h.mu.Lock()
		file := h.file
		h.mu.Unlock()
		// It is synced by rotate when it is closed in between.
		if err := file.Sync(); err != nil && !errors.Is(err, os.ErrClosed) {
			h.cfg.Logger.Error("cannot sync the history", slog.Any("error", err))
		}
	}
}

// Read are the events that keep says yes to, the oldest first; all if it is nil.
func (h *History) Read(keep func(Event) bool) ([]Event, error) {
	numbers, err := h.segments()
	if err != nil {
		return nil, err
	}
	var events []Event
	for _, number := range numbers {
		raw, err := os.ReadFile(h.path(number))
		if errors.Is(err, fs.ErrNotExist) {
			continue // It was the oldest, and has gone just now.
		}
		if err != nil {
			return nil, fmt.Errorf("read history: %w", err)
		}
		for line := range bytes.Lines(raw) {
			if e, ok := decodeEvent(line); ok && (keep == nil || keep(e)) {
				events = append(events, e)
			}
		}
	}
	return events, nil
}

// decodeEvent reads one line. One that is half written is none.
func decodeEvent(line []byte) (e Event, ok bool) {
	if len(line) > maxEvent || !bytes.HasSuffix(line, []byte{'\n'}) {
		return Event{}, false
	}
	err := json.Unmarshal(line, &e)
	return e, err == nil && e.Kind != ""
}
