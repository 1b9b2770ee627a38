package snapfile

import (
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

// startOrder also gives the services that are in a cycle or behind one.
func startOrder(apps []App) (order []*App, stuck []tenure.App) {
	waits := make(map[tenure.App]map[tenure.App]bool)
	for i := range apps {
		if apps[i].IsService() {
			waits[apps[i].Name] = make(map[tenure.App]bool)
		}
	}
	for i := range apps {
		app := &apps[i]
		for _, first := range app.After {
			if waits[app.Name] != nil && waits[first] != nil {
				waits[app.Name][first] = true
			}
		}
		for _, then := range app.Before {
			if waits[app.Name] != nil && waits[then] != nil {
				waits[then][app.Name] = true
			}
		}
	}
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
	for i := range apps {
		if _, left := waits[apps[i].Name]; left {
			stuck = append(stuck, apps[i].Name)
		}
	}
	return order, stuck
}
