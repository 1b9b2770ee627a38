package api

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"maps"
	"net/http"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"tenure"
	"tenure/client"
	"tenure/internal/change"
	"tenure/internal/proc"
	"tenure/internal/refresh"
	"tenure/internal/revision"
	"tenure/internal/supervise"
)

func (s *server) systemInfo(r *http.Request) (*reply, error) {
	var uts unix.Utsname
	if err := unix.Uname(&uts); err != nil {
		return nil, fmt.Errorf("read the kernel's version: %w", err)
	}
	paths := s.cfg.Manager.Paths()
	timer, err := s.refreshInfo()
	if err != nil {
		return nil, err
	}
	if forSnapd(r) && timer["hold"] == forever {
		timer["hold"] = farAway
	}
	return &reply{result: client.SystemInfo{
		Series: "16", Version: s.cfg.Version, Architecture: refresh.DebianArch(runtime.GOARCH),
		OSRelease: osRelease(), KernelVersion: cString(uts.Release[:]), OnClassic: true, Confinement: "partial",
		Locations: map[string]string{"snap-mount-dir": paths.SnapMountDir(), "snap-bin-dir": paths.Bin()},
		Refresh:   timer,
	}}, nil
}

func osRelease() map[string]string {
	release := map[string]string{"id": "linux"}
	text, err := os.ReadFile("/etc/os-release")
	if err != nil {
		return release
	}
	for line := range strings.Lines(string(text)) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), "=")
		if name == "ID" || name == "VERSION_ID" {
			release[strings.ReplaceAll(strings.ToLower(name), "_", "-")] = strings.Trim(value, `"`)
		}
	}
	return release
}

func (s *server) snaps(r *http.Request) (*reply, error) {
	selected := r.FormValue("select")
	found, err := s.cfg.Manager.Snaps(r.Context(), selected == "all")
	if err != nil {
		return nil, err
	}
	inhibited, err := s.cfg.Manager.Inhibited()
	if err != nil {
		return nil, err
	}
	wanted, only := splitList(r.FormValue("snaps")), selected == "refresh-inhibited"
	snaps := []client.Snap{}
	for i := range found {
		name := found[i].Ref.Snap
		until, waits := inhibited[name]
		if only && !waits || len(wanted) > 0 && !slices.Contains(wanted, string(name)) {
			continue
		}
		snap := snapFor(r, &found[i])
		if waits && snap.Current {
			snap.RefreshInhibit = &client.RefreshInhibit{ProceedTime: until}
		}
		snaps = append(snaps, snap)
	}
	return &reply{result: snaps}, nil
}

func (s *server) snap(r *http.Request) (*reply, error) {
	name, err := tenure.ParseInstance(r.PathValue("name"))
	if err != nil {
		return nil, err
	}
	found, err := s.cfg.Manager.Snaps(r.Context(), false)
	if err != nil {
		return nil, err
	}
	for i := range found {
		if found[i].Ref.Snap == name {
			return s.withServices(r.Context(), snapFor(r, &found[i]))
		}
	}
	return nil, &requestError{status: http.StatusNotFound, kind: "snap-not-found", message: fmt.Sprintf("snap %q is not installed", name)}
}

// withServices tells for each service of a snap whether it runs.
func (s *server) withServices(ctx context.Context, snap client.Snap) (*reply, error) {
	services, err := s.cfg.Manager.Services(ctx, nil)
	if err != nil {
		return nil, err
	}
	for i := range snap.Apps {
		for j := range services {
			if string(services[j].Unit.Snap) == snap.Name && services[j].Unit.At == "" && string(services[j].Unit.App) == snap.Apps[i].Name {
				snap.Apps[i] = serviceOf(&services[j])
			}
		}
	}
	return &reply{result: snap}, nil
}

// snapFor is a snap as this peer knows snaps. For snapd's clients the channel that a
// revision came from is the one that is tracked: they take any other for a closed one.
// They read the end of a hold as a time.
func snapFor(r *http.Request, found *refresh.Snap) client.Snap {
	snap := snapOf(found)
	if !forSnapd(r) {
		return snap
	}
	snap.Channel = cmp.Or(snap.TrackingChannel, snap.Channel)
	if snap.Hold == forever {
		snap.Hold = farAway
	}
	return snap
}

func snapOf(found *refresh.Snap) client.Snap {
	info := found.Info
	snap := client.Snap{
		ID: "", Name: string(found.Ref.Snap), Title: info.Title, Summary: info.Summary, Description: info.Description,
		Type: string(info.Type), Base: info.Base, Version: info.Version, Revision: found.Ref.Revision.String(),
		Confinement: string(info.Confinement), Grade: string(info.Grade), License: info.License, Status: "installed",
		DevMode: found.Options.DevMode, JailMode: found.Options.JailMode,
		InstalledSize: found.Size, InstallDate: found.Installed, Digest: found.Digest, Current: found.Current,
	}
	snap.TrackingChannel = string(found.Tracking.Channel)
	if found.Origin != nil {
		snap.Channel, snap.Source = string(found.Origin.Channel), found.Origin.Source
	}
	if found.Held != nil {
		snap.Hold = holdText(found.Held)
	}
	if found.Active {
		snap.Status = "active"
	}
	if found.Staged != 0 {
		snap.StagedBy = found.Staged.String()
	}
	if said := found.Health; said != nil {
		snap.Health = &client.Health{
			Revision: said.Revision.String(), Timestamp: said.At, Status: said.Status, Message: said.Message, Code: said.Code,
		}
	}
	if contact := info.Links["contact"]; len(contact) > 0 {
		snap.Contact = contact[0]
	}
	for i := range info.Apps {
		app := &info.Apps[i]
		snap.Apps = append(snap.Apps, client.Service{
			Snap: snap.Name, Name: string(app.Name), Daemon: string(app.Daemon), CommonID: app.CommonID,
		})
	}
	return snap
}

func (s *server) changes(r *http.Request) (*reply, error) {
	filter := change.Filter{Select: change.InProgress}
	switch selected := r.FormValue("select"); selected {
	case "all":
		filter.Select = change.All
	case "", "in-progress":
	case "ready":
		filter.Select = change.ReadyOnly
	default:
		return nil, bad(fmt.Sprintf("select should be one of: all, in-progress, ready; it is %q", selected))
	}
	if name := r.FormValue("for"); name != "" {
		snap, err := tenure.ParseInstance(name)
		if err != nil {
			return nil, err
		}
		filter.Snap = snap
	}
	changes := []client.Change{}
	for _, c := range s.cfg.Manager.Engine().List(filter) {
		changes = append(changes, s.changeOf(r, c))
	}
	return &reply{result: changes}, nil
}

func (s *server) change(r *http.Request) (*reply, error) {
	c, err := s.changeNamed(r, r.PathValue("id"))
	if err != nil {
		return nil, err
	}
	return &reply{result: c}, nil
}

// aboutChange words what the engine says of a change that is not there, or has ended.
func aboutChange(op string, id change.ID, err error) error {
	if errors.Is(err, change.ErrNotFound) {
		return &requestError{
			status: http.StatusNotFound, kind: string(refresh.KindNotFound),
			message: fmt.Sprintf("cannot find change with id %q; see tenure changes", id),
		}
	}
	if ended, ok := errors.AsType[*change.FinishedError](err); ok {
		if !ended.Status.Ready() {
			return bad(fmt.Sprintf("cannot %s change %s: it is at its end, and what it has done cannot be undone any more", op, id))
		}
		return bad(fmt.Sprintf("cannot %s change %s: it has ended (%s)", op, id, ended.Status))
	}
	return err
}

// watchPause is how long the news of a change are gathered for a client that has
// been answered before: those who follow a refresh are not to slow it down.
const watchPause = 100 * time.Millisecond

// watch answers when the change differs from what the client has seen: at once
// if it has seen nothing or the change has ended, else a little later.
func (s *server) watch(r *http.Request) (*reply, error) {
	id, err := change.ParseID(r.PathValue("id"))
	if err != nil {
		return nil, err
	}
	seen, err := strconv.ParseUint(r.FormValue("after"), 10, 64)
	if err != nil {
		return nil, bad(fmt.Sprintf("after should be the revision of a change; it is %q", r.FormValue("after")))
	}
	ctx, cancel := s.whileServing(r.Context())
	defer cancel()
	c, err := s.cfg.Manager.Engine().Watch(ctx, id, seen)
	if err != nil {
		return nil, watchAgain(ctx, r, aboutChange("watch", id, err))
	}
	if seen > 0 {
		if c, err = s.gather(ctx, c); err != nil {
			return nil, watchAgain(ctx, r, err)
		}
	}
	return &reply{result: s.changeOf(r, c)}, nil
}

// watchAgain is err, or for one who watches that another daemon goes on, which counts anew.
func watchAgain(ctx context.Context, r *http.Request, err error) error {
	if elsewhere(ctx) == nil {
		return err
	}
	return &againError{uri: r.URL.EscapedPath() + "?after=0"}
}

// gather waits until c has ended, or watchPause is over.
func (s *server) gather(ctx context.Context, c change.Change) (change.Change, error) {
	over, cancel := context.WithTimeout(ctx, watchPause)
	defer cancel()
	for !c.Status.Ready() {
		next, err := s.cfg.Manager.Engine().Watch(over, c.ID, c.Rev)
		switch {
		case err == nil:
			c = next
		case over.Err() != nil && ctx.Err() == nil:
			return c, nil
		default:
			return c, err
		}
	}
	return c, nil
}

// changeOf is c as this peer may see it: what tasks logged, why it failed, in the
// words of services and hooks, and the plan are for administrators.
func (s *server) changeOf(r *http.Request, c change.Change) client.Change {
	names := make([]string, 0, len(c.Snaps))
	for _, snap := range c.Snaps {
		names = append(names, string(snap))
	}
	result := client.Change{
		ID: c.ID.String(), Kind: c.Kind, Summary: c.Summary, Status: string(c.Status), Ready: c.Status.Ready(),
		Err: c.Err, Spawned: c.Spawned, ReadyAt: c.Ready, Data: map[string]json.RawMessage{}, Revision: c.Rev,
	}
	if raw, err := json.Marshal(names); err == nil {
		result.Data["snap-names"] = raw
	}
	if len(names) == 1 {
		result.Data["snap-name"] = json.RawMessage(strconv.Quote(names[0]))
	}
	if c.WaitingFor != nil {
		result.Waiting, result.Holds = c.WaitingFor.For, c.Holds
	}
	addAliases(&c, result.Data)
	admin := s.admin(r)
	if !admin && c.Err != "" {
		result.Err = fmt.Sprintf("it failed; administrators see why (tenure tasks %s)", c.ID)
	}
	if admin && len(c.Plan) > 0 {
		result.Data["plan"] = c.Plan
	}
	for i := range c.Tasks {
		t := &c.Tasks[i]
		task := client.Task{
			ID: t.ID, Kind: t.Kind, Summary: t.Summary, Status: string(t.Status), Spawned: t.Spawned, ReadyAt: t.Ready,
			Progress: client.Progress{Label: t.Progress.Label, Done: t.Progress.Done, Total: max(t.Progress.Total, 1)},
		}
		if admin {
			task.Log = t.Log
		}
		result.Tasks = append(result.Tasks, task)
	}
	if forSnapd(r) {
		asSnapd(&result)
	}
	return result
}

// units are those that run, as this peer may see them: what they say of themselves, and the
// command lines of what others run, are for administrators.
func (s *server) units(r *http.Request) (*reply, error) {
	found, err := s.cfg.Manager.Units(r.Context())
	if err != nil {
		return nil, err
	}
	units := []client.Unit{}
	for i := range found {
		units = append(units, unitOf(&found[i]))
		if !s.admin(r) {
			discreet(&units[i], found[i].Processes, userOf(r))
		}
	}
	return &reply{result: units}, nil
}

// discreet takes out of a unit what is not for one user.
func discreet(unit *client.Unit, processes []proc.Info, uid int) {
	unit.Text = ""
	for i := range processes {
		if int(processes[i].UID) != uid {
			unit.Processes[i].Command = ""
		}
	}
}

func unitOf(found *refresh.UnitInfo) client.Unit {
	unit := client.Unit{
		ID: found.Unit.String(), Kind: string(found.Unit.Kind), Snap: string(found.Unit.Snap),
		Revision: found.Revision.String(), State: string(found.State), Stale: found.Stale, StaleBase: found.StaleBase,
		Since: found.Started, Restarts: found.Restarts, Text: found.Text,
	}
	if found.Spec != nil && !found.Spec.Base.IsZero() {
		unit.Base = found.Spec.Base.String()
	}
	unit.StaleSince, unit.EnduresUntil = found.StaleSince, found.EnduresUntil
	if !found.EnduresUntil.IsZero() {
		e := found.Endurance
		unit.EndureRule, unit.EndureAction, unit.EndureActionRule = e.DateRule(), string(e.Action()), e.EndRule
	}
	if !found.Staged.IsZero() {
		unit.Staged = found.Staged.String()
	}
	for _, p := range found.Processes {
		unit.Processes = append(unit.Processes, client.Process{
			PID: p.PID, PPID: p.PPID, Start: p.Start, Main: p.Process == found.Main, Started: p.Started, Command: p.CommandLine(),
		})
	}
	return unit
}

func (s *server) pins(r *http.Request) (*reply, error) {
	ref, err := tenure.ParseRef(r.FormValue("ref"))
	if err != nil {
		return nil, err
	}
	found, err := s.cfg.Manager.Pins(r.Context(), ref)
	if err != nil {
		return nil, err
	}
	units, err := s.cfg.Manager.Units(r.Context())
	if err != nil {
		return nil, err
	}
	dates := map[string]string{}
	for i := range units {
		u := &units[i]
		if u.EnduresUntil.IsZero() {
			continue
		}
		word := "until"
		if !time.Now().Before(u.EnduresUntil) {
			word = "overdue since"
		}
		dates[u.Unit.String()] = fmt.Sprintf(", %s %s by %s", word, u.EnduresUntil.UTC().Format(time.RFC3339), u.Endurance.By())
	}
	pins := []client.Pin{}
	for _, pin := range found {
		text := pin.String()
		if pin.Kind == revision.PinUnit {
			text += dates[pin.By]
		}
		pins = append(pins, client.Pin{Kind: string(pin.Kind), By: pin.By, Text: text})
	}
	return &reply{result: pins}, nil
}

// stream is for answers that do not end by themselves; they are for administrators.
func (s *server) stream(handle func(http.ResponseWriter, *http.Request) error) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !s.admin(r) {
			s.fail(w, denied())
			return
		}
		if err := handle(w, r); err != nil {
			s.fail(w, err)
		}
	})
}

func (s *server) logs(w http.ResponseWriter, r *http.Request) error {
	units, err := s.logUnits(r)
	if err != nil {
		return err
	}
	n := 10
	if text := r.FormValue("n"); text != "" {
		if n, err = strconv.Atoi(text); err != nil {
			return bad(fmt.Sprintf("n should be a number of lines, or -1 for all; it is %q", text))
		}
	}
	ctx, cancel := s.whileServing(r.Context())
	defer cancel()
	lines := s.cfg.Logs.Logs(ctx, units, n, r.FormValue("follow") == "true")
	s.writeLines(w, lines)
	return nil
}

// logUnits are the units named by a request: services of a snap, or single units.
func (s *server) logUnits(r *http.Request) ([]tenure.UnitID, error) {
	wanted := map[tenure.UnitID]bool{}
	var names []string
	for _, name := range splitList(r.FormValue("names")) {
		if unit, err := tenure.ParseUnit(name); err == nil && (unit.Kind != tenure.Service || unit.At != "") {
			if err := s.known(r.Context(), unit); err != nil {
				return nil, err
			}
			wanted[unit] = true
			continue
		}
		names = append(names, name)
	}
	if len(names) > 0 || len(wanted) == 0 {
		services, err := s.cfg.Manager.Services(r.Context(), names)
		if err != nil {
			return nil, err
		}
		for i := range services {
			wanted[services[i].Unit] = true
		}
	}
	return slices.Collect(maps.Keys(wanted)), nil
}

// known refuses a unit of a snap that is not there. Of one that is, units that have
// ended may still have logs.
func (s *server) known(ctx context.Context, unit tenure.UnitID) error {
	snaps, err := s.cfg.Manager.Snaps(ctx, true)
	if err != nil {
		return err
	}
	if !slices.ContainsFunc(snaps, func(snap refresh.Snap) bool { return snap.Ref.Snap == unit.Snap }) {
		return &requestError{
			status: http.StatusNotFound, kind: string(refresh.KindNotInstalled), message: fmt.Sprintf("snap %q is not installed", unit.Snap),
		}
	}
	return nil
}

// writeLines writes lines as a JSON text sequence (RFC 7464), each as soon as it
// is there.
func (s *server) writeLines(w http.ResponseWriter, lines iter.Seq2[supervise.LogLine, error]) {
	w.Header().Set("Content-Type", "application/json-seq")
	control := http.NewResponseController(w)
	_ = control.Flush() // So that a client knows at once that it is followed.
	for line, err := range lines {
		if err != nil {
			s.cfg.Logger.Warn("cannot read logs", slog.Any("error", err))
			return
		}
		raw, err := json.Marshal(client.Log{
			Timestamp: line.Time, Message: line.Text, SID: line.Unit.String(), PID: strconv.Itoa(line.PID),
			Segment: line.Place.Segment, End: line.Place.End,
		})
		if err != nil {
			return
		}
		if _, err := w.Write(slices.Concat([]byte{recordSeparator}, raw, []byte{'\n'})); err != nil {
			return
		}
		_ = control.Flush()
	}
}

const recordSeparator = 0x1e

func splitList(s string) []string {
	if s == "" {
		return nil
	}
	return strings.Split(s, ",")
}
