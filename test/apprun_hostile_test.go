package test

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	appentry "tenure/internal/entry"
	"tenure/test/rig"
)

// The helper does for a user what it is for, and nothing else.
func TestAUserGetsNothingElseOfTheHelper(t *testing.T) {
	t.Parallel()
	i := rig.New(t, rig.Config{})
	i.Tenure("install", "--dangerous", packWitness(t, i, bareYAML, nil))
	helper := i.Path(appentry.HelperPath)
	own := i.Path("own")
	// A copy without rights, in directories of root and of the user, and a daemon that is not one.
	for _, c := range []struct {
		root string
		uid  int
	}{{own, 0}, {i.Path("stolen"), someUID}} {
		copyProgram(t, helper, filepath.Join(c.root, appentry.HelperPath))
		if err := os.Chown(filepath.Dir(filepath.Join(c.root, appentry.HelperPath)), c.uid, c.uid); err != nil {
			t.Fatal(err)
		}
	}
	copyProgram(t, helper, i.Path("copied"))
	if err := os.MkdirAll(filepath.Join(own, "run/tenure"), 0o755); err != nil { //nolint:gosec // As Tenure makes it.
		t.Fatal(err)
	}
	if err := os.Chown(filepath.Join(own, "run/tenure"), someUID, someGID); err != nil {
		t.Fatal(err)
	}
	listener := asUser(t, "/usr/bin/perl", "-MSocket", "-e", `$| = 1;
socket(S, AF_UNIX, SOCK_STREAM, 0) and bind(S, sockaddr_un($ARGV[0])) and listen(S, 5) or die $!; print "listening\n"; <STDIN>`,
		filepath.Join(own, appentry.SocketPath))
	input, err := listener.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	output, err := listener.StdoutPipe()
	if err == nil {
		err = listener.Start()
	}
	if err == nil {
		_, err = io.ReadFull(output, make([]byte, len("listening\n")))
	}
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = errors.Join(input.Close(), listener.Wait()) }()

	for name, c := range map[string]struct {
		argv []string
		want string
	}{
		"a copy":                     {[]string{i.Path("copied"), "app", "bare"}, "is not where tenured has installed it"},
		"a root of the user's":       {[]string{i.Path("stolen", appentry.HelperPath), "app", "bare"}, "is not root's alone"},
		"a daemon of the user's":     {[]string{filepath.Join(own, appentry.HelperPath), "app", "bare"}, "it is of user 33 and not of root"},
		"in a user namespace":        {[]string{"/usr/bin/unshare", "--user", "--map-root-user", helper, "app", "bare"}, "is not root's alone"},
		"no right to gain rights":    {[]string{"/usr/bin/setpriv", "--no-new-privs", helper, "app", "bare"}, "operation not permitted"},
		"no descriptors":             {[]string{"/bin/sh", "-c", `ulimit -n 3; exec "$0" app bare`, helper}, "netpollinit failed|too many open files"}, // Whoever needs one first.
		"no argument":                {[]string{helper}, "is for the commands in snap/bin"},
		"another mode":               {[]string{helper, "root", "bare"}, "is for the commands in snap/bin"},
		"a name that leads out":      {[]string{helper, "app", "../bare.bare"}, "invalid name"},
		"a hook that leads out":      {[]string{helper, "hook", "../../bin/witness", "bare"}, "hooks are for root to run"},
		"a service of another's":     {[]string{helper, "app", "bare."}, "cannot run"},
		"the name of nothing at all": {[]string{helper, "app", ""}, "cannot run"},
	} {
		cmd := asUser(t, c.argv...)
		// Nothing of that is for the helper.
		cmd.Env = []string{"PATH=/usr/bin:/bin", "TENURE_ROOT=/nowhere", "LD_PRELOAD=/nowhere/lib.so", "GODEBUG=inittrace=0,madvdontneed=1", "GOMEMLIMIT=1", "HOME=/root"}
		var stderr bytes.Buffer
		cmd.Stderr = &stderr
		if err := cmd.Run(); err == nil || !regexp.MustCompile(c.want).Match(stderr.Bytes()) {
			t.Errorf("%s: %v: %s", name, err, stderr.String())
		}
	}

	// Another program is not moved, whoever runs it.
	conn, err := net.Dial("unix", i.Path(appentry.SocketPath))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close() //nolint:errcheck // Only read.
	if answer, err := io.ReadAll(conn); err != nil || !strings.Contains(string(answer), "only the helper") {
		t.Errorf("another program: %q, %v", answer, err)
	}
}

// What a user puts in the way of its own data leads nowhere where the user may not go.
func TestAUsersLinksAreFollowedAsTheUser(t *testing.T) {
	t.Parallel()
	i := rig.New(t, rig.Config{})
	i.Tenure("install", "--dangerous", packWitness(t, i, bareYAML, nil))
	if err := errors.Join(os.MkdirAll(i.Path("var"), 0o755), os.MkdirAll(i.Path("secret"), 0o700), //nolint:gosec // As on any machine.
		os.Mkdir(i.Path(someHome), 0o700), os.Chown(i.Path(someHome), someUID, someGID),
		os.Symlink(i.Path("secret"), i.Path(someHome, "snap"))); err != nil {
		t.Fatal(err)
	}
	cmd := asUser(t, i.Path("snap/bin/bare"))
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	if err := cmd.Run(); err == nil || !strings.Contains(stderr.String(), "permission denied") {
		t.Errorf("%v: %s", err, stderr.String())
	}
	equal(t, "made for the user", names(t, i.Path("secret")), []string(nil))
}

func copyProgram(t *testing.T, from, to string) {
	t.Helper()
	text, err := os.ReadFile(from)
	if err == nil {
		err = os.MkdirAll(filepath.Dir(to), 0o755) //nolint:gosec // As on any machine.
	}
	if err == nil {
		err = os.WriteFile(to, text, 0o755) //nolint:gosec // As on any machine.
	}
	if err != nil {
		t.Fatal(err)
	}
}

// Where a file system keeps no capabilities the helper is set-uid root, and the app has nothing of that.
func TestAHelperThatIsSetUID(t *testing.T) {
	t.Parallel()
	i := rig.New(t, rig.Config{})
	i.Tenure("install", "--dangerous", packWitness(t, i, bareYAML, nil))
	i.Stop()
	dir := filepath.Dir(i.Path(appentry.HelperPath))
	if err := unix.Mount("none", dir, "ramfs", 0, "mode=755"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	i.Start()
	info, err := os.Stat(i.Path(appentry.HelperPath))
	if err != nil || info.Mode() != 0o755|fs.ModeSetuid {
		t.Fatalf("the helper: %v, %v", info.Mode(), err)
	}
	r := reportOf(t, asUser(t, i.Path("snap/bin/bare")))
	equal(t, "user and rights", pick(r.Status, "Uid", "Gid", "Groups", "CapPrm", "CapEff", "CapAmb", "NoNewPrivs"), map[string]string{
		"Uid": "33 33 33 33", "Gid": "33 33 33 33", "Groups": "100", "CapPrm": "0000000000000000", "CapEff": "0000000000000000",
		"CapAmb": "0000000000000000", "NoNewPrivs": "1",
	})
	if !strings.Contains(r.Group, "/bare/") && !strings.Contains(r.Group, ".bare.") {
		t.Errorf("group %s", r.Group)
	}
}
