package nspawn_test

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"tenure/test/nspawn"
)

// Each, if set, makes this binary something else than its tests.
const (
	// victim boots a machine, says its name, and waits.
	victim = "TENURE_NSPAWN_VICTIM"
	// insider runs itself in a machine, and says there what it is given.
	insider = "TENURE_NSPAWN_INSIDER"
)

func TestMain(m *testing.M) {
	switch {
	case os.Getenv(victim) != "":
		os.Exit(beVictim())
	case os.Getenv(insider) != "" && os.Getenv(nspawn.Inside) != "":
		os.Exit(beInsider())
	case os.Getenv(insider) != "":
		os.Exit(nspawn.Main(m))
	}
	os.Exit(m.Run())
}

func beVictim() int {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	machine, err := nspawn.Boot(ctx, nspawn.Config{})
	if err != nil {
		fmt.Println("error:", err)
		return 1
	}
	fmt.Println(machine.Name)
	select {}
}

func beInsider() int {
	first, _ := os.ReadFile("/proc/1/comm")
	dir, _ := os.Getwd()
	fmt.Printf("%q below %s in %s", os.Args[1:], bytes.TrimSpace(first), dir)
	return 7
}

const patience = time.Minute

func TestAMachineRunsPrograms(t *testing.T) {
	t.Parallel()
	shared := t.TempDir()
	m := nspawn.New(t, nspawn.Config{
		Binds: map[string]string{"/mnt/shared": shared},
		Prepare: func(root string) error {
			return os.WriteFile(filepath.Join(root, "etc/greeting"), []byte("hello\n"), 0o644)
		},
	})
	for _, c := range []struct {
		line string
		want nspawn.Result
	}{
		{"systemctl is-system-running", nspawn.Result{Stdout: "running\n"}},
		{"cat /proc/1/comm", nspawn.Result{Stdout: "systemd\n"}},
		{"hostname", nspawn.Result{Stdout: m.Name + "\n"}},
		{"cat /etc/greeting", nspawn.Result{Stdout: "hello\n"}},
		{"echo out; echo err >&2; exit 7", nspawn.Result{Stdout: "out\n", Stderr: "err\n", Status: 7}},
		{"kill -KILL $$", nspawn.Result{Status: 255}},
		{"echo made inside >/mnt/shared/file", nspawn.Result{}},
		{"echo 4 2>/dev/null >/proc/sys/kernel/printk || echo refused", nspawn.Result{Stdout: "refused\n"}},
		{"touch /usr/bin/of-the-machine && ls /usr/bin/of-the-machine", nspawn.Result{Stdout: "/usr/bin/of-the-machine\n"}},
	} {
		if diff := cmp.Diff(c.want, m.Run(t.Context(), "sh", "-c", c.line)); diff != "" {
			t.Errorf("%s: (-want +got)\n%s", c.line, diff)
		}
	}
	cmd := m.Command(t.Context(), nspawn.Program{
		Argv: []string{"sh", "-c", `echo "$WORD" in "$PWD"`}, Dir: "/usr", Env: map[string]string{"WORD": "$HOME = %n 'here'"},
	})
	if out, err := cmd.Output(); err != nil || string(out) != "$HOME = %n 'here' in /usr\n" {
		t.Errorf("a program with an environment and a directory: %q, %v", out, err)
	}
	if text, err := os.ReadFile(filepath.Join(shared, "file")); err != nil || string(text) != "made inside\n" {
		t.Errorf("a file of a shared directory: %q, %v", text, err)
	}
	if text, err := os.ReadFile(m.Path("etc/hostname")); err != nil || string(text) != m.Name+"\n" {
		t.Errorf("a file of the machine: %q, %v", text, err)
	}
	if _, err := os.Stat("/usr/bin/of-the-machine"); err == nil {
		t.Error("the machine has written to the host's /usr")
	}
}

func TestAMachineRebootsWithWhatIsInItsRoot(t *testing.T) {
	t.Parallel()
	const unit = "[Service]\nExecStart=sleep infinity\n[Install]\nWantedBy=multi-user.target\n"
	m := nspawn.New(t, nspawn.Config{Prepare: func(root string) error {
		return os.WriteFile(filepath.Join(root, "etc/systemd/system/sleeper.service"), []byte(unit), 0o644)
	}})
	ask := func(want string, argv ...string) {
		t.Helper()
		if got := m.Run(t.Context(), argv...); got.Stdout != want {
			t.Errorf("%v: %+v, want %q", argv, got, want)
		}
	}
	ask("inactive\n", "systemctl", "is-active", "sleeper")
	ask("", "systemctl", "enable", "sleeper")
	first := m.Leader()
	if err := m.Reboot(t.Context()); err != nil {
		t.Fatal(err)
	}
	if m.Leader() == first {
		t.Errorf("process 1 is %d, as before", first)
	}
	ask("active\n", "systemctl", "is-active", "sleeper")
	if err := m.PowerOff(t.Context()); err != nil {
		t.Error(err)
	}
	if got := m.Run(t.Context(), "true"); got.Status == 0 {
		t.Error("a machine that is off runs programs")
	}
}

// TestAMachineTakesItsLoopDevicesAlong ends a machine without a word to what runs in it.
func TestAMachineTakesItsLoopDevicesAlong(t *testing.T) {
	t.Parallel()
	shared := t.TempDir()
	m, err := nspawn.Boot(t.Context(), nspawn.Config{Binds: map[string]string{"/mnt": shared}})
	if err != nil {
		t.Fatal(err)
	}
	got := m.Run(t.Context(), "sh", "-ec", `
		mksquashfs /etc/os-release /mnt/image -quiet -no-progress >/dev/null
		mkdir /run/image && mount -t squashfs -o loop,ro /mnt/image /run/image
		setsid -f sleep infinity
		findmnt -n -o SOURCE /run/image`)
	if err := m.Close(); err != nil {
		t.Error(err)
	}
	if got.Status != 0 {
		t.Fatalf("mount an image: %+v", got)
	}
	await(t, func() []string {
		file, _ := os.ReadFile(filepath.Join("/sys/block", filepath.Base(strings.TrimSpace(got.Stdout)), "loop/backing_file"))
		if strings.Contains(string(file), m.Name) || strings.Contains(string(file), shared) {
			return []string{string(file)}
		}
		return nil
	})
}

// TestAKilledTestLeavesNothing kills a process that has booted a machine.
func TestAKilledTestLeavesNothing(t *testing.T) {
	t.Parallel()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), self)
	cmd.Env = append(os.Environ(), victim+"=1")
	output, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	name, err := bufio.NewReader(output).ReadString('\n')
	if killErr := cmd.Process.Kill(); err != nil || killErr != nil {
		t.Fatal(err, killErr)
	}
	_ = cmd.Wait() // It was killed.
	name = strings.TrimSuffix(name, "\n")
	if !strings.HasPrefix(name, "tenure-vm-") {
		t.Fatalf("it said %q", name)
	}
	await(t, func() []string { return nspawn.Leftovers(name) })
}

func TestMainRunsTestsInAMachine(t *testing.T) {
	t.Parallel()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), self, "a", "$HOME ")
	cmd.Env = append(os.Environ(), insider+"=1")
	cmd.Stderr = t.Output()
	output, err := cmd.Output()
	dir, _ := os.Getwd()
	if want := fmt.Sprintf(`["a" "$HOME "] below systemd in %s`, dir); string(output) != want || cmd.ProcessState.ExitCode() != 7 {
		t.Errorf("it said %s, want %s, and ended: %v, want status 7", output, want, err)
	}
}

// await waits until there is nothing left.
func await(t *testing.T, left func() []string) {
	t.Helper()
	const again = 100 * time.Millisecond
	ticker := time.NewTicker(again)
	defer ticker.Stop()
	lost := time.After(patience)
	for {
		found := left()
		if len(found) == 0 {
			return
		}
		select {
		case <-ticker.C:
		case <-lost:
			t.Fatalf("left behind:\n%s", strings.Join(found, "\n"))
		}
	}
}
