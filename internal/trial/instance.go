package trial

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"tenure/client"
)

// patience bounds the waits for the daemon itself.
const patience = time.Minute

// instance is a daemon in a root of its own.
type instance struct {
	root     string
	programs string
	client   *client.Client
	daemon   *exec.Cmd
	said     *words
	ended    chan struct{}
}

// words keeps what the daemon writes, and tells when it is ready.
type words struct {
	mu    sync.Mutex
	text  bytes.Buffer
	ready chan struct{}
	told  bool
}

// Write implements io.Writer.
func (w *words) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.text.Write(p)
	if !w.told && bytes.Contains(w.text.Bytes(), []byte("msg=ready")) {
		w.told = true
		close(w.ready)
	}
	return len(p), nil
}

func (w *words) String() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return strings.TrimSpace(w.text.String())
}

// begin makes a root and starts a daemon in it.
func begin(programs string) (*instance, error) {
	root, err := os.MkdirTemp("", "tn-")
	if err != nil {
		return nil, fmt.Errorf("make a root: %w", err)
	}
	i := &instance{
		root: root, programs: programs, client: client.New(client.Config{Root: root}),
		said: &words{ready: make(chan struct{})}, ended: make(chan struct{}),
	}
	// It outlives whoever interrupts the trial: then it is shut down, and not cut off.
	i.daemon = exec.CommandContext(context.Background(), filepath.Join(programs, "tenured"), "--root", root)
	i.daemon.Stdout, i.daemon.Stderr = i.said, i.said
	i.daemon.WaitDelay = time.Second
	i.daemon.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := i.daemon.Start(); err != nil {
		return nil, errors.Join(fmt.Errorf("start tenured: %w", err), os.RemoveAll(root))
	}
	go func() {
		_ = i.daemon.Wait() // How it ended is in what it said.
		close(i.ended)
	}()
	select {
	case <-i.said.ready:
		return i, nil
	case <-i.ended:
		err = fmt.Errorf("start tenured: it ended at once: %s", i.said)
	case <-time.After(patience):
		err = fmt.Errorf("start tenured: it is not ready after %s: %s", patience, i.said)
	}
	return nil, errors.Join(err, i.end())
}

// end ends everything below the root, and the root.
func (i *instance) end() error {
	ctx, cancel := context.WithTimeout(context.Background(), 2*patience)
	defer cancel()
	out, err := exec.CommandContext(ctx, filepath.Join(i.programs, "tenured"), "shutdown", "--root", i.root).CombinedOutput()
	if err != nil {
		return fmt.Errorf("end the trial: what is below %s stays: %w: %s", i.root, err, bytes.TrimSpace(out))
	}
	<-i.ended
	if mounts := i.mounts(); len(mounts) > 0 {
		return fmt.Errorf("end the trial: still mounted: %s", strings.Join(mounts, ", "))
	}
	if err := os.RemoveAll(i.root); err != nil {
		return fmt.Errorf("end the trial: %w", err)
	}
	return nil
}

// mounts are the mount points below the root.
func (i *instance) mounts() []string {
	text, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return []string{err.Error()}
	}
	var found []string
	for line := range strings.Lines(string(text)) {
		// The fifth field is the mount point (proc_pid_mountinfo(5)).
		if fields := strings.Fields(line); len(fields) > 4 && strings.HasPrefix(fields[4], i.root+"/") {
			found = append(found, fields[4])
		}
	}
	return found
}

// do carries out an action, and returns the change when it has ended.
func (i *instance) do(ctx context.Context, action client.Action) (client.Change, error) {
	id, err := i.client.Do(ctx, action)
	if err != nil {
		return client.Change{}, err
	}
	var seen uint64
	for {
		c, err := i.client.Follow(ctx, id, seen)
		if err != nil {
			return c, err
		}
		if c.Ready {
			return c, nil
		}
		seen = c.Revision
	}
}
