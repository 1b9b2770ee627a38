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
	"path/filepath"
	"regexp"

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
	if m.host.running(ctx, v) || m.host.attach(ctx, v) == nil {
		return virtd.Machine{}, fmt.Errorf("machine %s is running already, process %d", name, v.PID)
	}
	v.Revision, v.Reattached = m.config.Revision, false
	if err := m.record(v); err != nil {
		return virtd.Machine{}, fmt.Errorf("make machine %s: %w", name, err)
	}
	m.machines[name] = v
	if err := m.host.boot(ctx, v); err != nil {
		return virtd.Machine{}, fmt.Errorf("start machine %s: %w", name, err)
	}
	m.config.Log.Info("machine started", slog.String("name", name), slog.Int("pid", v.PID))
	return m.state(ctx, v), nil
}

// record writes down what a machine is: without it there is none.
func (m *Manager) record(v *machine) error {
	dir := virtd.Client{Common: m.config.Common}.File(v.Name, "")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	record, err := json.Marshal(v.Machine)
	if err != nil {
		return err
	}
	return replaceFile(filepath.Join(dir, recordFile), bytes.NewReader(record))
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
