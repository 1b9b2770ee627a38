//go:build failpoints

package daemon

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
)

// fault makes a program fail at a point of its start, where the name of the directory that it is executed from says
// how it ends: "exits-at-POINT", "panics-at-POINT", "hangs-at-POINT", also when it is told to end, "stops-at-POINT", by a signal that
// no program hears; or has it wait, by "waits-at-POINT", until it is told to end, or somebody opens the pipe "go" in that directory. Points are "inherit", "preflight",
// "rehearsal", "start" (no change has been taken up yet), "ready" and "become" (the last one before another program).
func fault(ctx context.Context, point string) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	dir := filepath.Dir(self)
	how, is := strings.CutSuffix(filepath.Base(dir), "-at-"+point)
	if !is {
		return nil
	}
	how = how[strings.LastIndex(how, "-")+1:]
	fmt.Fprintf(os.Stderr, "it %s on purpose\n", how)
	switch how {
	case "exits":
		return errors.New("it fails on purpose")
	case "panics":
		go panic("it panics on purpose")
		select {}
	case "hangs":
		select {}
	case "stops":
		if err := syscall.Kill(os.Getpid(), syscall.SIGSTOP); err != nil {
			return err
		}
		select {}
	case "waits":
		awaitGo(ctx, filepath.Join(dir, "go"))
	}
	return nil
}

// awaitGo waits until somebody opens a pipe for writing, or ctx ends.
func awaitGo(ctx context.Context, path string) {
	opened := make(chan struct{})
	go func() {
		if pipe, err := os.Open(path); err == nil {
			_ = pipe.Close() // Nothing is said.
			close(opened)
		}
	}()
	select {
	case <-opened:
	case <-ctx.Done():
	}
}
