package proc

import (
	"context"
	"iter"
	"os/exec"
	"strings"
	"testing"
	"time"
)

// TestBirths starts a shell that forks, and a fork that executes: both are heard
// of, in order, and nothing else is said of them.
func TestBirths(t *testing.T) {
	t.Parallel()
	for name, listen := range sources() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			testBirths(t, listen)
		})
	}
}

// sources are all that tell of births.
func sources() map[string]func(...BirthKind) (births, error) {
	return map[string]func(...BirthKind) (births, error){
		"connector": func(kinds ...BirthKind) (births, error) { return listenConnector(kinds) },
		"perf":      func(kinds ...BirthKind) (births, error) { return listenPerf(kinds) },
	}
}

func testBirths(t *testing.T, listen func(...BirthKind) (births, error)) {
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	from, err := listen()
	if err != nil {
		t.Fatal(err)
	}
	births := told(ctx, from)
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

// TestBirthsOfOneKind hears of many programs, each after the one before is heard of:
// nobody waits for what has been told already.
func TestBirthsOfOneKind(t *testing.T) {
	t.Parallel()
	for name, listen := range sources() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			from, err := listen(Executed)
			if err != nil {
				t.Fatal(err)
			}
			next, stop := iter.Pull(told(ctx, from))
			defer stop()
			for range 100 {
				cmd := exec.CommandContext(ctx, "/bin/true")
				if err := cmd.Run(); err != nil {
					t.Fatal(err)
				}
				for heard := 0; heard != cmd.Process.Pid; {
					birth, ok := next()
					if !ok || birth.Kind == Forked {
						t.Fatalf("not told of %d, but of %v", cmd.Process.Pid, birth)
					}
					if birth.Kind == Missed {
						break // It may have been this one: so much else was born at once.
					}
					heard = birth.PID
				}
			}
		})
	}
}

// TestBirthsEnd ends the listening while nothing comes.
func TestBirthsEnd(t *testing.T) {
	t.Parallel()
	for name, listen := range sources() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			testBirthsEnd(t, listen)
		})
	}
}

func testBirthsEnd(t *testing.T, listen func(...BirthKind) (births, error)) {
	ctx, cancel := context.WithCancel(t.Context())
	from, err := listen()
	if err != nil {
		t.Fatal(err)
	}
	births := told(ctx, from)
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
