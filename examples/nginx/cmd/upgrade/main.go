// Command upgrade is nginx's reload command: it makes the running server start
// its next generation from what is current now, tells the supervisor which process
// is the main one from then on, and lets the old one finish what it has begun.
//
// It fails, and the old server goes on, if the next one does not start.
//
//nolint:forbidigo // The whole program is its main.
package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"github.com/fsnotify/fsnotify"

	"tenure/examples/virt/process"
	"tenure/handover"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	if err := upgrade(ctx, filepath.Join(os.Getenv("SNAP_COMMON"), "run", "nginx.pid")); err != nil {
		fmt.Fprintln(os.Stderr, "upgrade:", err)
		os.Exit(1)
	}
}

// upgrade follows nginx's own protocol (nginx.org, "Controlling nginx"): the new
// server writes its pid where the old one's was, and the old one's moves to
// .oldbin and back if that comes to nothing.
func upgrade(ctx context.Context, pidFile string) error {
	old, err := strconv.Atoi(os.Getenv("MAINPID"))
	if err != nil {
		return fmt.Errorf("MAINPID: %w", err)
	}
	if err := awaitEarlier(ctx, old); err != nil {
		return err
	}
	watcher, err := fsnotify.NewWatcher()
	if err != nil {
		return fmt.Errorf("watch for the new server: %w", err)
	}
	defer watcher.Close() //nolint:errcheck // Nothing was written.
	if err := watcher.Add(filepath.Dir(pidFile)); err != nil {
		return fmt.Errorf("watch for the new server: %w", err)
	}
	if err := syscall.Kill(old, syscall.SIGUSR2); err != nil {
		return fmt.Errorf("tell the server: %w", err)
	}
	next, err := await(ctx, watcher, pidFile, old)
	if err != nil {
		return err
	}
	// The old one is the main process until that is known, and is not to end before.
	if err := handover.Notify(ctx, "MAINPID="+strconv.Itoa(next)); err != nil {
		return err
	}
	if err := handover.Barrier(ctx); err != nil {
		return err
	}
	if err := syscall.Kill(old, syscall.SIGQUIT); err != nil {
		return fmt.Errorf("let the old server finish: %w", err)
	}
	return nil
}

// awaitEarlier waits for the server before this one, if that is still finishing after an
// earlier upgrade: it is the parent, and until it has gone nginx refuses another, without
// a word. Its pid file says less: it goes a moment before the process does.
func awaitEarlier(ctx context.Context, pid int) error {
	parent, err := parentOf(pid)
	if err != nil {
		return err
	}
	earlier, err := process.Open(parent)
	if errors.Is(err, process.ErrGone) {
		return nil
	}
	if err != nil {
		return err
	}
	defer earlier.Close() //nolint:errcheck // Nothing was written.
	name, nameErr := nameOf(parent)
	own, err := nameOf(pid)
	if err != nil {
		return err
	}
	// Another process may have had the pid when it was opened.
	if still, err := parentOf(pid); err != nil || still != parent || nameErr != nil || name != own {
		return err
	}
	return earlier.Wait(ctx)
}

// parentOf is the parent of a process, nameOf its name (proc(5)).
func parentOf(pid int) (int, error) {
	text, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "stat"))
	if err != nil {
		return 0, fmt.Errorf("find the parent of the server: %w", err)
	}
	// The name may contain what it likes.
	_, fields, _ := strings.Cut(string(text[bytes.LastIndexByte(text, ')')+1:]), " ")
	var state string
	var parent int
	if _, err := fmt.Sscan(fields, &state, &parent); err != nil {
		return 0, fmt.Errorf("find the parent of the server: %w", err)
	}
	return parent, nil
}

func nameOf(pid int) (string, error) {
	text, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "comm"))
	if err != nil {
		return "", fmt.Errorf("find the name of process %d: %w", pid, err)
	}
	return string(text), nil
}

// await is the pid of the next server, as soon as it serves.
func await(ctx context.Context, watcher *fsnotify.Watcher, pidFile string, old int) (int, error) {
	moved := false
	for {
		select {
		case event := <-watcher.Events:
			if event.Name == pidFile+".oldbin" && event.Has(fsnotify.Create) {
				moved = true
			}
			if event.Name != pidFile {
				continue
			}
			text, err := os.ReadFile(pidFile)
			if err != nil {
				continue
			}
			pid, err := strconv.Atoi(strings.TrimSpace(string(text)))
			switch {
			case err == nil && pid != old:
				return pid, nil
			case err == nil && moved:
				return 0, errors.New("the new server did not start: the old one goes on")
			}
		case err := <-watcher.Errors:
			return 0, fmt.Errorf("watch for the new server: %w", err)
		case <-ctx.Done():
			return 0, fmt.Errorf("wait for the new server: %w", context.Cause(ctx))
		}
	}
}
