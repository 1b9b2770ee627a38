package cli

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"github.com/spf13/cobra"

	"tenure/client"
	"tenure/internal/entry"
)

func (a *app) runCommand() *cobra.Command {
	var shell bool
	var hook string
	c := &cobra.Command{
		Use: "run SNAP[.APP] [ARGUMENT...]", Short: "Run an app of a snap", Args: takes(1, -1, "snap or app"),
		Long: `run runs an app of a snap, as the commands in snap/bin do: as the user who calls it,
confined, from the current revision, and tracked as a unit of its own. With --shell a shell
is run in the place of the app, to look around; with --hook a hook of the snap.`,
		Example:           "  tenure run hello\n  tenure run virt.virtctl list\n  tenure run --shell virt.virtctl",
		ValidArgsFunction: a.complete(a.appNames, 1),
		RunE: func(c *cobra.Command, args []string) error {
			what := []string{string(entry.App)}
			switch {
			case shell && hook != "":
				return misused(c, "--shell and --hook do not go together")
			case shell:
				what = []string{string(entry.Shell)}
			case hook != "":
				what = []string{string(entry.Hook), hook}
			}
			return a.becomeHelper(append(what, args...))
		},
	}
	c.Flags().SetInterspersed(false)
	c.Flags().BoolVar(&shell, "shell", false, "run a shell instead of the app")
	c.Flags().StringVar(&hook, "hook", "", "run this hook of the snap instead of an app")
	return c
}

// becomeHelper executes the helper, which becomes the app.
func (a *app) becomeHelper(args []string) error {
	root, err := filepath.Abs("/" + a.root)
	if a.root != "" {
		root, err = filepath.Abs(a.root)
	}
	if err != nil {
		return err
	}
	helper := filepath.Join(root, entry.HelperPath)
	err = syscall.Exec(helper, append([]string{helper}, args...), a.cfg.Environ())
	if errors.Is(err, fs.ErrNotExist) {
		if _, statErr := os.Stat(root); statErr != nil {
			return fmt.Errorf("%w: there is no directory %s, so check --root and TENURE_ROOT", client.ErrNoDaemon, root)
		}
		return fmt.Errorf("%w: there is no %s, which it installs when it starts", client.ErrNoDaemon, helper)
	}
	return fmt.Errorf("execute %s: %w", helper, err)
}
