package manager

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"time"

	"tenure/examples/clients/virtd"
)

const recordFile = "machine.json"

var validName = regexp.MustCompile(`^[a-z0-9](-?[a-z0-9]){0,39}$`)

// start boots the machine of the name, which is made if it is new. Only Run
// calls it.
func (m *Manager) start(ctx context.Context, name string) (virtd.Machine, error) {
	if !validName.MatchString(name) {
		return virtd.Machine{}, fmt.Errorf("machine name %q: want a-z, 0-9 and single inner dashes", name)
	}
	v := m.machines[name]
	if v == nil {
		v = &machine{Machine: virtd.Machine{Name: name, UUID: newUUID()}}
	}
	if v.running() || m.attach(ctx, v) == nil {
		return virtd.Machine{}, fmt.Errorf("machine %s is running already, process %d", name, v.PID)
	}
	v.Revision, v.Reattached = m.config.Revision, false
	if err := m.prepare(v); err != nil {
		return virtd.Machine{}, fmt.Errorf("make machine %s: %w", name, err)
	}
	m.machines[name] = v
	if err := m.bootOrResume(ctx, v); err != nil {
		return virtd.Machine{}, fmt.Errorf("start machine %s: %w", name, err)
	}
	m.config.Log.Info("machine started", slog.String("name", name), slog.Int("pid", v.PID))
	return v.state(), nil
}

// prepare makes what a machine needs on disk, and leaves what is there. The
// record is last: without it there is no machine.
func (m *Manager) prepare(v *machine) error {
	if err := os.MkdirAll(m.file(v.Name, ""), 0o700); err != nil {
		return err
	}
	disk := m.file(v.Name, virtd.DiskImage)
	if _, err := os.Stat(disk); errors.Is(err, os.ErrNotExist) {
		if err := copyFile(filepath.Join(m.config.Snap, "guest", "guest.img"), disk); err != nil {
			return fmt.Errorf("make the disk: %w", err)
		}
	}
	record, err := json.Marshal(v.Machine)
	if err != nil {
		return err
	}
	return replaceFile(m.file(v.Name, recordFile), bytes.NewReader(record))
}

// bootOrResume boots a machine, or has it go on where it was suspended. The state is
// gone before it does: the disk moves on, and nothing may bring back what was before.
func (m *Manager) bootOrResume(ctx context.Context, v *machine) error {
	path := m.file(v.Name, virtd.Suspended)
	state, err := os.Open(path)
	if errors.Is(err, os.ErrNotExist) {
		return m.boot(ctx, v)
	}
	if err != nil {
		return err
	}
	defer state.Close() //nolint:errcheck // Only read.
	if err := m.boot(ctx, v, "-incoming", "defer"); err != nil {
		return err
	}
	if err := os.Remove(path); err != nil {
		return err
	}
	return v.client.Resume(ctx, state)
}

// boot starts QEMU, which returns when it has daemonized itself and its
// sockets listen.
func (m *Manager) boot(ctx context.Context, v *machine, more ...string) error {
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

func (m *Manager) arguments(v *machine) []string {
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

// readRecord reads the record of the machine in dir.
func readRecord(dir string) (virtd.Machine, error) {
	text, err := os.ReadFile(filepath.Join(dir, recordFile))
	if err != nil {
		return virtd.Machine{}, fmt.Errorf("read the record: %w", err)
	}
	var record virtd.Machine
	if err := json.Unmarshal(text, &record); err != nil {
		return virtd.Machine{}, fmt.Errorf("read the record: %w", err)
	}
	if record.Name != filepath.Base(dir) {
		return virtd.Machine{}, fmt.Errorf("record of machine %q found at %s", record.Name, dir)
	}
	return virtd.Machine{Name: record.Name, UUID: record.UUID, Revision: record.Revision}, nil
}

func copyFile(from, to string) error {
	source, err := os.Open(from)
	if err != nil {
		return err
	}
	defer source.Close() //nolint:errcheck // Only read.
	return replaceFile(to, source)
}

// replaceFile writes a file that is there whole or not at all.
func replaceFile(path string, content io.Reader) error {
	file, err := os.CreateTemp(filepath.Dir(path), ".new-*")
	if err != nil {
		return err
	}
	_, err = io.Copy(file, content)
	err = errors.Join(err, file.Sync(), file.Close())
	if err == nil {
		err = os.Rename(file.Name(), path)
	}
	if err != nil {
		return errors.Join(err, os.Remove(file.Name()))
	}
	return nil
}

// newUUID is a random UUID (RFC 9562, version 4).
func newUUID() string {
	var b [16]byte
	rand.Read(b[:])
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}
