package cli

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"tenure/internal/snapfile"
	"tenure/internal/squash"
)

// packing are the flags of pack.
type packing struct {
	compression, filename string
	check                 bool
}

func (a *app) packCommand() *cobra.Command {
	var flags packing
	c := &cobra.Command{
		Use: "pack [DIRECTORY [FILE]]", Short: "Check a directory and make a snap file of it",
		Long: `pack checks DIRECTORY (by default the current one) as an installation would, and
makes a snap file of it. The same directory always gives the same bytes. Without
FILE, or where FILE is a directory, the file is called NAME_VERSION_ARCH.snap.`,
		Example: "  tenure pack ./hello\n  tenure pack ./hello ./hello.snap\n  tenure pack --check-skeleton ./hello",
		Args:    takes(0, 2, "directory"), ValidArgsFunction: directories,
		RunE: func(c *cobra.Command, args []string) error {
			dir, target := ".", ""
			if len(args) > 0 {
				dir = args[0]
			}
			if len(args) > 1 {
				target = args[1]
			}
			return a.pack(c, dir, target, flags)
		},
	}
	c.Flags().StringVar(&flags.compression, "compression", "xz", "how to compress: xz, lzo, zstd, gzip or lz4")
	c.Flags().StringVar(&flags.filename, "filename", "", "the name of the snap file")
	c.Flags().BoolVar(&flags.check, "check-skeleton", false, "only check the directory")
	return c
}

func (a *app) pack(c *cobra.Command, dir, target string, flags packing) error {
	info, err := describeDir(dir)
	if err != nil {
		return fmt.Errorf("cannot pack %q: %w", dir, err)
	}
	for _, ignored := range info.Ignored {
		a.warnf("warning: %s is not known and is ignored", ignored)
	}
	if flags.check {
		return nil
	}
	file := packedFile(info, target, flags.filename)
	if err := squash.Build(c.Context(), dir, file, squash.BuildOptions{Compression: squash.Compression(flags.compression)}); err != nil {
		return fmt.Errorf("cannot pack %q: %w", dir, err)
	}
	a.printf("built: %s\n", file)
	return nil
}

// describeDir checks a directory that is to become a snap, and says what snap.
func describeDir(dir string) (*snapfile.Snap, error) {
	entries, err := squash.ListDir(dir)
	if err != nil {
		return nil, err
	}
	yaml, err := readDescription(filepath.Join(dir, snapfile.File))
	if err != nil {
		return nil, err
	}
	info, err := snapfile.Parse(yaml, squash.Hooks(entries))
	if invalid, ok := errors.AsType[*snapfile.InvalidError](err); ok && len(invalid.Problems) > 1 {
		// Its author wants to see them all.
		return nil, fmt.Errorf("it has wrong values:\n  %s", strings.Join(invalid.Lines(), "\n  ")) //nolint:err113 // Made for people.
	}
	if err != nil {
		return nil, err
	}
	return info, squash.CheckSnap(info, entries)
}

// readDescription reads a little more than a description may have, for the error
// about its size.
func readDescription(path string) ([]byte, error) {
	info, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("it has no %s", snapfile.File) //nolint:err113 // Made for people.
	}
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("its %s is not a regular file", snapfile.File) //nolint:err113 // Made for people.
	}
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer file.Close() //nolint:errcheck // Opened for reading.
	const limit = 1 << 20
	return io.ReadAll(io.LimitReader(file, limit))
}

// packedFile is where the snap file goes. A target that is a directory, and a
// name beside it, are what people give to snap pack.
func packedFile(info *snapfile.Snap, target, filename string) string {
	if filename == "" {
		filename = defaultName(info)
	}
	if target == "" {
		return filename
	}
	if found, err := os.Stat(target); err == nil && found.IsDir() {
		if filepath.IsAbs(filename) {
			return filename
		}
		return filepath.Join(target, filename)
	}
	return target
}

// defaultName is the name that snap pack gives.
func defaultName(info *snapfile.Snap) string {
	arch := "multi"
	if len(info.Architectures) == 1 {
		arch = info.Architectures[0]
	}
	return info.Name + "_" + info.Version + "_" + arch + ".snap"
}
