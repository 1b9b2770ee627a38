package manager

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"tenure/examples/clients/qmp"
	"tenure/examples/clients/virtd"
	"tenure/examples/virt/process"
)

// processes runs machines as processes that daemonize themselves: QEMU of the manager's
// own package.
type processes struct {
	config Config
}

// boot boots a machine, or has it go on where it was suspended. The state is
// gone before it does: the disk moves on, and nothing may bring back what was before.
func (m processes) boot(ctx context.Context, v *machine) error {
	if err := m.makeDisk(v.Name); err != nil {
		return err
	}
	path := m.file(v.Name, virtd.Suspended)
	state, err := os.Open(path)
	if errors.Is(err, os.ErrNotExist) {
		return m.start(ctx, v)
	}
	if err != nil {
		return err
	}
	defer state.Close() //nolint:errcheck // Only read.
	if err := m.start(ctx, v, "-incoming", "defer"); err != nil {
		return err
	}
	if err := os.Remove(path); err != nil {
		return err
	}
	return v.client.Resume(ctx, state)
}

// makeDisk makes the disk of a machine that has none.
func (m processes) makeDisk(name string) error {
	disk := m.file(name, virtd.DiskImage)
	if _, err := os.Stat(disk); !errors.Is(err, os.ErrNotExist) {
		return err
	}
	if err := copyFile(filepath.Join(m.config.Snap, "guest", "guest.img"), disk); err != nil {
		return fmt.Errorf("make the disk: %w", err)
	}
	return nil
}

// start starts QEMU, which returns when it has daemonized itself and its
// sockets listen.
func (m processes) start(ctx context.Context, v *machine, more ...string) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, filepath.Join(m.config.Snap, "usr/bin/qemu-system-x86_64"), append(m.arguments(v), more...)...) //nolint:gosec // The name has been checked, the rest is ours.
	cmd.Dir = "/"
	cmd.Env = []string{
		"PATH=/usr/sbin:/usr/bin:/sbin:/bin",
		"LD_LIBRARY_PATH=" + filepath.Join(m.config.Snap, "usr/lib/x86_64-linux-gnu"),
		"QEMU_MODULE_DIR=" + filepath.Join(m.config.Snap, "usr/lib/x86_64-linux-gnu/qemu"),
	}
	cmd.WaitDelay = time.Second
	if output, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("qemu: %w: %s", err, bytes.TrimSpace(output))
	}
	return m.attach(ctx, v)
}

func (m processes) arguments(v *machine) []string {
	args := []string{"-name", v.Name, "-uuid", v.UUID, "-machine", "pc", "-m", "16"}
	for _, accel := range m.accelerators() {
		args = append(args, "-accel", accel)
	}
	share := filepath.Join(m.config.Snap, "usr/share")
	args = append(
		args, "-nodefaults", "-no-user-config", "-display", "none",
		"-L", filepath.Join(share, "qemu"), "-L", filepath.Join(share, "seabios"),
		"-drive", "if=ide,format=raw,file="+m.file(v.Name, virtd.DiskImage),
		"-chardev", "file,id=serial,append=on,path="+m.file(v.Name, virtd.SerialLog), "-serial", "chardev:serial",
	)
	for _, socket := range []string{managerSocket, StopSocket, virtd.QMPSocket} {
		args = append(args, "-qmp", "unix:"+m.file(v.Name, socket)+",server=on,wait=off")
	}
	return append(args, "-pidfile", m.file(v.Name, virtd.PIDFile), "-daemonize")
}

// attach connects to the process of a machine.
func (m processes) attach(ctx context.Context, to *machine) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	client, err := qmp.Dial(ctx, m.file(to.Name, managerSocket))
	if err != nil {
		return err
	}
	uuid, err := client.UUID(ctx)
	if err == nil && uuid != to.UUID {
		err = fmt.Errorf("machine %s answers with uuid %s, want %s", to.Name, uuid, to.UUID)
	}
	var pid int
	if err == nil {
		pid, err = readPID(m.file(to.Name, virtd.PIDFile))
	}
	if err != nil {
		return errors.Join(err, client.Close())
	}
	to.client, to.PID = client, pid
	return nil
}

// running is that the machine's process still keeps its connection.
func (processes) running(_ context.Context, v *machine) bool {
	if v.client == nil {
		return false
	}
	select {
	case <-v.client.Done():
		return false
	default:
		return true
	}
}

// end waits for the process too, so that the machine can be started again at once.
func (processes) end(ctx context.Context, v *machine) error {
	handle, err := process.Open(v.PID)
	if errors.Is(err, process.ErrGone) {
		return nil
	}
	if err != nil {
		return err
	}
	defer handle.Close() //nolint:errcheck // Nothing was written.
	if err := v.client.End(ctx, Grace); err != nil {
		return err
	}
	return handle.Wait(ctx)
}

func (m processes) accelerators() []string {
	if m.config.Accel != nil {
		return m.config.Accel
	}
	if text, err := os.ReadFile(filepath.Join(m.config.Common, virtd.Accel)); err == nil {
		return strings.Fields(string(text))
	}
	kvm, err := os.OpenFile("/dev/kvm", os.O_RDWR, 0)
	if err != nil {
		return []string{"tcg"}
	}
	kvm.Close() //nolint:errcheck // Nothing was written.
	return []string{"kvm", "tcg"}
}

func (m processes) file(name, file string) string {
	return virtd.Client{Common: m.config.Common}.File(name, file)
}

func readPID(path string) (int, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return 0, fmt.Errorf("read the pid: %w", err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil {
		return 0, fmt.Errorf("read the pid: %w", err)
	}
	return pid, nil
}
