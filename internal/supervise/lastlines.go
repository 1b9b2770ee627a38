package supervise

import (
	"context"
	"time"

	"tenure"
)

// lastPatience is how long LastLines takes at most. The journal of a machine on which somebody writes as fast as they can may take
// as long as that lasts.
const lastPatience = time.Second

// LastLines are the last n lines that a unit wrote, as far as they can be read in a second, for who must not wait for them: services may
// be down meanwhile. Late is that there was no time for all of them. A supervisor that reads no logs has none.
func LastLines(ctx context.Context, s Supervisor, unit tenure.UnitID, n int) (lines []string, late bool) {
	logs, ok := s.(LogReader)
	if !ok {
		return nil, false
	}
	soon, cancel := context.WithTimeout(ctx, lastPatience)
	defer cancel()
	for line, err := range logs.Logs(soon, []tenure.UnitID{unit}, n, false) {
		if err != nil {
			break
		}
		lines = append(lines, line.Text)
	}
	return lines, soon.Err() != nil && ctx.Err() == nil
}
