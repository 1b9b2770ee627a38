package cli

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"tenure/client"
	"tenure/internal/squash"
)

// try packs a directory and installs it.
func (a *app) try() *cobra.Command {
	action := client.Action{Action: "install"}
	c := &cobra.Command{
		Use: "try [DIRECTORY]", Short: "Install an unpacked snap", Args: takes(0, 1, "directory"), GroupID: "snaps",
		Long: `try packs a directory, by default the current one, and installs it, or refreshes to
it, as a file of yours. What is changed in the directory later has no effect until it is
tried again: what runs keeps the revision that it was started from.`,
		Example:           "  tenure try ./hello\n  tenure try --devmode ./hello",
		ValidArgsFunction: directories,
		RunE: func(c *cobra.Command, args []string) error {
			dir := "."
			if len(args) > 0 {
				dir = args[0]
			}
			return a.tryOut(c, dir, action)
		},
	}
	confinement(c, &action)
	_ = c.Flags().MarkHidden("dangerous") // It is what try means.
	return a.waiting(c)
}

func (a *app) tryOut(c *cobra.Command, dir string, action client.Action) (err error) {
	if err := confined(c, &action); err != nil {
		return err
	}
	info, err := describeDir(dir)
	if err != nil {
		return fmt.Errorf("cannot try %q: %w", dir, err)
	}
	made, err := os.MkdirTemp("", "tenure-try-")
	if err != nil {
		return fmt.Errorf("cannot try %q: %w", dir, err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(made)) }()
	file := filepath.Join(made, defaultName(info))
	if err := squash.Build(c.Context(), dir, file, squash.BuildOptions{Compression: squash.LZ4}); err != nil {
		return fmt.Errorf("cannot try %q: %w", dir, err)
	}
	action.Files, action.Dangerous = []string{file}, true
	return a.act(c.Context(), action, "installed")
}

// untilSet waits for an option.
func (a *app) untilSet() *cobra.Command {
	return &cobra.Command{
		Use: "wait SNAP OPTION", Short: "Wait until an option is set and true", Args: takes(2, 2, "snap and option"),
		Long: `wait returns when an option of a snap is set, and is neither false, 0 nor empty. That
of the system seed.loaded, which scripts wait for, always is.`,
		Example:           "  tenure wait virt ready",
		ValidArgsFunction: a.complete(a.snapNames, 1),
		RunE: func(c *cobra.Command, args []string) error {
			for c.Context().Err() == nil {
				values, err := a.client().Conf(c.Context(), args[0], args[1:])
				failed, answered := errors.AsType[*client.Error](err)
				switch {
				case err == nil && isTrue(values[args[1]]):
					return nil
				case err != nil && (!answered || failed.Kind != "option-not-found"):
					return err
				}
				pause(c.Context(), time.Second)
			}
			return c.Context().Err()
		},
	}
}

// isTrue reports whether a value counts as true.
func isTrue(value any) bool {
	switch v := value.(type) {
	case nil:
		return false
	case bool:
		return v
	case string:
		return v != ""
	case float64:
		return v != 0
	case []any:
		return len(v) > 0
	case map[string]any:
		return len(v) > 0
	}
	return true
}
