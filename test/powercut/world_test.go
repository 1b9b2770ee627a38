package powercut_test

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"tenure/test/powercut"
	"tenure/test/rig"
)

// world is all that an administrator has of an instance, a line for each thing: what it is
// called, and what it is.
type world map[string]string

// look sees the world of an instance that runs on a disk.
func look(ctx context.Context, i *rig.Instance, disk *powercut.Disk) (world, error) {
	w := world{}
	snaps, err := i.Client().Snaps(ctx, true)
	if err != nil {
		return nil, err
	}
	for n := range snaps {
		s := &snaps[n]
		w["revision "+s.Name+" "+s.Revision] = fmt.Sprintf("%s, current: %t, status %s", s.Version, s.Current, s.Status)
		w["snap file of "+s.Name+" "+s.Revision] = "damaged"
		text, _ := disk.File("var/lib/tenure/snaps/" + s.Name + "_" + s.Revision + ".snap")
		if sum := sha256.Sum256(text); hex.EncodeToString(sum[:]) == s.Digest {
			w["snap file of "+s.Name+" "+s.Revision] = "whole"
		}
		if !s.Current {
			continue
		}
		conf, err := i.Client().Conf(ctx, s.Name, nil)
		text, _ = json.Marshal(conf)
		w["configuration of "+s.Name] = fmt.Sprintf("%s %v", text, err)
	}
	for _, see := range []func(context.Context, *rig.Instance, world) error{seeUnits, seeAliases, seeSaved} {
		if err := see(ctx, i, w); err != nil {
			return nil, err
		}
	}
	w.files(i, disk)
	return w, nil
}

func seeUnits(ctx context.Context, i *rig.Instance, w world) error {
	units, err := i.Client().Units(ctx)
	for n := range units {
		w["unit "+units[n].ID] = units[n].Revision + " " + units[n].State
	}
	conf, failed := i.Client().Conf(ctx, "system", nil)
	if failed == nil {
		text, _ := json.Marshal(conf)
		w["configuration of the system"] = string(text)
	}
	return err
}

func seeAliases(ctx context.Context, i *rig.Instance, w world) error {
	aliases, err := i.Client().Aliases(ctx)
	for snap, all := range aliases {
		for name, alias := range all {
			w["alias "+name] = fmt.Sprintf("%s of %s, %s", alias.Command, snap, alias.Status)
		}
	}
	return err
}

func seeSaved(ctx context.Context, i *rig.Instance, w world) error {
	sets, err := i.Client().Snapshots(ctx, 0, nil)
	for n := range sets {
		for _, s := range sets[n].Snapshots {
			w[fmt.Sprintf("saved %d %s", sets[n].ID, s.Snap)] = s.Revision + " " + s.Broken
		}
	}
	return err
}

// files adds what is on the disk.
func (w world) files(i *rig.Instance, disk *powercut.Disk) {
	for _, dir := range []string{"var/snap", "root/snap", "snap", "etc"} {
		for path, text := range disk.Files(dir) {
			if text != "special" {
				w["at "+path] = text
			}
		}
	}
	for _, dir := range []string{"snaps", "staging", "snapshots", "policy.yaml"} {
		dir = "var/lib/tenure/" + dir
		for path, text := range disk.Files(dir) {
			switch filepath.Ext(path) {
			case ".snap":
				text = fmt.Sprintf("%d bytes", len(text))
			case ".zip": // Whether it is whole the daemon says.
				text = "archive"
			}
			if path != dir || text != "directory" {
				w["at "+path] = text
			}
		}
	}
	// What all snaps share stays, once there was one.
	for _, dir := range []string{"root/snap", "snap", "snap/bin", "var/snap", "etc", "var/lib/tenure/snapshots", "var/lib/tenure/snapshots/.work"} {
		delete(w, "at "+dir)
	}
	for _, point := range rig.Mounts(i.Root) {
		w["mount "+strings.TrimPrefix(point, i.Root+"/")] = "there"
	}
}

// without is w without what begins with one of some words.
func (w world) without(words []string) world {
	rest := maps.Clone(w)
	maps.DeleteFunc(rest, func(key, _ string) bool {
		return slices.ContainsFunc(words, func(word string) bool { return strings.HasPrefix(key, word) })
	})
	return rest
}

// differences are what is not alike in two worlds, a line each.
func (w world) differences(want world) []string {
	var lines []string
	for key, value := range w {
		if there, found := want[key]; !found {
			lines = append(lines, fmt.Sprintf("+ %s: %.70q", key, value))
		} else if there != value {
			lines = append(lines, fmt.Sprintf("! %s: %.70q, and is to be: %.70q", key, value, there))
		}
	}
	for key, value := range want {
		if _, found := w[key]; !found {
			lines = append(lines, fmt.Sprintf("- %s: %.70q", key, value))
		}
	}
	slices.Sort(lines)
	return lines
}

// endings are how all changes have ended that have, by their numbers.
func endings(ctx context.Context, i *rig.Instance) (map[string]string, error) {
	ended, _, err := changes(ctx, i)
	return ended, err
}

func changes(ctx context.Context, i *rig.Instance) (ended map[string]string, open int, err error) {
	all, err := i.Client().Changes(ctx, "all", "")
	ended = map[string]string{}
	for n := range all {
		if all[n].Ready {
			ended[all[n].ID] = all[n].Kind + " " + all[n].Status
		}
	}
	return ended, len(all) - len(ended), err
}

// settled waits until no change of the instance goes on or waits, and says how all have ended.
func settled(ctx context.Context, i *rig.Instance) (map[string]string, error) {
	for {
		ended, open, err := changes(ctx, i)
		if err != nil || open == 0 {
			return ended, err
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("%d changes go on", open) //nolint:err113 // For a test.
		case <-time.After(glance):
		}
	}
}

// glance is how often the instance is asked again: nobody tells when all has come to rest.
const glance = 10 * time.Millisecond
