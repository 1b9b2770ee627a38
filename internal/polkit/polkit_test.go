package polkit_test

import (
	"context"
	"errors"
	"net"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/godbus/dbus/v5"
	"github.com/google/go-cmp/cmp"

	"tenure/examples/clients/snaps"
	"tenure/internal/polkit"
	"tenure/internal/proc"
	"tenure/test/sysbus"
)

// Users of every Debian: the rules let one manage, never the other, and ask for the
// password of an administrator for all else.
const (
	free, never, plain = 5, 2, 33
	rules              = `polkit.addRule(function(action, subject) {
	if (action.id == "io.tenure.manage" && subject.user == "games") return polkit.Result.YES;
	if (subject.user == "bin") return polkit.Result.NO;
});`
)

// machine is the address of a bus with the real polkit on it.
func machine(t *testing.T) string {
	t.Helper()
	checkout, err := snaps.Checkout()
	if err != nil {
		t.Fatal(err)
	}
	address := sysbus.New(t)
	sysbus.Polkit(t, address, checkout, rules)
	return address
}

// processOf is a process of a user, for as long as the test.
func processOf(t *testing.T, uid uint32) polkit.Subject {
	t.Helper()
	cmd := exec.Command("sleep", "infinity")
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: 65534}}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	seen, err := proc.Read(cmd.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	return polkit.Subject{Process: seen.Process, UID: uid}
}

// expect fails the test if an error is not of a kind.
func expect(t *testing.T, what string, err, kind error) {
	t.Helper()
	if !errors.Is(err, kind) {
		t.Errorf("%s: %v, want %v", what, err, kind)
	}
}

func TestRulesDecide(t *testing.T) {
	t.Parallel()
	a := polkit.New(polkit.Config{Address: machine(t), Patience: time.Minute})
	check := func(who polkit.Subject, action polkit.Action) error { return a.Check(t.Context(), who, action, false) }
	games := processOf(t, free)
	expect(t, "who may", check(games, polkit.Manage), nil)
	expect(t, "who may do something else", check(games, polkit.Configure), polkit.ErrRefused)
	expect(t, "who may not", check(processOf(t, never), polkit.Manage), polkit.ErrRefused)
	expect(t, "who would be asked", check(processOf(t, plain), polkit.Manage), polkit.ErrRefused)
	expect(t, "an action that is none", check(games, "io.tenure.none"), polkit.ErrNoAuthority)
	later := games
	later.Process.Start--
	if err := check(later, polkit.Manage); err == nil {
		t.Error("a process with the pid of another gets in")
	}
	risen := processOf(t, 0)
	risen.UID = never
	if err := check(risen, polkit.Manage); err == nil {
		t.Error("who was not root when it connected gets in when it is")
	}
	for _, nobody := range []polkit.Subject{{UID: free}, {Process: games.Process, UID: 1 << 31}} {
		expect(t, "nobody", check(nobody, polkit.Manage), polkit.ErrNoAuthority)
	}
}

func TestPeopleAreAsked(t *testing.T) {
	t.Parallel()
	address := machine(t)
	a := polkit.New(polkit.Config{Address: address, Patience: time.Minute})
	who := processOf(t, plain)
	person := sysbus.Sit(t, address, who.Process, who.UID)
	expect(t, "without interaction", a.Check(t.Context(), who, polkit.Manage, false), polkit.ErrRefused)
	person.Unasked()

	ctx, leave := context.WithCancel(t.Context())
	defer leave()
	answers := make(chan error, 1)
	ask := func(action polkit.Action) *sysbus.Question {
		go func() { answers <- a.Check(ctx, who, action, true) }()
		return person.Asked()
	}
	q := ask(polkit.Manage)
	if q.Action != string(polkit.Manage) || q.Message != "Authentication is required to change snaps and their services" {
		t.Errorf("the person is asked about %s: %q", q.Action, q.Message)
	}
	q.Know()
	expect(t, "with the password", <-answers, nil)
	ask(polkit.Configure).Know()
	expect(t, "with the password", <-answers, nil)
	ask(polkit.Manage).Dismiss()
	expect(t, "dismissed", <-answers, polkit.ErrDismissed)
	q = ask(polkit.Manage)
	leave()
	q.TakenBack()
	expect(t, "left alone", <-answers, context.Canceled)
}

// What polkit has read are the defaults of packaging/io.tenure.policy.
func TestDefaultsOfActions(t *testing.T) {
	t.Parallel()
	conn := sysbus.Connect(t, machine(t))
	var actions []struct {
		ID, Description, Message, Vendor, VendorURL, Icon string
		Any, Inactive, Active                             uint32
		Annotations                                       map[string]string
	}
	err := conn.Object("org.freedesktop.PolicyKit1", "/org/freedesktop/PolicyKit1/Authority").
		CallWithContext(t.Context(), "org.freedesktop.PolicyKit1.Authority.EnumerateActions", 0, "C").Store(&actions)
	if err != nil {
		t.Fatal(err)
	}
	const admin, adminKeep = 2, 4
	got := map[polkit.Action][3]uint32{}
	for _, action := range actions {
		got[polkit.Action(action.ID)] = [3]uint32{action.Any, action.Inactive, action.Active}
	}
	defaults := [3]uint32{admin, admin, adminKeep}
	if diff := cmp.Diff(map[polkit.Action][3]uint32{polkit.Manage: defaults, polkit.Configure: defaults}, got); diff != "" {
		t.Errorf("actions (-want +got):\n%s", diff)
	}
}

// mute is an authority that never answers. It tells which questions come and which are
// taken back.
type mute struct {
	asked, taken chan string
	over         <-chan struct{}
}

func (m *mute) CheckAuthorization(
	_ struct {
		Kind    string
		Details map[string]dbus.Variant
	}, _ string, _ map[string]string, _ uint32, id string,
) (authorized struct {
	Authorized, Challenge bool
	Details               map[string]string
}, err *dbus.Error,
) {
	m.asked <- id
	<-m.over
	return authorized, nil
}

func (m *mute) CancelCheckAuthorization(id string) *dbus.Error {
	m.taken <- id
	return nil
}

// muted is the address of a bus with one, in the place of polkit.
func muted(t *testing.T) (string, *mute) {
	t.Helper()
	address := sysbus.New(t)
	conn := sysbus.Connect(t, address)
	m := &mute{asked: make(chan string, 100), taken: make(chan string, 100), over: t.Context().Done()}
	err := conn.Export(m, "/org/freedesktop/PolicyKit1/Authority", "org.freedesktop.PolicyKit1.Authority")
	if err == nil {
		_, err = conn.RequestName("org.freedesktop.PolicyKit1", 0)
	}
	if err != nil {
		t.Fatal(err)
	}
	return address, m
}

// Where nobody answers, nobody is let in, and nobody waits longer than they want.
func TestNobodyAnswers(t *testing.T) {
	t.Parallel()
	silent := filepath.Join(t.TempDir(), "s")
	listener, err := net.ListenUnix("unix", &net.UnixAddr{Name: silent, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close() //nolint:errcheck // It is the test's.
	who := processOf(t, free)
	mutedAddress, _ := muted(t)
	for what, address := range map[string]string{
		"no bus":                        "unix:path=" + silent + ".none",
		"a bus that says nothing":       "unix:path=" + silent,
		"a bus without polkit":          sysbus.New(t),
		"a polkit that does not answer": mutedAddress,
	} {
		a := polkit.New(polkit.Config{Address: address, Patience: 100 * time.Millisecond})
		expect(t, what, a.Check(t.Context(), who, polkit.Manage, false), polkit.ErrNoAuthority)
	}
}

// Questions that a person has all time for end with who has asked them, and nobody has so many
// open that others have none.
func TestOpenQuestions(t *testing.T) {
	t.Parallel()
	const most = 4
	address, m := muted(t)
	a := polkit.New(polkit.Config{Address: address, Patience: 100 * time.Millisecond})
	who, other := processOf(t, free), processOf(t, never)
	ctx, leave := context.WithCancel(t.Context())
	defer leave()
	answers, open := make(chan error, most), map[string]bool{}
	for range most {
		go func() { answers <- a.Check(ctx, who, polkit.Manage, true) }()
		open[<-m.asked] = true
	}
	expect(t, "one more", a.Check(ctx, who, polkit.Manage, true), polkit.ErrBusy)
	expect(t, "another user", a.Check(ctx, other, polkit.Manage, false), context.DeadlineExceeded)
	<-m.asked
	leave()
	for range most {
		expect(t, "left alone", <-answers, context.Canceled)
		delete(open, <-m.taken)
	}
	if len(open) > 0 {
		t.Errorf("%d questions are not taken back", len(open))
	}
	expect(t, "later", a.Check(t.Context(), who, polkit.Manage, false), context.DeadlineExceeded)
}
