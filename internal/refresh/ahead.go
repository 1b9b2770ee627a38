package refresh

import (
	"context"
	"sync"

	"tenure"
	"tenure/internal/sandbox"
	"tenure/internal/snapfile"
)

// aheads bring programs of revisions into memory, while what comes before their start goes on: who starts them then
// waits neither for the disk nor for what decompresses them. The zero value is ready for use.
type aheads struct {
	mu sync.Mutex
	of map[tenure.Ref]*ahead
}

// ahead is what goes on for one revision, which keeps its mount in use until done is closed.
type ahead struct {
	stop context.CancelFunc
	done chan struct{}
}

// begin has the programs of a revision that is mounted at dir read, and does not wait for that.
func (a *aheads) begin(ref tenure.Ref, dir string, programs []string) {
	if len(programs) == 0 {
		return
	}
	a.end(ref)
	ctx, stop := context.WithCancel(context.Background())
	one := &ahead{stop, make(chan struct{})}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.of == nil {
		a.of = make(map[tenure.Ref]*ahead)
	}
	a.of[ref] = one
	go func() {
		defer close(one.done)
		sandbox.ReadAhead(ctx, dir, programs...)
	}()
}

// wait returns when all of a revision is read that is to be.
func (a *aheads) wait(ctx context.Context, ref tenure.Ref) {
	a.mu.Lock()
	one := a.of[ref]
	a.mu.Unlock()
	if one == nil {
		return
	}
	select {
	case <-one.done:
	case <-ctx.Done():
	}
}

// end returns when nobody reads anything of a revision any more.
func (a *aheads) end(ref tenure.Ref) {
	a.mu.Lock()
	one := a.of[ref]
	delete(a.of, ref)
	a.mu.Unlock()
	if one != nil {
		one.stop()
		<-one.done
	}
}

// starting are the programs of the services of a revision that its refresh or install is going to start, as far as that
// can be told before it is decided.
func starting(info *snapfile.Snap) (programs []string) {
	seen := map[string]bool{}
	for i := range info.Apps {
		app := &info.Apps[i]
		if !app.StartsOnInstall() || app.Lifecycle.Refresh == tenure.Endure || app.Lifecycle.Refresh == tenure.Defer {
			continue
		}
		for _, command := range append(append([]snapfile.Command{}, app.CommandChain...), app.Command) {
			if len(command) > 0 && !seen[command[0]] {
				seen[command[0]] = true
				programs = append(programs, command[0])
			}
		}
	}
	return programs
}
