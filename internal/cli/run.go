package cli

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"

	"github.com/spf13/cobra"

	"tenure/client"
	"tenure/internal/sandbox"
	"tenure/internal/snapfile"
	"tenure/internal/squash"
)

func (a *app) runCommand() *cobra.Command {
	c := &cobra.Command{
		Use: "run SNAP[.APP] [ARGUMENT...]", Short: "Run an app of a snap", Args: cobra.MinimumNArgs(1),
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

func (a *app) packCommand() *cobra.Command {
	compression := "xz"
	c := &cobra.Command{
		Use: "pack DIRECTORY [FILE]", Short: "Check a directory and make a snap file of it",
		Long: `pack checks DIRECTORY/meta/snap.yaml and makes a snap file of the directory. The same
directory always gives the same bytes. Without FILE the file is called
NAME_VERSION_ARCH.snap.`,
		Args: cobra.RangeArgs(1, 2),
		RunE: func(c *cobra.Command, args []string) error {
			info, err := describeDir(args[0])
			if err != nil {
				return err
			}
			for _, ignored := range info.Ignored {
				fmt.Fprintf(a.cfg.Stderr, "warning: %s is not known and is ignored\n", ignored) //nolint:errcheck // See printf.
			}
			file := defaultName(info)
			if len(args) == 2 {
				file = args[1]
			}
			if err := squash.Build(c.Context(), args[0], file, squash.BuildOptions{Compression: squash.Compression(compression)}); err != nil {
				return fmt.Errorf("cannot pack %q: %w", args[0], err)
			}
			a.printf("built: %s\n", file)
			return nil
		},
	}
	c.Flags().StringVar(&compression, "compression", compression, "how to compress: xz, lzo, zstd, gzip or lz4")
	return c
}

func describeDir(dir string) (*snapfile.Snap, error) {
	yaml, err := os.ReadFile(filepath.Join(dir, snapfile.File))
	if err != nil {
		return nil, fmt.Errorf("cannot pack %q: it has no %s", dir, snapfile.File)
	}
	entries, err := os.ReadDir(filepath.Join(dir, snapfile.HooksDir))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("cannot pack %q: %w", dir, err)
	}
	var hooks []string
	for _, entry := range entries {
		hooks = append(hooks, entry.Name())
	}
	info, err := snapfile.Parse(yaml, hooks)
	if err != nil {
		return nil, fmt.Errorf("cannot pack %q: %w", dir, err)
	}
	return info, nil
}

func defaultName(info *snapfile.Snap) string {
	arch := strings.Join(info.Architectures, "+")
	if len(info.Architectures) > 3 {
		arch = "multi"
	}
	if arch == "" {
		arch = runtime.GOARCH
	}
	return info.Name + "_" + info.Version + "_" + arch + ".snap"
}
