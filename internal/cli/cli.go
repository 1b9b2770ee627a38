// Package cli is the command line: snap's verbs, flags and output, and what
// Tenure adds.
//
// A command either did what it was asked, or says in one sentence why not and
// what to do, and exits with a status other than 0. Progress goes to a terminal
// alone, results to standard output, errors to standard error.
//
// Run may be called concurrently: it has no state.
package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"tenure/client"
)

// Config is what a command line works with.
type Config struct {
	Args           []string
	Stdout, Stderr io.Writer
	// Getenv reads the environment, Environ lists it.
	Getenv  func(string) string
	Environ func() []string
	// Terminal is where progress goes; nil where there is no terminal.
	Terminal io.Writer
	Version  string
}

// app is one run of the command line.
type app struct {
	cfg    Config
	root   string
	asJSON bool
	noWait bool
}

// Run carries out one command line, and returns the exit status.
func Run(ctx context.Context, cfg Config) int {
	a := &app{cfg: cfg}
	root := a.command()
	root.SetArgs(cfg.Args)
	root.SetOut(cfg.Stdout)
	root.SetErr(cfg.Stderr)
	err := root.ExecuteContext(ctx)
	if err == nil {
		return 0
	}
	if quiet, ok := errors.AsType[*exitError](err); ok {
		return quiet.status
	}
	fmt.Fprintln(cfg.Stderr, "error:", err) //nolint:errcheck // There is nowhere else to say it.
	return exitStatus(err)
}

// exitError ends with a status, and has said why already.
type exitError struct{ status int }

func (e *exitError) Error() string { return fmt.Sprintf("exit status %d", e.status) }

// exitStatus is the one table from kinds of errors to exit statuses, as snap has it:
// 10 for a change that stands in the way, which may be tried again, 1 for all else.
func exitStatus(err error) int {
	if failed, ok := errors.AsType[*client.Error](err); ok && failed.Kind == "snap-change-conflict" {
		return 10
	}
	return 1
}

func (a *app) command() *cobra.Command {
	root := &cobra.Command{
		Use:   "tenure",
		Short: "Install, run and refresh snaps, and see what that does to running processes",
		Long: `tenure installs, runs and refreshes snaps, and decides the fate of every running
process when a package changes. "tenure plan" says beforehand what a change would
do to each process, and why.`,
		SilenceUsage: true, SilenceErrors: true,
		SuggestionsMinimumDistance: 2,
	}
	root.PersistentFlags().StringVar(&a.root, "root", a.cfg.Getenv("TENURE_ROOT"), "talk to the private instance below this directory (or TENURE_ROOT)")
	root.AddGroup(&cobra.Group{ID: "snaps", Title: "Snaps:"}, &cobra.Group{ID: "services", Title: "Services:"},
		&cobra.Group{ID: "see", Title: "See what runs, and why:"}, &cobra.Group{ID: "changes", Title: "Changes:"})
	root.AddCommand(a.snapCommands()...)
	root.AddCommand(a.serviceCommands()...)
	root.AddCommand(a.seeCommands()...)
	root.AddCommand(a.changeCommands()...)
	root.AddCommand(a.packCommand(), a.runCommand(), a.versionCommand())
	return root
}

func (a *app) client() *client.Client { return client.New(client.Config{Root: a.root}) }

func (a *app) printf(format string, args ...any) {
	fmt.Fprintf(a.cfg.Stdout, format, args...) //nolint:errcheck // A closed output ends the command soon enough.
}

// table prints rows in columns, as snap does.
func (a *app) table(header string, rows func(row func(cells string))) {
	w := tabwriter.NewWriter(a.cfg.Stdout, 2, 2, 2, ' ', 0)
	fmt.Fprintln(w, header)                             //nolint:errcheck // See printf.
	rows(func(cells string) { fmt.Fprintln(w, cells) }) //nolint:errcheck // See printf.
	_ = w.Flush()                                       // See printf.
}

// show prints v as JSON when that was asked for, and reports whether it did.
func (a *app) show(v any) (bool, error) {
	if !a.asJSON {
		return false, nil
	}
	encoder := json.NewEncoder(a.cfg.Stdout)
	encoder.SetIndent("", "  ")
	if err := encoder.Encode(v); err != nil {
		return true, fmt.Errorf("print: %w", err)
	}
	return true, nil
}

// readable gives a command the flag --json.
func (a *app) readable(c *cobra.Command) *cobra.Command {
	c.Flags().BoolVar(&a.asJSON, "json", false, "print JSON")
	return c
}

// existing refuses files that cannot be read, before anything is sent.
func existing(paths []string) error {
	for _, path := range paths {
		f, err := os.Open(path)
		if err != nil {
			return fmt.Errorf("cannot open %q: %w", path, errors.Unwrap(err))
		}
		info, err := f.Stat()
		_ = f.Close()
		if err != nil {
			return fmt.Errorf("cannot open %q: %w", path, err)
		}
		if !info.Mode().IsRegular() {
			return fmt.Errorf("cannot open %q: it is not a file; to make a snap of a directory use tenure pack", path)
		}
	}
	return nil
}

func (a *app) versionCommand() *cobra.Command {
	return &cobra.Command{
		Use: "version", Short: "Show the versions of the client and the daemon", Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			a.printf("tenure   %s\n", a.cfg.Version)
			info, err := a.client().SystemInfo(c.Context())
			if err != nil {
				a.printf("tenured  unavailable\n")
				return nil //nolint:nilerr // A client without a daemon still has a version.
			}
			a.printf("tenured  %s\nkernel   %s\n", info.Version, info.KernelVersion)
			return nil
		},
	}
}
