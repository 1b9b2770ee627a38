package soak

import (
	"fmt"
	"maps"
	"slices"
)

// apply makes of the world what an op has made of it. It gives an error if that is not what
// may come of it, after what may have come between.
func (w *world) apply(o *op, got result, between disaster) error {
	s := w.Snaps[o.Snap]
	if got.Outcome != o.Want && !w.excused(o, got, between) {
		return fmt.Errorf("%s: %s (%s, change %s), want it %s", o, got.Outcome, got.Err, got.Change, o.Want)
	}
	switch got.Outcome {
	case refused, lost:
		return nil
	case undone:
		w.applyUndone(s, o)
		return nil
	case waits:
		s.Staged, s.StagedVariant = got.Revisions[s.Name], o.Variant
		s.Last = max(s.Last, got.Revisions[s.Name])
		return nil
	case done:
	}
	return w.applyDone(s, o, got)
}

// excused reports whether something else may have come of an op. With the daemon and the
// holder goes the word of a service that it is ready, if nobody has read it yet.
func (w *world) excused(o *op, got result, between disaster) bool {
	switch got.Outcome {
	case undone:
		return o.Abort != 0 || between == ruin && slices.Contains([]string{"install", "refresh", "revert", "many"}, o.Kind)
	case lost:
		return between == death || between == ruin
	case done, refused, waits:
	}
	return false
}

func (w *world) applyUndone(s *snap, o *op) {
	switch o.Kind {
	case "install":
		w.remove(s)
	case "abandon":
		s.Staged = 0
	case "refresh", "revert", "many":
		for _, name := range append([]string{o.Snap}, o.Others...) {
			if s := w.Snaps[name]; s.Enabled {
				w.failed(s, o.Variant)
			}
		}
	}
}

func (w *world) applyDone(s *snap, o *op, got result) error {
	switch o.Kind {
	case "install":
		w.install(s, got.Revisions[s.Name], o.Variant)
	case "refresh", "many":
		for _, name := range append([]string{o.Snap}, o.Others...) {
			if err := w.applyRefresh(w.Snaps[name], o, got.Revisions[name]); err != nil {
				return err
			}
		}
	case "revert":
		if want := s.previous(); got.Revisions[s.Name] != want {
			return fmt.Errorf("%s: the current revision is %s, want %s", o, x(got.Revisions[s.Name]), x(want))
		}
		w.switchTo(s, got.Revisions[s.Name], o.Variant)
	case "apply":
		w.switchTo(s, s.Staged, s.StagedVariant)
	case "remove":
		w.remove(s)
	case "disable":
		w.disable(s)
	case "enable":
		w.enable(s)
	case "stop", "start":
		w.control(s, o.Kind)
	case "restart":
		w.control(s, o.Kind)
	default:
		w.applySetting(s, o, got)
		w.applyToProcess(s, o)
	}
	return nil
}

// applySetting is what concerns no process.
func (w *world) applySetting(s *snap, o *op, got result) {
	switch o.Kind {
	case "set":
		s.Conf["k"] = o.Value
	case "unset":
		delete(s.Conf, "k")
	case "hold":
		s.Held = !s.Held
	case "alias":
		s.Alias = !s.Alias
	case "rule":
		w.Ruled[s.Name] = !w.Ruled[s.Name]
	case "save":
		w.Sets[got.Set] = &saved{Snap: s.Name, Mark: s.Marks[s.Current], Common: s.Common, Conf: maps.Clone(s.Conf)}
	case "restore":
		w.applyRestore(s, w.Sets[o.Set])
		delete(w.Sets, o.Set)
	case "write":
		s.Marks[s.Current], s.Common = o.Value, o.Value
	}
}

func (w *world) applyRefresh(s *snap, o *op, revision int) error {
	if revision <= s.Last {
		return fmt.Errorf("%s: the current revision is %s, and %s was given before", o, x(revision), x(s.Last))
	}
	w.switchTo(s, revision, o.Variant)
	return nil
}

// applyRestore brings back what was saved. Nothing of the snap runs then.
func (w *world) applyRestore(s *snap, from *saved) {
	s.Marks[s.Current], s.Common, s.Conf = from.Mark, from.Common, maps.Clone(from.Conf)
}

// applyToProcess is what concerns one process.
func (w *world) applyToProcess(s *snap, o *op) {
	switch o.Kind {
	case "run":
		w.launch(s, app, process{Kind: "app"})
	case "quit", "murder":
		delete(s.Procs, o.Name)
	case "end":
		s.end(o.Name)
	case "kill":
		w.lives++
		s.Procs[o.Name].Life = w.lives
	case "spawn":
		w.spawn(s, o.Name)
	case "poke":
		w.start(s, role{Name: o.Name, Runs: true})
	case "instance":
		if s.Procs[o.Name] != nil {
			delete(s.Procs, o.Name)
			return
		}
		w.launch(s, o.Name, process{Kind: "service", Service: template, Main: true})
	}
}

// end is that the unit of a workload is stopped, by its name. A leftover goes with what was left
// behind with it.
func (s *snap) end(name string) {
	ended := s.Procs[name]
	maps.DeleteFunc(s.Procs, func(other string, p *process) bool {
		return other == name || ended.Service == careless && p.Kind == "workload" && p.Unit == ended.Unit
	})
}

// spawn is that a service starts something: it runs from what the service runs from.
func (w *world) spawn(s *snap, name string) {
	for _, service := range []string{manager, careless} {
		kind, ok := cutService(name, service)
		if !ok {
			continue
		}
		p := process{Kind: "workload", Service: service, Workload: kind}
		if service == careless {
			p.Kind, p.Workload = "service", "leftover"
		}
		w.launch(s, name, p)
		s.Procs[name].Revision, s.Procs[name].Base = s.Procs[service].Revision, s.Procs[service].Base
	}
}

// cutService is the kind of workload that a name of a service's is: "vm" of "manager.vm1".
func cutService(name, service string) (kind string, ok bool) {
	if len(name) <= len(service)+2 || name[:len(service)+1] != service+"." {
		return "", false
	}
	return name[len(service)+1 : len(name)-1], true
}
