// Package sysbus runs a D-Bus daemon for one test and, on it, the real polkit with rules of
// the test's and people who are asked.
//
// What always holds: nothing of the machine's own bus and polkit is used or changed, and
// what a test starts ends with it.
package sysbus

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/godbus/dbus/v5"

	"tenure/test/mountns"
)

// New runs a bus that lets everybody do everything, and returns its address.
func New(tb testing.TB) string {
	tb.Helper()
	dir := tb.TempDir()
	config := filepath.Join(dir, "config")
	err := os.WriteFile(config, fmt.Appendf(nil, `<busconfig>
  <type>system</type>
  <listen>unix:abstract=tenure-test-%s-%s</listen>
  <auth>EXTERNAL</auth>
  <policy context="default"><allow send_destination="*"/><allow receive_sender="*"/><allow own="*"/><allow user="*"/></policy>
</busconfig>`, filepath.Base(filepath.Dir(dir)), filepath.Base(dir)), 0o600)
	if err != nil {
		tb.Fatal(err)
	}
	cmd := exec.CommandContext(context.WithoutCancel(tb.Context()), "dbus-daemon", "--config-file="+config, "--nofork", "--nopidfile", "--print-address=1")
	line := start(tb, cmd, "unix:")
	address, _, _ := strings.Cut(line, ",")
	return address
}

// start starts a program that lives until what the test starts afterwards is cleaned up, and
// returns the first line with mark that it prints.
func start(tb testing.TB, cmd *exec.Cmd, mark string) string {
	tb.Helper()
	stdout, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	out := bufio.NewReader(stdout)
	for {
		line, err := out.ReadString('\n')
		if err != nil {
			tb.Fatalf("%s ends before it says %q: %v", cmd.Path, mark, err)
		}
		if strings.Contains(line, mark) {
			go io.Copy(io.Discard, out) //nolint:errcheck // It ends with the program.
			return strings.TrimSpace(line)
		}
	}
}

// Connect is a connection to a bus, for as long as the test.
func Connect(tb testing.TB, address string) *dbus.Conn {
	tb.Helper()
	conn, err := dbus.Connect(address)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = conn.Close() })
	return conn
}

// Polkit runs Debian's polkitd on a bus, with a checkout's actions and with rules
// (polkit(8)) instead of the machine's.
func Polkit(tb testing.TB, address, checkout, rules string) {
	tb.Helper()
	none, own, actions := tb.TempDir(), tb.TempDir(), tb.TempDir()
	policies, err := filepath.Glob(filepath.Join(checkout, "packaging", "*.policy"))
	if err != nil || len(policies) == 0 {
		tb.Fatalf("the actions in %s: %v, %v", checkout, policies, err)
	}
	for _, policy := range policies {
		text, err := os.ReadFile(policy)
		if err == nil {
			err = os.WriteFile(filepath.Join(actions, filepath.Base(policy)), text, 0o644) //nolint:gosec // polkitd is not root.
		}
		if err != nil {
			tb.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(own, "test.rules"), []byte(rules), 0o644); err != nil { //nolint:gosec // See above.
		tb.Fatal(err)
	}
	cmd := exec.CommandContext(context.WithoutCancel(tb.Context()), "unshare", "--mount", "sh", "-ec", mountns.Script(`
		leave_others
		mount --bind "$0" /usr/share/polkit-1/actions
		mount --bind "$1" /usr/share/polkit-1/rules.d
		mount --bind "$2" /etc/polkit-1/rules.d
		exec /usr/lib/polkit-1/polkitd`), actions, own, none)
	cmd.Env = append(os.Environ(), "DBUS_SYSTEM_BUS_ADDRESS="+address)
	start(tb, cmd, "Acquired the name")
}
