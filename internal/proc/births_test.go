package proc

import (
	"context"
	"os/exec"
	"strings"
	"testing"
	"time"
)

// TestBirths starts a shell that forks, and a fork that executes: both are heard
// of, in order, and nothing else is said of them.
func TestBirths(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	births, err := Births(ctx)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(ctx, "/bin/sh", "-c", "/bin/true; :")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	shell := cmd.Process.Pid
	var child int
	var story []string
	for birth := range births {
		switch {
		case birth.Kind == Executed && birth.PID == shell:
			story = append(story, "shell")
		case birth.Kind == Forked && birth.Parent == shell:
			child = birth.PID
			story = append(story, "fork")
		case birth.Kind == Executed && birth.PID == child && child != 0:
			story = append(story, "true")
		}
		if len(story) == 3 {
			break
		}
	}
	if got := strings.Join(story, " "); got != "shell fork true" {
		t.Errorf("heard of %q", got)
	}
	if err := cmd.Wait(); err != nil {
		t.Error(err)
	}
}

// TestBirthsEnd ends the listening while nothing comes.
func TestBirthsEnd(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	births, err := Births(ctx)
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for range births { //nolint:revive // Only its end matters.
		}
	}()
	cancel()
	select {
	case <-ended:
	case <-time.After(10 * time.Second):
		t.Fatal("still listening")
	}
}
