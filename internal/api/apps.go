package api

import (
	"fmt"
	"net/http"
	"slices"
	"strings"

	"tenure"
	"tenure/client"
	"tenure/internal/refresh"
	"tenure/internal/snapfile"
	"tenure/internal/supervise"
)

func (s *server) apps(r *http.Request) (*reply, error) {
	names := splitList(r.FormValue("names"))
	switch selected := r.FormValue("select"); selected {
	case "service":
	case "":
		return s.allApps(r, names)
	default:
		return nil, bad(fmt.Sprintf("select should be service, or nothing for all apps; it is %q", selected))
	}
	services, err := s.cfg.Manager.Services(r.Context(), names)
	if err != nil {
		return nil, err
	}
	apps := []client.Service{}
	for i := range services {
		apps = append(apps, serviceOf(&services[i]))
	}
	return &reply{result: apps}, nil
}

// allApps are the apps of the named snaps, and those that are named themselves: services,
// instances of them, and what people run.
func (s *server) allApps(r *http.Request, names []string) (*reply, error) {
	snaps, err := s.cfg.Manager.Snaps(r.Context(), false)
	if err != nil {
		return nil, err
	}
	services, err := s.cfg.Manager.Services(r.Context(), nil)
	if err != nil {
		return nil, err
	}
	all := []client.Service{}
	for i := range services {
		all = append(all, serviceOf(&services[i]))
	}
	for i := range snaps {
		for _, app := range snapOf(&snaps[i]).Apps {
			if app.Daemon == "" {
				all = append(all, app)
			}
		}
	}
	found := map[string]bool{}
	apps := slices.DeleteFunc(slices.Clone(all), func(app client.Service) bool {
		full := app.Snap + "." + app.Name
		found[app.Snap], found[full] = true, true
		return len(names) > 0 && !slices.Contains(names, app.Snap) && !slices.Contains(names, full)
	})
	for _, name := range names {
		if !found[name] {
			return nil, &requestError{
				status: http.StatusNotFound, kind: string(refresh.KindApp), message: fmt.Sprintf("there is no snap with apps, and no app, %q", name),
			}
		}
	}
	slices.SortStableFunc(apps, func(a, b client.Service) int { return strings.Compare(a.Snap, b.Snap) })
	return &reply{result: apps}, nil
}

func serviceOf(found *refresh.ServiceInfo) client.Service {
	service := client.Service{
		Snap: string(found.Unit.Snap), Name: serviceName(found.Unit), Daemon: string(found.App.Daemon),
		DaemonScope: string(snapfile.ScopeSystem), Enabled: found.Enabled, Active: found.Active,
		State: string(found.Status.State), PID: found.Status.Main.PID, Since: found.Status.Since, Text: found.Status.Text,
	}
	if found.Status.State == "" {
		service.State = string(supervise.Inactive)
	}
	if !found.Status.Revision.IsZero() {
		service.Revision = found.Status.Revision.String()
	}
	if found.By != "" {
		service.Notes = append(service.Notes, "by-"+string(found.By))
	}
	if found.App.Lifecycle.Instances && found.Unit.At == "" {
		service.Notes = append(service.Notes, "template")
	}
	if len(found.App.Sockets) > 0 {
		service.Notes = append(service.Notes, "socket-activated")
	}
	if found.App.Timer != "" {
		service.Notes = append(service.Notes, "timer-activated")
	}
	service.Activators = activatorsOf(found)
	return service
}

// activatorsOf are what starts a service when it is needed.
func activatorsOf(found *refresh.ServiceInfo) []client.Activator {
	var activators []client.Activator
	armed := found.Status.State != "" && found.Status.State != supervise.Inactive
	for i := range found.App.Sockets {
		activators = append(activators, client.Activator{
			Name: found.App.Sockets[i].Name, Type: "socket", Active: armed, Enabled: found.Enabled,
		})
	}
	if found.App.Timer != "" {
		activators = append(activators, client.Activator{Name: string(found.App.Name), Type: "timer", Active: armed, Enabled: found.Enabled})
	}
	return activators
}

// serviceName is the name of a service within its snap, or of an instance: "vm@web1".
func serviceName(unit tenure.UnitID) string {
	return strings.TrimPrefix(unit.String(), string(unit.Snap)+".")
}
