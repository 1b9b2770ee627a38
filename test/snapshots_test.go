package test

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"tenure/client"
	"tenure/test/rig"
)

// hoard is a snap with a service and data: the system's, root's, and those of two users.
type hoard struct {
	*rig.Instance

	t *testing.T
}

// newHoard is an instance with the snap, whose service runs.
func newHoard(t *testing.T, cfg rig.Config) *hoard {
	t.Helper()
	k := &hoard{Instance: rig.New(t, cfg), t: t}
	k.install("1")
	return k
}

func (k *hoard) install(version string) {
	k.t.Helper()
	file := probeSnap(k.t, k.Instance, probeYAML(version, "\ndb:\n\tdaemon: simple\n\tcommand: PROBE run\n"))
	k.Tenure("install", "--dangerous", file)
	k.Main("probe.db")
}

// places are the directories of the snap for a revision.
func (k *hoard) places(rev string) []string {
	return []string{
		k.Path("var/snap/probe", rev), k.Path("var/snap/probe/common"), k.Path("root/snap/probe", rev),
		k.Path("home/ann/snap/probe", rev), k.Path("home/ann/snap/probe/common"),
	}
}

// write has every place say something, in a file of its owner.
func (k *hoard) write(rev, text string) {
	k.t.Helper()
	for _, dir := range k.places(rev) {
		sub, file := filepath.Join(dir, "sub"), filepath.Join(dir, "sub", "text")
		err := errors.Join(os.RemoveAll(sub), os.MkdirAll(sub, 0o750), os.WriteFile(file, []byte(text), 0o640)) //nolint:gosec // As snaps do.
		for path := file; strings.Contains(path, "/home/ann") && filepath.Base(path) != "home"; path = filepath.Dir(path) {
			err = errors.Join(err, os.Lchown(path, someUID, someGID))
		}
		if err != nil {
			k.t.Fatal(err)
		}
	}
}

// texts are what every place says.
func (k *hoard) texts(rev string) []string {
	k.t.Helper()
	var said []string
	for _, dir := range k.places(rev) {
		text, err := os.ReadFile(filepath.Join(dir, "sub", "text"))
		if err != nil {
			text = []byte(err.Error())
		}
		said = append(said, string(text))
	}
	return said
}

// all is what every place says when they all say one thing.
func (k *hoard) all(text string) []string { return slices.Repeat([]string{text}, len(k.places("x1"))) }

func (k *hoard) says(rev, text string) {
	k.t.Helper()
	if diff := cmp.Diff(k.all(text), k.texts(rev)); diff != "" {
		k.t.Errorf("data: %s", diff)
	}
}

// nothingBeside fails the test over what a restore has left.
func (k *hoard) nothingBeside() {
	k.t.Helper()
	for _, pattern := range []string{"var/snap/probe/*.restored", "*/snap/probe/*.restored", "home/*/snap/probe/*.restored", "var/lib/tenure/snapshots/.work/*", "var/lib/tenure/snapshots/.new*"} {
		if left, err := filepath.Glob(k.Path(pattern)); err != nil || len(left) > 0 {
			k.t.Errorf("left: %v, %v", left, err)
		}
	}
}

// What is saved of a snap comes back, of the system and of users, into the revision that is
// current, with the configuration; and only when nothing runs that uses it.
func TestSnapshots(t *testing.T) {
	t.Parallel()
	k := newHoard(t, rig.Config{})
	k.write("x1", "before")
	saved := k.Tenure("save", "probe")
	if !strings.Contains(saved, "1    probe") {
		t.Errorf("saved:\n%s", saved)
	}
	k.Tenure("check-snapshot", "1")
	k.install("2")
	k.write("x2", "after")
	if r := k.Try("restore", "1"); r.Status == 0 || !strings.Contains(r.Stderr, "probe.db uses the data") || !strings.Contains(r.Stderr, "tenure stop probe") {
		t.Errorf("while it runs: %+v", r)
	}
	k.says("x2", "after")
	k.Tenure("stop", "probe")
	before := tree(t, k.Path("var/snap/probe/x1"))
	k.Tenure("restore", "1")
	k.says("x2", "before")
	if diff := cmp.Diff(before, tree(t, k.Path("var/snap/probe/x2"))); diff != "" {
		t.Errorf("not all of it is as it was: %s", diff)
	}
	k.Tenure("start", "probe")
	k.Main("probe.db")
	k.nothingBeside()

	// What a user has put in the way leads nowhere.
	k.Tenure("stop", "probe")
	k.write("x2", "after")
	aside, secret, link := k.Path("home/ann/mine"), k.Path("secret"), k.Path("home/ann/snap/probe")
	if err := errors.Join(os.Rename(link, aside), os.MkdirAll(filepath.Join(secret, "x2"), 0o700), os.Symlink(secret, link)); err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(secret, "x2", "text"), "secret")
	k.Tenure("restore", "1")
	if names, err := os.ReadDir(secret); err != nil || len(names) != 1 {
		t.Errorf("beyond the link there is %v, %v", names, err)
	}
	if set := k.Tenure("save", "--users", "ann", "probe"); !strings.Contains(set, "2    probe") {
		t.Errorf("saved:\n%s", set)
	}
	if sets, err := k.Client().Snapshots(t.Context(), 2, nil); err != nil || len(sets) != 1 || len(sets[0].Snapshots[0].Digests) != 1 {
		t.Errorf("of a link there is saved %+v, %v", sets, err)
	}
	if err := errors.Join(os.Remove(link), os.Rename(aside, link)); err != nil {
		t.Fatal(err)
	}

	// One that is not whole changes nothing.
	k.write("x2", "after")
	file := k.Path("var/lib/tenure/snapshots/1_probe.zip")
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	text[len(text)/3] ^= 1
	write(t, file, string(text))
	for _, verb := range []string{"restore", "check-snapshot"} {
		if r := k.Try(verb, "1"); r.Status == 0 || !strings.Contains(r.Stderr, "broken") {
			t.Errorf("%s of one that is broken: %+v", verb, r)
		}
	}
	k.says("x2", "after")
	k.nothingBeside()
	k.Tenure("forget", "1")
	if r := k.Try("restore", "1"); r.Status == 0 || !strings.Contains(r.Stderr, "no such set") {
		t.Errorf("when it is forgotten: %+v", r)
	}
}

// What a snap has is saved when it is removed, and comes back when it is installed again; not
// with --purge, nor where the administrator does not want it.
func TestTheDataOfWhatIsRemoved(t *testing.T) {
	t.Parallel()
	k := newHoard(t, rig.Config{Observe: true})
	k.write("x1", "before")
	// What keeps one directory from being saved keeps no other.
	elsewhere, theirs := k.Path("elsewhere"), k.Path("home/ann/snap/probe/mine.restored")
	reused, bystander := k.Path("home/cid/snap/probe"), k.Path("home/bob/snap")
	if err := errors.Join(os.Mkdir(elsewhere, 0o700), os.RemoveAll(k.Path("root/snap/probe/common")), os.Symlink(elsewhere, k.Path("root/snap/probe/common")), os.Mkdir(theirs, 0o700),
		os.MkdirAll(filepath.Join(reused, "x1"), 0o700), os.Lchown(k.Path("home/cid"), someUID+1, someGID), os.MkdirAll(filepath.Dir(bystander), 0o700)); err != nil {
		t.Fatal(err)
	}
	if r := k.Try("save", "--users", "typo", "probe"); r.Status == 0 || !strings.Contains(r.Stderr, "no such home") {
		t.Errorf("of nobody: %+v", r)
	}
	k.Tenure("remove", "probe")
	if names, err := os.ReadDir(elsewhere); err != nil || len(names) != 0 {
		t.Errorf("beyond the link there is %v, %v", names, err)
	}
	if err := errors.Join(os.RemoveAll(k.Path("home/cid/snap")), os.Lchown(k.Path("home/cid"), someUID+2, someGID)); err != nil {
		t.Fatal(err)
	}
	if saved := k.Tenure("saved"); !strings.Contains(saved, "auto") {
		t.Errorf("saved:\n%s", saved)
	}
	k.install("1")
	k.Tenure("stop", "probe")
	if r := k.Try("restore", "--users", "typo", "1"); r.Status == 0 || !strings.Contains(r.Stderr, "nothing of user") {
		t.Errorf("to nobody: %+v", r)
	}
	k.Tenure("restore", "1")
	k.says("x1", "before")
	if _, err := os.Stat(theirs); err != nil {
		t.Errorf("what only has such a name: %v", err)
	}
	for _, dir := range []string{reused, bystander} {
		if _, err := os.Lstat(dir); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s, of whom nothing was saved: %v", dir, err)
		}
	}
	k.Tenure("remove", "--purge", "probe")
	k.install("1")
	k.Tenure("set", "system", "snapshots.automatic.retention=no")
	k.write("x1", "again")
	k.Tenure("remove", "probe")
	if saved := k.Tenure("saved"); strings.Count(saved, "probe") != 1 {
		t.Errorf("saved:\n%s", saved)
	}
	if r := k.Try("set", "system", "snapshots.automatic.retention=1h"); r.Status == 0 {
		t.Errorf("an hour: %+v", r)
	}
}

// TestCrashRestore kills the daemon at every boundary of a restore: the data is what it was
// or what was saved, all of it, and nothing is left beside it.
func TestCrashRestore(t *testing.T) {
	t.Parallel()
	k := newHoard(t, rig.Config{FailPoints: true})
	k.write("x1", "before")
	k.Tenure("save", "probe")
	k.Tenure("stop", "probe")
	k.Arm(0)
	k.Tenure("restore", "1")
	points := k.Disarm()
	if len(points) < 6 {
		t.Fatalf("boundaries: %v", points)
	}
	restored := 0
	for n := range points {
		k.write("x1", "after")
		k.Arm(n + 1)
		_, _ = k.Client().ChangeSnapshots(t.Context(), client.SnapshotAction{Action: "restore", Set: 1}) // Whom it dies on.
		<-k.Ended()
		k.Start()
		changes, err := k.Client().Changes(t.Context(), "all", "probe")
		if err != nil {
			t.Fatal(err)
		}
		last := changes[len(changes)-1]
		status := "none"
		if last.Kind == "restore-snapshot" {
			status = endOf(t, k.Instance, last.ID)
		}
		k.Disarm()
		switch now := k.texts("x1"); {
		case cmp.Equal(now, k.all("before")) && status == "Done":
			restored++
		case cmp.Equal(now, k.all("after")) && status != "Done":
		default:
			t.Errorf("killed at %v: the change is %s, the data %q", points[n], status, now)
		}
		k.nothingBeside()
	}
	if restored < len(points)-2 {
		t.Errorf("of %d only %d came to their end", len(points), restored)
	}
}
