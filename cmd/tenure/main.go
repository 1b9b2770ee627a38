// Command tenure is the command line of Tenure.
package main

import (
	"context"
	"os"
	"os/signal"
	"runtime/debug"
	"syscall"

	"golang.org/x/term"

	"tenure/internal/cli"
)

// version is set by the linker.
var version = "unknown"

func main() { os.Exit(run()) }

// collectAt is how much the heap grows, in percent of what is in use, before it is collected: a
// command ends before that is worth anything, and collecting while it prints a thousand units
// takes a third of its time.
const collectAt = 800

func run() int {
	debug.SetGCPercent(collectAt)
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	// Two, so that a second ^C is not lost while the first is dealt with.
	interrupts := make(chan os.Signal, 2)
	signal.Notify(interrupts, os.Interrupt)
	cfg := cli.Config{
		Args: os.Args[1:], Stdout: os.Stdout, Stderr: os.Stderr,
		Getenv: os.Getenv, Environ: os.Environ, Interrupts: interrupts, Version: version,
		Interactive: term.IsTerminal(int(os.Stdin.Fd())),
	}
	if term.IsTerminal(int(os.Stderr.Fd())) {
		cfg.Terminal, cfg.Width = os.Stderr, func() int { return width(os.Stderr) }
	}
	if term.IsTerminal(int(os.Stdout.Fd())) {
		cfg.Screen = func() int { return width(os.Stdout) }
	}
	return cli.Run(ctx, cfg)
}

func width(screen *os.File) int {
	columns, _, err := term.GetSize(int(screen.Fd()))
	if err != nil {
		return 0
	}
	return columns
}
