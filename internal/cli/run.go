package cli

import (
	"encoding/json"
	"fmt"

	"github.com/spf13/cobra"

	"tenure/client"
	"tenure/internal/sandbox"
)

func (a *app) runCommand() *cobra.Command {
	c := &cobra.Command{
		Use: "run SNAP[.APP] [ARGUMENT...]", Short: "Run an app of a snap", Args: takes(1, -1, "snap or app"),
		Long: `run runs an app of a snap, as the commands in snap/bin do: confined, from the current
revision, and tracked as a unit of its own.`,
		Example:           "  tenure run hello\n  tenure run virt.virtctl list",
		ValidArgsFunction: a.complete(a.appNames, 1),
		RunE: func(c *cobra.Command, args []string) error {
			program, err := a.client().Run(c.Context(), client.Run{
				App: args[0], Args: args[1:], Env: a.cfg.Environ(),
			})
			if err != nil {
				return err
			}
			var profile sandbox.Profile
			if err := json.Unmarshal(program.Profile, &profile); err != nil {
				return fmt.Errorf("run %s: read the answer: %w", args[0], err)
			}
			return sandbox.Enter(profile, sandbox.Exec{Argv: program.Argv, Env: program.Env})
		},
	}
	c.Flags().SetInterspersed(false)
	return c
}
