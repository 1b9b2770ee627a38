package snapfile

import (
	"maps"
	"slices"

	"tenure"
)

// StartOrder are the services in an order that respects after and before; what
// these leave open is by name.
func (s *Snap) StartOrder() []*App {
	order, _ := startOrder(s.Apps)
	return order
}

// StopOrder is StartOrder reversed.
func (s *Snap) StopOrder() []*App {
	order := s.StartOrder()
	slices.Reverse(order)
	return order
}

// startOrder also gives the services that are in a cycle or behind one. Names
// that are no services do not count.
func startOrder(apps []App) (order []*App, stuck []tenure.App) {
	waits := predecessors(apps)
	for len(waits) > 0 {
		next := slices.IndexFunc(apps, func(a App) bool {
			pending, waiting := waits[a.Name]
			return waiting && len(pending) == 0
		})
		if next < 0 {
			break
		}
		app := &apps[next]
		order = append(order, app)
		delete(waits, app.Name)
		for _, pending := range waits {
			delete(pending, app.Name)
		}
	}
	return order, slices.Sorted(maps.Keys(waits))
}

// predecessors are, for each service, those that start before it.
func predecessors(apps []App) map[tenure.App]map[tenure.App]bool {
	waits := make(map[tenure.App]map[tenure.App]bool)
	for i := range apps {
		if apps[i].IsService() {
			waits[apps[i].Name] = make(map[tenure.App]bool)
		}
	}
	link := func(first, then tenure.App) {
		if waits[first] != nil && waits[then] != nil {
			waits[then][first] = true
		}
	}
	for i := range apps {
		for _, first := range apps[i].After {
			link(first, apps[i].Name)
		}
		for _, then := range apps[i].Before {
			link(apps[i].Name, then)
		}
	}
	return waits
}
