package native

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"

	"tenure"
)

// errOrder is that units of one request wait for each other.
var errOrder = errors.New("units wait for each other in a circle")

// errNotTold is that a unit was not touched because another one failed.
var errNotTold = errors.New("not carried out after another unit failed")

// graph says for each unit of a request which others of it go first.
type graph map[tenure.UnitID][]tenure.UnitID

// startOrder leaves out of after what is not part of the request.
func startOrder(after map[tenure.UnitID][]tenure.UnitID) graph {
	g := make(graph, len(after))
	for unit, others := range after {
		g[unit] = nil
		for _, other := range others {
			if _, part := after[other]; part && other != unit {
				g[unit] = append(g[unit], other)
			}
		}
	}
	return g
}

// reverse is the order of ending: who starts after another ends before it.
func (g graph) reverse() graph {
	r := make(graph, len(g))
	for unit, others := range g {
		if _, known := r[unit]; !known {
			r[unit] = nil
		}
		for _, other := range others {
			r[other] = append(r[other], unit)
		}
	}
	return r
}

// check finds circles.
func (g graph) check() error {
	done := make(map[tenure.UnitID]bool, len(g))
	for len(done) < len(g) {
		before := len(done)
		for unit, others := range g {
			ready := true
			for _, other := range others {
				ready = ready && done[other]
			}
			if ready {
				done[unit] = true
			}
		}
		if len(done) == before {
			return fmt.Errorf("%w: %s", errOrder, g.rest(done))
		}
	}
	return nil
}

func (g graph) rest(done map[tenure.UnitID]bool) string {
	var names []string
	for unit := range g {
		if !done[unit] {
			names = append(names, unit.String())
		}
	}
	return strings.Join(names, ", ")
}

// walk calls act for every unit as soon as act has returned nil for all that go
// first, side by side where the order allows. After an error no further unit
// is begun, or, with independent, none that waits for the one that failed.
// It returns when all calls have, with the error of each unit that was not
// carried out well; those not begun have errNotTold.
func (g graph) walk(ctx context.Context, independent bool, act func(context.Context, tenure.UnitID) error) map[tenure.UnitID]error { //nolint:gocognit // One walk; its parts mean nothing alone.
	type outcome struct {
		done chan struct{}
		err  error
	}
	outcomes := make(map[tenure.UnitID]*outcome, len(g))
	for unit := range g {
		outcomes[unit] = &outcome{done: make(chan struct{})}
	}
	halt, cancel := context.WithCancel(ctx)
	defer cancel()
	var wg sync.WaitGroup
	for unit, o := range outcomes {
		wg.Go(func() {
			defer close(o.done)
			for _, other := range g[unit] {
				<-outcomes[other].done
				if outcomes[other].err != nil {
					o.err = errNotTold
					return
				}
			}
			if halt.Err() != nil {
				o.err = errNotTold
				if ctx.Err() != nil {
					o.err = context.Cause(ctx)
				}
				return
			}
			if o.err = act(ctx, unit); o.err != nil && !independent {
				cancel()
			}
		})
	}
	wg.Wait()
	errs := make(map[tenure.UnitID]error)
	for unit, o := range outcomes {
		if o.err != nil {
			errs[unit] = o.err
		}
	}
	return errs
}
