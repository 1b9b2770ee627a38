package test

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"tenure/client"
	"tenure/test/rig"
)

// shelf is a directory that is a source of an instance, called "shelf".
type shelf struct {
	t    *testing.T
	i    *rig.Instance
	path string
}

func newShelf(t *testing.T, i *rig.Instance) shelf {
	t.Helper()
	path := i.Path("shelf")
	if err := os.Mkdir(path, 0o755); err != nil { //nolint:gosec // As people have it.
		t.Fatal(err)
	}
	i.Tenure("source", "add", "dir", path)
	return shelf{t, i, path}
}

// describe is the description of a snap file, as docs/sources.md says; more are
// further lines of it.
func describe(file string, released time.Time, more ...string) (string, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return "", err
	}
	sum := sha256.Sum256(text)
	return fmt.Sprintf("released: %s\nsize: %d\nsha256: %s\n%s\n",
		released.UTC().Format(time.RFC3339Nano), len(text), hex.EncodeToString(sum[:]), strings.Join(more, "\n")), nil
}

// release puts a snap file on the shelf, as a revision: "hello_12".
func release(file, shelf, revision string, released time.Time, more ...string) error {
	description, err := describe(file, released, more...)
	if err != nil {
		return err
	}
	text, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	base := filepath.Join(shelf, revision)
	if err := os.WriteFile(base+".snap", text, 0o600); err != nil {
		return err
	}
	if err := os.WriteFile(base+".new", []byte(description), 0o600); err != nil {
		return err
	}
	return os.Rename(base+".new", base+".yaml")
}

func (s shelf) release(file, revision string, released time.Time, more ...string) {
	s.t.Helper()
	if err := release(file, s.path, revision, released, more...); err != nil {
		s.t.Fatal(err)
	}
}

// current is the current revision of a snap.
func current(t *testing.T, i *rig.Instance, snap string) client.Snap {
	t.Helper()
	found, err := i.Client().Snap(t.Context(), snap)
	if err != nil {
		t.Fatal(err)
	}
	return found
}

// byItself waits for a change of a kind to snap that is not one of seen, and gives it.
func byItself(t *testing.T, i *rig.Instance, kind, snap string, seen ...string) client.Change {
	t.Helper()
	deadline := time.Now().Add(rig.Patience)
	for time.Now().Before(deadline) {
		changes, err := i.Client().Changes(t.Context(), "all", snap)
		if err != nil {
			t.Fatal(err)
		}
		for _, change := range changes {
			if change.Kind == kind && !contains(seen, change.ID) {
				return change
			}
		}
		pause(t, 20*time.Millisecond)
	}
	t.Fatalf("no change of kind %s to %s comes by itself:\n%s", kind, snap, i.Tenure("refresh", "--list", "--json")+i.Tenure("refresh", "--time")+i.Tenure("changes"))
	return client.Change{}
}

func contains(list []string, one string) bool {
	for _, s := range list {
		if s == one {
			return true
		}
	}
	return false
}

func pause(t *testing.T, d time.Duration) {
	t.Helper()
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-t.Context().Done():
	}
}

// open is a refresh.timer that is open now and for some hours, and closed one that is not.
func windows(now time.Time) (open, closed string) {
	clock := func(after time.Duration) string { return now.Add(after).Format("15:04") }
	return clock(-2*time.Hour) + "-" + clock(6*time.Hour), clock(8*time.Hour) + "-" + clock(12*time.Hour)
}

func long(ago time.Duration) time.Time { return time.Now().Add(-ago) }

// update is what there is to refresh a snap to.
func update(t *testing.T, i *rig.Instance, snap string) client.Update {
	t.Helper()
	updates, err := i.Client().Updates(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, u := range updates {
		if u.Name == snap {
			return u
		}
	}
	t.Fatalf("there is no update of %s", snap)
	return client.Update{}
}

// A release comes by itself when the window is open and it is old enough, and not
// before. One whose service fails is undone, and never tried again by itself, but by
// hand; the next one is.
func TestUpdatesComeByThemselves(t *testing.T) {
	t.Parallel()
	i := rig.New(t, rig.Config{})
	s, trace := newShelf(t, i), listen(t, i)
	open, closed := windows(time.Now())
	service := func(version, steps string) string {
		return probeSnap(t, i, probeYAML(version, "\nweb:\n\tdaemon: notify\n\trestart-condition: never\n\tcommand: PROBE trap env:SNAP_REVISION "+steps+"\n"))
	}
	fine := "notify:READY:1 run"
	s.release(service("1", fine), "probe_7", long(time.Hour))
	i.Tenure("set", "system", "refresh.timer="+closed)
	i.Tenure("install", "probe")
	trace.expect("web", "env SNAP_REVISION=7")

	released := time.Now()
	i.Tenure("set", "system", "refresh.minimum-age=3s")
	s.release(service("2", fine), "probe_8", released)
	if u := update(t, i, "probe"); u.Revision != "8" || u.Due.Before(released.Add(3*time.Second)) || !strings.Contains(u.Why, closed) {
		t.Errorf("the update while the window is closed: %+v", u)
	}
	i.Tenure("set", "system", "refresh.timer="+open)
	change := byItself(t, i, "auto-refresh", "probe")
	if age := change.Spawned.Sub(released); age < 3*time.Second {
		t.Errorf("it came %s after its release", age)
	}
	if status := endOf(t, i, change.ID); status != "Done" {
		t.Fatalf("the change is %s", status)
	}
	trace.expect("web", "heard SIGTERM", "env SNAP_REVISION=8")
	if now := current(t, i, "probe"); now.Revision != "8" || now.Channel != "latest/stable" || now.Source != "shelf" {
		t.Errorf("now: %+v", now)
	}

	i.Tenure("unset", "system", "refresh.minimum-age")
	s.release(service("3", "exit:1"), "probe_9", time.Now())
	i.Tenure("set", "system", "refresh.retain=3") // Any change is a reason to look.
	bad := byItself(t, i, "auto-refresh", "probe", change.ID)
	if status := endOf(t, i, bad.ID); status != "Error" {
		t.Fatalf("the change to a service that ends is %s", status)
	}
	trace.expect("web", "heard SIGTERM", "env SNAP_REVISION=9", "env SNAP_REVISION=8")
	held := `does not come by itself: it has failed \(change ` + bad.ID
	for range 2 {
		if out := i.Tenure("refresh", "--list"); !regexp.MustCompile(`(?m)^probe +- +9 .*` + held).MatchString(out) {
			t.Errorf("tenure refresh --list:\n%s", out)
		}
		if out := i.Tenure("info", "probe"); !regexp.MustCompile(`(?m)^update: .* \(9\) ` + held).MatchString(out) {
			t.Errorf("tenure info:\n%s", out)
		}
		i.Kill() // It is remembered.
		i.Start()
	}
	if r := i.Try("refresh"); r.Status != 0 || !strings.Contains(r.Stderr, "name it to refresh it all the same") {
		t.Errorf("refresh of all snaps: %+v", r)
	}
	if r := i.Try("refresh", "probe"); r.Status == 0 || !strings.Contains(r.Stderr, "probe.web") {
		t.Errorf("refresh by hand to what has failed: %+v", r)
	}
	trace.expect("web", "heard SIGTERM", "env SNAP_REVISION=9", "env SNAP_REVISION=8")

	s.release(service("4", fine), "probe_10", time.Now())
	i.Tenure("set", "system", "refresh.retain=4")
	good := byItself(t, i, "auto-refresh", "probe", change.ID, bad.ID)
	if status := endOf(t, i, good.ID); status != "Done" {
		t.Errorf("the change to the next one is %s", status)
	}
	trace.expect("web", "heard SIGTERM", "env SNAP_REVISION=10")
	trace.silent("web")
}

// releaseFile is the command "release" of the scripts.
func releaseFile(ts *testscript.TestScript, _ bool, args []string) {
	if len(args) < 4 {
		ts.Fatalf("usage: release DIR NAME_REV FILE WHEN [LINE...]")
	}
	after, err := time.ParseDuration(args[3])
	ts.Check(err)
	ts.Check(release(ts.MkAbs(args[2]), ts.MkAbs(args[0]), args[1], time.Now().Add(after), args[4:]...))
}

// A revision whose service fails while it is observed is at fault, too.
func TestWhatFailsUnderObservationIsHeldBack(t *testing.T) {
	t.Parallel()
	i := rig.New(t, rig.Config{Observe: true})
	s := newShelf(t, i)
	open, closed := windows(time.Now())
	i.Tenure("set", "system", "refresh.timer="+closed)
	file := func(version string) string {
		return probeSnap(t, i, probeYAML(version, "\nweb:\n\tdaemon: notify\n\tcommand: PROBE trap notify:READY:1 run\n\tlifecycle: {observe: 10m}\n"))
	}
	s.release(file("1"), "probe_7", long(time.Hour))
	i.Tenure("install", "probe")
	s.release(file("2"), "probe_8", long(time.Minute))
	i.Tenure("set", "system", "refresh.timer="+open)
	change := byItself(t, i, "auto-refresh", "probe")
	waitFor(t, i, change.ID, "Wait")
	if err := syscall.Kill(i.Main("probe.web").PID, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if status := endOf(t, i, change.ID); status != "Error" {
		t.Fatalf("the change is %s", status)
	}
	i.Tenure("set", "system", "refresh.retain=3")
	if u := update(t, i, "probe"); !u.Due.IsZero() || !strings.HasPrefix(u.Why, "it has failed (change "+change.ID) {
		t.Errorf("the update: %+v", u)
	}
	if now := current(t, i, "probe"); now.Revision != "7" {
		t.Errorf("now: %+v", now)
	}
	if said := i.Tenure("warnings"); !strings.Contains(said, `the refresh of "probe" to revision 8 has failed: `) || !strings.Contains(said, "see tenure tasks "+change.ID) {
		t.Errorf("the warnings: %s", said)
	}
}

// gated packs a snap whose hook gate-auto-refresh holds its refreshes while there is a
// file "hold", and says what is pending.
func gated(t *testing.T, i *rig.Instance) string {
	t.Helper()
	return hooked(t, i, map[string]string{
		"gate-auto-refresh": `snapctl refresh --pending | sed 's/: /=/' | tr '\n' ' ' >>"$SNAP_COMMON/pending"
[ ! -e "$SNAP_COMMON/hold" ] || snapctl refresh --hold`,
	})
}

// A snap is asked before it is refreshed by itself. It can hold that, also from an app,
// and let it go on, and a refresh by hand does not ask.
func TestASnapIsAskedBeforeItIsRefreshed(t *testing.T) {
	t.Parallel()
	i := rig.New(t, rig.Config{})
	s := newShelf(t, i)
	open, closed := windows(time.Now())
	i.Tenure("install", "--dangerous", snap(t, "debian12", "1"))
	i.Tenure("set", "system", "refresh.timer="+closed)
	file := gated(t, i)
	s.release(file, "hooked_7", long(time.Hour))
	i.Tenure("install", "hooked")
	write(t, filepath.Join(i.Common("hooked"), "hold"), "")

	s.release(file, "hooked_8", long(time.Minute), "version: '8'")
	i.Tenure("set", "system", "refresh.timer="+open)
	asked := byItself(t, i, "gate-auto-refresh", "hooked")
	if status := endOf(t, i, asked.ID); status != "Done" {
		t.Fatalf("the change that asks is %s", status)
	}
	if u := update(t, i, "hooked"); u.Why != "the snap hooked holds it" || !u.Due.After(time.Now()) {
		t.Errorf("held by its hook: %+v", u)
	}
	pending, err := os.ReadFile(filepath.Join(i.Common("hooked"), "pending"))
	if want := "pending=ready channel=latest/stable version=8 revision=8 base=false restart=false "; err != nil || string(pending) != want {
		t.Errorf("pending: %q, %v", pending, err)
	}
	snapctl := func(args ...string) string {
		t.Helper()
		return i.Tenure(append([]string{"run", "hooked.say", "snapctl", "refresh"}, args...)...)
	}
	if out := snapctl("--tracking"); out != "channel: latest/stable\n" {
		t.Errorf("tracking: %q", out)
	}
	snapctl("--hold")
	if u := update(t, i, "hooked"); u.Why != "the snap hooked holds it" || time.Until(u.Due) < 89*24*time.Hour {
		t.Errorf("held by an app: %+v", u)
	}
	if out := i.Tenure("info", "hooked"); !strings.Contains(out, "the snap hooked holds it") {
		t.Errorf("info:\n%s", out)
	}
	if err := os.Remove(filepath.Join(i.Common("hooked"), "hold")); err != nil {
		t.Fatal(err)
	}
	snapctl("--proceed")
	again := byItself(t, i, "gate-auto-refresh", "hooked", asked.ID)
	change := byItself(t, i, "auto-refresh", "hooked")
	if first, second := endOf(t, i, again.ID), endOf(t, i, change.ID); first != "Done" || second != "Done" {
		t.Errorf("asked again: %s, refreshed: %s", first, second)
	}
	if now := current(t, i, "hooked"); now.Revision != "8" {
		t.Errorf("now: %+v", now)
	}
	if r := i.Try("run", "hooked.say", "snapctl", "refresh", "--hold", "--proceed"); r.Status == 0 || !strings.Contains(r.Stderr, "cannot use --proceed and --hold together") {
		t.Errorf("hold and proceed: %+v", r)
	}
}

// A snap that does not answer whether its base may be refreshed is not in the way of another
// on that base, which is asked meanwhile and refreshed.
func TestASnapThatDoesNotAnswerHoldsNoOther(t *testing.T) {
	t.Parallel()
	i := rig.New(t, rig.Config{})
	s := newShelf(t, i)
	open, closed := windows(time.Now())
	i.Tenure("set", "system", "refresh.timer="+closed)
	base := snap(t, "debian12", "1")
	s.release(base, "debian12_1", long(time.Hour))
	silent := hooked(t, i, map[string]string{"gate-auto-refresh": `read -r line <"$SNAP_COMMON/gate"`})
	s.release(silent, "hooked_1", long(time.Hour))
	dir := t.TempDir()
	writeFile(t, filepath.Join(dir, "meta/snap.yaml"), "{name: other, version: '1', base: debian12}")
	writeFile(t, filepath.Join(dir, "meta/hooks/gate-auto-refresh"), "#!/bin/sh\n:\n")
	other := dir + ".snap"
	i.Tenure("pack", "--compression", "lz4", dir, other)
	s.release(other, "other_1", long(time.Hour))
	for _, name := range []string{"debian12", "hooked", "other"} {
		i.Tenure("install", name)
	}
	if err := syscall.Mkfifo(filepath.Join(i.Common("hooked"), "gate"), 0o600); err != nil {
		t.Fatal(err)
	}
	s.release(base, "debian12_2", long(time.Minute))
	i.Tenure("set", "system", "refresh.timer="+open)
	answer := gate(t, i, "gate") // It is asked now.
	asked := byItself(t, i, "gate-auto-refresh", "other")
	if status := endOf(t, i, asked.ID); status != "Done" {
		t.Errorf("the change that asks the other is %s", status)
	}
	s.release(other, "other_2", long(time.Minute))
	i.Tenure("set", "system", "refresh.retain=3") // It looks again.
	if status := endOf(t, i, byItself(t, i, "auto-refresh", "other").ID); status != "Done" {
		t.Errorf("the refresh of the other is %s", status)
	}
	if now := current(t, i, "debian12"); now.Revision != "1" {
		t.Errorf("the base that is asked about is %+v", now)
	}
	if _, err := fmt.Fprintln(answer, "go on"); err != nil {
		t.Fatal(err)
	}
	if status := endOf(t, i, byItself(t, i, "auto-refresh", "debian12").ID); status != "Done" {
		t.Errorf("the refresh of the base is %s", status)
	}
}

// An automatic refresh waits for an app that somebody runs, staged; the newest revision
// takes the place of one that waits; a refresh by hand is refused, and names the
// process.
func TestAnAutomaticRefreshWaitsForPeople(t *testing.T) {
	t.Parallel()
	i := rig.New(t, rig.Config{})
	s, trace := newShelf(t, i), listen(t, i)
	file := func(version string) string {
		return probeSnap(t, i, probeYAML(version, "\nedit:\n\tcommand: PROBE trap report:up run\n"))
	}
	s.release(file("7"), "probe_7", long(time.Hour))
	open, closed := windows(time.Now())
	i.Tenure("set", "system", "refresh.timer="+closed)
	i.Tenure("install", "probe")
	ended := make(chan rig.Result, 1)
	go func() { ended <- i.Try("run", "probe.edit") }()
	trace.expect("edit", "up")

	s.release(file("8"), "probe_8", long(time.Minute))
	i.Tenure("set", "system", "refresh.timer="+open)
	first := byItself(t, i, "auto-refresh", "probe")
	waitFor(t, i, first.ID, "Wait")
	if u := update(t, i, "probe"); u.StagedBy != first.ID {
		t.Errorf("staged: %+v", u)
	}
	if r := i.Try("refresh", "probe"); r.Status == 0 || !strings.Contains(r.Stderr, "probe.edit") {
		t.Errorf("by hand: %+v", r)
	}
	if now, err := i.Client().Change(t.Context(), first.ID); err != nil || now.Status != "Wait" {
		t.Errorf("the change that was refused by hand is %s, %v", now.Status, err)
	}
	s.release(file("9"), "probe_9", time.Now())
	i.Tenure("set", "system", "refresh.retain=3")
	second := byItself(t, i, "auto-refresh", "probe", first.ID)
	if status := endOf(t, i, first.ID); status != "Undone" {
		t.Errorf("the older change is %s", status)
	}
	waitFor(t, i, second.ID, "Wait")
	for _, unit := range i.Units() {
		if err := syscall.Kill(unit.Processes[0].PID, syscall.SIGTERM); err != nil {
			t.Fatal(err)
		}
	}
	if status := endOf(t, i, second.ID); status != "Done" {
		t.Errorf("the change is %s when the app has ended", status)
	}
	<-ended
	if now := current(t, i, "probe"); now.Revision != "9" {
		t.Errorf("now: %+v", now)
	}
}

// waitFor waits until a change has a status.
func waitFor(t *testing.T, i *rig.Instance, id, status string) {
	t.Helper()
	awaitTurn(t, i, id, func(c client.Change) bool { return c.Status == status })
}

// A revision that was reverted from is still there. A refresh to it copies the data of
// the current one; one that fails leaves what that revision had, and everything else, as it was.
func TestARefreshToWhatWasRevertedFrom(t *testing.T) {
	t.Parallel()
	i := rig.New(t, rig.Config{})
	s := newShelf(t, i)
	i.Tenure("set", "system", "refresh.hold=forever")
	i.Tenure("install", "--dangerous", snap(t, "debian12", "1"))
	healthy := map[string]string{"check-health": `[ ! -e "$SNAP_COMMON/sick" ] || { echo not well; exit 1; }`}
	s.release(hooked(t, i, healthy), "hooked_7", long(time.Hour))
	i.Tenure("install", "hooked")
	s.release(hooked(t, i, healthy), "hooked_8", long(time.Minute))
	i.Tenure("refresh")
	fact := func(rev string) string { return i.Path("var/snap/hooked", rev, "fact") }
	own := func(rev string) string { return i.Path("root/snap/hooked", rev, "fact") }
	for _, of := range []func(string) string{fact, own} {
		write(t, of("7"), "seven")
		write(t, of("8"), "eight")
	}
	i.Tenure("revert", "hooked")

	sick := filepath.Join(i.Common("hooked"), "sick")
	write(t, sick, "")
	if r := i.Try("refresh", "hooked"); r.Status == 0 || !strings.Contains(r.Stderr, "not well") {
		t.Fatalf("refresh to a snap that is not well: %+v", r)
	}
	if kept := kept(t, i, "hooked"); !kept["7"].Current || len(kept) != 2 {
		t.Errorf("kept after the refresh that failed: %+v", kept)
	}
	for _, of := range []func(string) string{fact, own} {
		for rev, want := range map[string]string{"7": "seven", "8": "eight"} {
			if text, err := os.ReadFile(of(rev)); err != nil || string(text) != want {
				t.Errorf("after the refresh that failed %s has %q, %v", of(rev), text, err)
			}
		}
	}
	if err := os.Remove(sick); err != nil {
		t.Fatal(err)
	}
	i.Tenure("refresh", "hooked")
	if kept := kept(t, i, "hooked"); !kept["8"].Current || len(kept) != 2 {
		t.Errorf("kept after the refresh: %+v", kept)
	}
	for _, of := range []func(string) string{fact, own} {
		if text, err := os.ReadFile(of("8")); err != nil || string(text) != "seven" {
			t.Errorf("after the refresh %s has %q, %v", of("8"), text, err)
		}
		if left, err := filepath.Glob(filepath.Dir(filepath.Dir(of("8"))) + "/*.aside"); err != nil || len(left) > 0 {
			t.Errorf("left aside: %v, %v", left, err)
		}
	}
}

// kept are the revisions of a snap that are kept.
func kept(t *testing.T, i *rig.Instance, name string) map[string]client.Snap {
	t.Helper()
	list, err := i.Client().Snaps(t.Context(), true)
	if err != nil {
		t.Fatal(err)
	}
	found := map[string]client.Snap{}
	for _, snap := range list {
		if snap.Name == name {
			found[snap.Revision] = snap
		}
	}
	return found
}

// A rule of the administrator goes before the options, and is named.
func TestARuleHoldsUpdates(t *testing.T) {
	t.Parallel()
	i := rig.New(t, rig.Config{})
	s := newShelf(t, i)
	i.Tenure("set", "system", "refresh.hold=forever")
	s.release(snap(t, "hello", "1"), "hello_7", long(time.Hour))
	i.Tenure("install", "hello")
	s.release(snap(t, "hello", "2"), "hello_8", long(time.Minute), "urgency: low", "version: '2'")
	i.Stop()
	if err := os.MkdirAll(i.Path("etc/tenure"), 0o755); err != nil { //nolint:gosec // As on any machine.
		t.Fatal(err)
	}
	write(t, i.Path("etc/tenure/policy.yaml"), `
- name: calm
  when: update.urgency == "low" && update.step == "major"
  do: {minimum-age: 1w}
- name: sundays
  when: snap.name == "hello"
  do: {window: 'sun,02:00-05:00'}
`)
	i.Start()
	i.Tenure("unset", "system", "refresh.hold")
	u := update(t, i, "hello")
	if at := u.Due.Local(); at.Weekday() != time.Sunday || at.Before(u.Released.Add(7*24*time.Hour)) || u.Why != "its window is sun,02:00-05:00 (rule sundays)" { //nolint:gosmopolitan // Windows are in the time of the machine.
		t.Errorf("due %s: %s", u.Due, u.Why)
	}
	i.Tenure("set", "system", "refresh.retain=3")
	if now := current(t, i, "hello"); now.Revision != "7" {
		t.Errorf("it came before its time: %+v", now)
	}
}
