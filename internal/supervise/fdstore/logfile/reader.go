package logfile

import (
	"container/heap"
	"context"
	"iter"

	"tenure"
	"tenure/internal/supervise"
)

// Reader reads the logs below a directory. It is a supervise.LogReader.
type Reader struct{ dir string }

var _ supervise.LogReader = Reader{}

// NewReader reads the logs below dir, which need not exist yet.
func NewReader(dir string) Reader { return Reader{dir: dir} }

// Logs yields the last n lines of units together, or all when n is negative, in order of time; and with
// follow every further line until ctx ends. A unit without a log has no lines. After an
// error that log, or all, may be incomplete; the sequence ends with it.
//
// A follower that is slower than the writers sees all the same every line of the segment
// that it reads and of the next one, even when they are deleted, and then a line of pid 0
// that says how many segments are missing.
func (r Reader) Logs(ctx context.Context, units []tenure.UnitID, n int, follow bool) iter.Seq2[supervise.LogLine, error] {
	return func(yield func(supervise.LogLine, error) bool) {
		m := merge{yield: yield}
		for _, u := range units {
			c := newCursor(r.dir, u)
			c.rank = len(m.all)
			m.all = append(m.all, c)
		}
		defer m.close()
		if err := m.run(ctx, r.dir, n, follow); err != nil && ctx.Err() == nil {
			yield(supervise.LogLine{}, err)
		}
	}
}

// merge yields the lines of several logs in order of time. The heap has those that have one.
type merge struct {
	all   []*cursor
	heap  cursors
	skip  int
	yield func(supervise.LogLine, error) bool
}

func (m *merge) run(ctx context.Context, dir string, n int, follow bool) error {
	var w *watcher
	if follow {
		var err error
		if w, err = newWatcher(dir, m.all); err != nil {
			return err
		}
		defer w.close()
	}
	total := 0
	for _, c := range m.all {
		lines, err := c.seekLast(n)
		if err != nil {
			return err
		}
		total += lines
	}
	if n >= 0 {
		m.skip = max(0, total-n)
	}
	changed := m.all
	for {
		if more, err := m.drain(ctx, changed); !more || err != nil || !follow {
			return err
		}
		if m.unbound() {
			changed = m.all
			continue
		}
		var err error
		if changed, err = w.wait(ctx); err != nil {
			return err
		}
	}
}

// unbound lets the cursors go on behind what was there in the beginning, and reports
// whether they were not yet allowed to.
func (m *merge) unbound() bool {
	bounded := false
	for _, c := range m.all {
		bounded = bounded || c.bounded
		c.bounded = false
	}
	m.skip = 0
	return bounded
}

// drain yields all lines of the logs that have changed. False is that the consumer has
// enough.
func (m *merge) drain(ctx context.Context, changed []*cursor) (bool, error) {
	for _, c := range changed {
		if err := m.push(c); err != nil {
			return false, err
		}
	}
	for len(m.heap) > 0 {
		if ctx.Err() != nil {
			return false, nil //nolint:nilerr // The end of the context is the end of the sequence.
		}
		c := m.heap[0]
		if m.skip > 0 {
			m.skip--
		} else if !m.yield(c.line, nil) {
			return false, nil
		}
		more, err := c.advance()
		if err != nil {
			return false, err
		}
		if more {
			heap.Fix(&m.heap, 0)
		} else {
			heap.Pop(&m.heap)
		}
	}
	return true, nil
}

// push adds a log to the heap if there is a line in it.
func (m *merge) push(c *cursor) error {
	more, err := c.advance()
	if more {
		heap.Push(&m.heap, c)
	}
	return err
}

func (m *merge) close() {
	for _, c := range m.all {
		c.close()
	}
}

// cursors is a heap of logs by the time of their next line; at one time, in the order in which
// they were asked for.
type cursors []*cursor //nolint:recvcheck // As package heap wants it.

func (s cursors) Len() int      { return len(s) }
func (s cursors) Swap(i, j int) { s[i], s[j] = s[j], s[i] }
func (s cursors) Less(i, j int) bool {
	if order := s[i].line.Time.Compare(s[j].line.Time); order != 0 {
		return order < 0
	}
	return s[i].rank < s[j].rank
}

// Push is for package heap.
func (s *cursors) Push(x any) {
	if c, ok := x.(*cursor); ok {
		*s = append(*s, c)
	}
}

// Pop is for package heap.
func (s *cursors) Pop() any {
	last := len(*s) - 1
	c := (*s)[last]
	*s = (*s)[:last]
	return c
}
