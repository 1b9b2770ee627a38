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
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
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
	// Interactive is that somebody is there who can be asked for a password.
	Interactive bool
	// Terminal is where progress goes; nil where there is no terminal. Width tells
	// how many columns it has, if set.
	Terminal io.Writer
	Width    func() int
	// Screen tells how many columns the terminal has that Stdout is; nil where it is none.
	Screen func() int
	// Interrupts brings what the terminal sends for ^C; it may be nil.
	Interrupts <-chan os.Signal
	Version    string
}

// app is one run of the command line.
type app struct {
	cfg        Config
	root       string
	asJSON     bool
	noWait     bool
	interrupts interrupts
}

// Run carries out one command line, and returns the exit status.
func Run(ctx context.Context, cfg Config) int {
	if cfg.Screen != nil {
		cfg.Stdout = tame{cfg.Stdout}
	}
	if cfg.Terminal != nil {
		cfg.Stderr = tame{cfg.Stderr}
	}
	a := &app{cfg: cfg}
	ctx, end := context.WithCancelCause(ctx)
	defer end(nil)
	go a.interrupts.listen(ctx, cfg.Interrupts, func() { end(errInterrupted) })
	root := a.command()
	root.SetArgs(cfg.Args)
	root.SetOut(cfg.Stdout)
	root.SetErr(cfg.Stderr)
	err := root.ExecuteContext(ctx)
	if err == nil {
		return 0
	}
	if errors.Is(err, context.Canceled) {
		err = context.Cause(ctx)
	}
	fmt.Fprintln(cfg.Stderr, "error:", err) //nolint:errcheck // There is nowhere else to say it.
	return exitStatus(err)
}

// exitStatus is the one table from kinds of errors to exit statuses, as snap has it:
// 10 for a change that stands in the way, which may be tried again, 64 for a command
// line that cannot be understood, 1 for all else.
func exitStatus(err error) int {
	if failed, ok := errors.AsType[*client.Error](err); ok && failed.Kind == "snap-change-conflict" {
		return 10
	}
	if _, ok := errors.AsType[*usageError](err); ok {
		return exitUsage
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
		Args:                       cobra.ArbitraryArgs,
		ValidArgsFunction:          cobra.NoFileCompletions,
		RunE: func(c *cobra.Command, args []string) error {
			if len(args) > 0 {
				return unknown(c, args[0])
			}
			return c.Help()
		},
	}
	root.PersistentFlags().StringVar(&a.root, "root", a.cfg.Getenv("TENURE_ROOT"), "talk to the private instance below this directory (or TENURE_ROOT)")
	root.SetFlagErrorFunc(a.badFlag)
	root.SetHelpCommand(helpCommand())
	root.AddGroup(&cobra.Group{ID: "snaps", Title: "Snaps:"}, &cobra.Group{ID: "services", Title: "Services:"},
		&cobra.Group{ID: "see", Title: "See what runs, and why:"}, &cobra.Group{ID: "changes", Title: "Changes:"},
		&cobra.Group{ID: "config", Title: "Configuration:"})
	root.AddCommand(a.snapCommands()...)
	root.AddCommand(a.aliasCommands()...)
	root.AddCommand(a.snapshotCommands()...)
	root.AddCommand(a.warningCommands()...)
	root.AddCommand(a.serviceCommands()...)
	root.AddCommand(a.seeCommands()...)
	root.AddCommand(a.policyCommand())
	root.AddCommand(a.changeCommands()...)
	root.AddCommand(a.configCommands()...)
	root.AddCommand(a.try(), a.packCommand(), a.runCommand(), a.daemonCommand(), a.versionCommand())
	root.AddCommand(a.sourceCommand(), a.switchCommand(), a.findCommand())
	return root
}

// client talks to the daemon of the root, which is a path from where this command was
// started, as it is for tenured.
func (a *app) client() *client.Client { return a.clientThat(a.cfg.Interactive) }

// aside is for what nobody has asked for, and should be asked a password for.
func (a *app) aside() *client.Client { return a.clientThat(false) }

func (a *app) clientThat(interactive bool) *client.Client {
	root := a.root
	if absolute, err := filepath.Abs(root); root != "" && err == nil {
		root = absolute
	}
	return client.New(client.Config{Root: root, Interactive: interactive})
}

func (a *app) printf(format string, args ...any) {
	fmt.Fprintf(a.cfg.Stdout, format, args...) //nolint:errcheck // A closed output ends the command soon enough.
}

func (a *app) warnf(format string, args ...any) {
	fmt.Fprintf(a.cfg.Stderr, format+"\n", args...) //nolint:errcheck // See printf.
}

// table prints rows in columns, as snap does. They are printed together: the columns are
// written cell by cell otherwise, with a system call for each.
func (a *app) table(header string, rows func(row func(cells string))) {
	var text bytes.Buffer
	w := tabwriter.NewWriter(&text, 2, 2, 2, ' ', 0)
	fmt.Fprintln(w, header)                             //nolint:errcheck // See printf.
	rows(func(cells string) { fmt.Fprintln(w, cells) }) //nolint:errcheck // See printf.
	_ = w.Flush()                                       // It only fails as the buffer does.
	_, _ = a.cfg.Stdout.Write(text.Bytes())             // See printf.
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
		info, err := os.Stat(path)
		switch {
		case err != nil:
			return cannotOpen(path, err)
		case info.IsDir():
			return fmt.Errorf("cannot open %q: it is a directory; to make a snap of it use tenure pack", path)
		case !info.Mode().IsRegular():
			return fmt.Errorf("cannot open %q: it is not a file", path)
		}
		file, err := os.Open(path)
		if err != nil {
			return cannotOpen(path, err)
		}
		_ = file.Close() // Opened for reading.
	}
	return nil
}

func cannotOpen(path string, err error) error {
	if cause := errors.Unwrap(err); cause != nil {
		err = cause
	}
	return fmt.Errorf("cannot open %q: %w", path, err)
}

func (a *app) versionCommand() *cobra.Command {
	return a.readable(&cobra.Command{
		Use: "version", Short: "Show the versions of the client and the daemon", Args: takes(0, 0, ""),
		Long: `version shows the versions of this client, of the daemon, of the distribution and of
the kernel.`,
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(c *cobra.Command, _ []string) error {
			versions := struct {
				Client       string `json:"tenure"`
				Daemon       string `json:"tenured"`
				Distribution string `json:"distribution,omitempty"`
				Kernel       string `json:"kernel,omitempty"`
			}{Client: a.cfg.Version, Daemon: "unavailable"}
			// A client without a daemon still has a version.
			if info, err := a.client().SystemInfo(c.Context()); err == nil {
				versions.Daemon, versions.Kernel = info.Version, info.KernelVersion
				versions.Distribution = strings.TrimSpace(info.OSRelease["id"] + " " + info.OSRelease["version-id"])
			}
			if shown, err := a.show(versions); shown || err != nil {
				return err
			}
			a.table("tenure\t"+versions.Client, func(row func(string)) {
				row("tenured\t" + versions.Daemon)
				if versions.Kernel != "" {
					row(strings.Replace(versions.Distribution, " ", "\t", 1))
					row("kernel\t" + versions.Kernel)
				}
			})
			return nil
		},
	})
}
