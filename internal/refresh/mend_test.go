package refresh

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"testing/synctest"

	"github.com/google/go-cmp/cmp"

	"tenure"
	"tenure/internal/change"
	"tenure/internal/snapfile"
)

// inTheWay puts something where what is to replace a file or a link of these names in snap/bin is made.
func inTheWay(t *testing.T, h *harness, names ...string) (clear func()) {
	t.Helper()
	for _, name := range names {
		if err := os.MkdirAll(filepath.Join(nextOf(filepath.Join(h.cfg.Paths.Bin(), name)), "full"), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	return func() {
		for _, name := range names {
			if err := os.RemoveAll(nextOf(filepath.Join(h.cfg.Paths.Bin(), name))); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// there are the names in snap/bin.
func there(t *testing.T, h *harness) (names []string) {
	t.Helper()
	entries, err := os.ReadDir(h.cfg.Paths.Bin())
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	for _, entry := range entries {
		names = append(names, entry.Name())
	}
	return names
}

// withApps is the probe, with apps that people run, as the one that is current.
func withApps(t *testing.T, h *harness, apps string) *snapState {
	t.Helper()
	info, err := snapfile.Parse([]byte("name: probe\nversion: 1\nsummary: s\ndescription: d\nbase: bare\nconfinement: strict\napps:\n"+apps), nil)
	if err != nil {
		t.Fatal(err)
	}
	state := h.state(tenure.LocalRevision(1))
	state.Line.Active = true
	state.Kept[state.Line.Current] = kept{Info: info}
	p := linksOf(state)
	if err := errors.Join(os.MkdirAll(h.cfg.Paths.SnapDir(probe), 0o700), os.MkdirAll(h.cfg.Paths.DataDir(probe), 0o700),
		h.snaps.Put(probe, state), h.link(t.Context(), p)); err != nil {
		t.Fatal(err)
	}
	return state
}

// A switch that fails, and cannot be taken back at once, is taken back as soon as that can be.
func TestMendsASwitch(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		h := newHarness(t)
		state := withApps(t, h, "  a: {command: bin/a}\n")
		go func() { _ = h.Mend(t.Context()) }()
		clear := inTheWay(t, h, "probe.a", "probe.b")
		p := linkParams{Snap: probe, From: state.Line.Current, To: tenure.LocalRevision(2), FromApps: []tenure.App{"a"}, ToApps: []tenure.App{"b"}}
		id, err := h.engine.Start(t.Context(), change.NewChange{
			Kind: "refresh-snap", Snaps: []tenure.Instance{probe}, Tasks: []change.TaskSpec{change.NewTask(taskLink, "link", p)},
		})
		if err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if c := h.change(id); c.Status != change.Error {
			t.Fatalf("the change is %s", c.Status)
		}
		if slices.Contains(there(t, h), "probe.a") {
			t.Fatal("it was taken back at once")
		}
		clear()
		pass(2 * again)
		if got := there(t, h); !slices.Equal(got, []string{"probe.a"}) {
			t.Errorf("the commands are %q", got)
		}
		if target, err := os.Readlink(h.cfg.Paths.Current(probe)); err != nil || target != "x1" {
			t.Errorf("current is %q, %v", target, err)
		}
	})
}

// An alias of which no link can be made is none.
func TestAliasThatFailsIsNone(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		h := newHarness(t)
		withApps(t, h, "  a: {command: bin/a}\n")
		clear := inTheWay(t, h, "hey")
		id, err := h.ChangeAliases(t.Context(), AliasRequest{Action: actionAlias, Snap: string(probe), App: "a", Alias: "hey"})
		if err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		clear()
		all, err := h.Aliases()
		if c := h.change(id); c.Status != change.Error || len(all) > 0 || err != nil {
			t.Errorf("the change is %s, the aliases are %v, %v", c.Status, all, err)
		}
		if got := there(t, h); !slices.Equal(got, []string{"probe.a"}) {
			t.Errorf("the commands are %q", got)
		}
	})
}

// What the loss of power has left in snap/bin goes; what is somebody's, or not of Tenure, stays.
func TestSweepsCommands(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		h := newHarness(t)
		state := withApps(t, h, "  a: {command: bin/a}\n")
		if err := h.aliases.docs.Put("mine", Alias{Alias: "mine", Snap: probe, App: "a"}); err != nil {
			t.Fatal(err)
		}
		bin := func(name string) string { return filepath.Join(h.cfg.Paths.Bin(), name) }
		err := errors.Join(
			os.WriteFile(bin("gone"), []byte(h.entry("gone", "gone")), 0o600),
			os.WriteFile(bin("gone.empty"), nil, 0o600),
			os.WriteFile(bin("gone.zeros"), make([]byte, 10), 0o600),
			os.WriteFile(nextOf(bin("probe.a")), []byte("#!"), 0o600),
			os.Symlink("gone", bin("old")), os.Symlink("gone", nextOf(bin("old"))),
			os.Symlink("probe.a", bin("mine")), os.Symlink("probe.a", bin("theirs")),
			os.WriteFile(bin("probe.soon"), nil, 0o600),
			os.WriteFile(bin("foreign"), []byte("#!/bin/sh\n"), 0o600), os.Symlink("/bin/true", bin("link")), os.Mkdir(nextOf(bin("dir")), 0o700),
		)
		if err != nil {
			t.Fatal(err)
		}
		underWay := relinked{params: linkParams{Snap: probe, ToApps: []tenure.App{"soon"}}}
		entries, err := h.placedCommands()
		if err != nil {
			t.Fatal(err)
		}
		if err := h.sweepCommands(entries, []snapState{*state}, []relinked{underWay}); err != nil {
			t.Error(err)
		}
		if got, want := there(t, h), []string{".dir.next", "foreign", "link", "mine", "probe.a", "probe.soon", "theirs"}; !slices.Equal(got, want) {
			t.Errorf("there are %q, want %q", got, want)
		}
	})
}

// What could not be put back of aliases is not put back over what was asked for since.
func TestMendsNoAliasThatHasGoneSince(t *testing.T) {
	t.Parallel()
	old, next := Alias{Alias: "hey", Snap: probe, App: "a"}, Alias{Alias: "hey", Snap: probe, App: "b"}
	t.Run("replaced", func(t *testing.T) {
		t.Parallel()
		mendsNoAlias(t, old, aliasParams{Added: []Alias{next}, Removed: []Alias{old}})
	})
	t.Run("removed", func(t *testing.T) {
		t.Parallel()
		mendsNoAlias(t, old, aliasParams{Removed: []Alias{old}})
	})
}

// mendsNoAlias has a change of an alias fail, and the alias removed before the links are right again.
func mendsNoAlias(t *testing.T, old Alias, p aliasParams) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		h := newHarness(t)
		withApps(t, h, "  a: {command: bin/a}\n  b: {command: bin/b}\n")
		go func() { _ = h.Mend(t.Context()) }()
		if err := h.aliases.docs.Put("hey", old); err != nil {
			t.Fatal(err)
		}
		clear := inTheWay(t, h, "hey")
		step := aliasStep{h.Manager}
		if _, err := step.Do(t.Context(), p); err == nil {
			t.Fatal("it could be done")
		}
		if all, err := h.Aliases(); err != nil || !slices.Equal(all, []Alias{old}) {
			t.Errorf("the aliases are %v, %v", all, err)
		}
		if err := h.aliases.docs.Delete("hey"); err != nil {
			t.Fatal(err)
		}
		clear()
		pass(2 * again)
		if all, err := h.Aliases(); err != nil || len(all) > 0 || h.unmended() {
			t.Errorf("the aliases are %v, %v", all, err)
		}
		if got := there(t, h); !slices.Equal(got, []string{"probe.a", "probe.b"}) {
			t.Errorf("the commands are %q", got)
		}
	})
}

// What was to be mended is tried again by the next daemon, too, for as long as the disk refuses it, and the rehearsal of
// one, which ends before it can, takes nothing of that away.
func TestMendsWhatTheLastDaemonCouldNot(t *testing.T) {
	t.Parallel()
	used, top := usedUp(t), workplace(t)
	synctest.Test(t, func(t *testing.T) {
		m := newMortal(t, filepath.Join(top, "machine"), used)
		defer m.close()
		m.boot(-1)
		m.carryOut(install(oneService))
		bin := m.cfg.Paths.Bin()
		command := func(name string) string { return filepath.Join(bin, name) }
		err := errors.Join(
			os.Remove(command("probe.say")), os.WriteFile(command("gone"), []byte(m.entry("gone", "gone")), 0o600),
			os.Rename(bin, bin+".moved"), os.WriteFile(bin, nil, 0o600),
		)
		if err != nil {
			t.Fatal(err)
		}
		m.mendLinks(linkParams{Snap: probe})
		pass(3 * again)
		m.cancel[0]()
		synctest.Wait()

		cfg := m.cfg
		cfg.Trial = true
		rehearsal := New(cfg)
		rehearsal.Use(m.engine)
		if err := rehearsal.Boot(t.Context()); err != nil || !rehearsal.unmended() {
			t.Errorf("after the rehearsal (%v) nothing says that there is something to be mended", err)
		}

		m.boot(-1)
		pass(3 * again)
		if !m.unmended() {
			t.Error("the next daemon has given up")
		}
		if err := errors.Join(os.Remove(bin), os.Rename(bin+".moved", bin)); err != nil {
			t.Fatal(err)
		}
		pass(2 * again)
		if diff := cmp.Diff(plain(1, 1).with(clean).facts(), m.look().facts); diff != "" || m.unmended() {
			t.Errorf("to be mended: %v (-want +got):\n%s", m.unmended(), diff)
		}
	})
}
