package supervisetest

import (
	"context"
	"iter"
	"slices"
	"time"

	"tenure"
	"tenure/internal/supervise"
)

// print writes what the program prints.
func (p *process) print() {
	for _, text := range p.program.Print {
		p.unit.log = append(p.unit.log, text)
		p.t.lines = append(p.t.lines, supervise.LogLine{Time: time.Now(), Unit: p.unit.status.Unit, PID: p.PID, Text: text})
	}
	close(p.t.printed)
	p.t.printed = make(chan struct{})
}

// Logs implements supervise.LogReader.
func (t *Twin) Logs(ctx context.Context, units []tenure.UnitID, n int, follow bool) iter.Seq2[supervise.LogLine, error] {
	return func(yield func(supervise.LogLine, error) bool) {
		for seen := 0; ; n = -1 {
			var lines []supervise.LogLine
			var printed chan struct{}
			t.do(func() { lines, seen, printed = slices.Clone(t.lines[seen:]), len(t.lines), t.printed })
			lines = slices.DeleteFunc(lines, func(l supervise.LogLine) bool { return !slices.Contains(units, l.Unit) })
			if n >= 0 {
				lines = lines[max(0, len(lines)-n):]
			}
			for _, line := range lines {
				if !yield(line, nil) {
					return
				}
			}
			if !follow {
				return
			}
			select {
			case <-ctx.Done():
				return
			case <-printed:
			}
		}
	}
}
