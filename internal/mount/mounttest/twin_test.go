package mounttest_test

import (
	"os"
	"path/filepath"
	"slices"
	"testing"

	"tenure"
	"tenure/internal/mount"
	"tenure/internal/mount/mounttest"
)

// The table in memory keeps the law.
func TestTwin(t *testing.T) {
	t.Parallel()
	mounttest.Run(t, func(*testing.T) mounttest.Bench {
		var used []string
		me := tenure.Process{PID: 1, Start: 1}
		twin := mounttest.NewTwin(func(dir string) []mount.Use {
			if slices.Contains(used, dir) {
				return []mount.Use{{Process: me, What: mount.Exe}}
			}
			return nil
		})
		return mounttest.Bench{
			Table: twin,
			File: func(t *testing.T, name string) string {
				t.Helper()
				path := filepath.Join(t.TempDir(), name+".snap")
				if err := os.WriteFile(path, []byte(name), 0o600); err != nil {
					t.Fatal(err)
				}
				return path
			},
			Use: func(_ *testing.T, dir string) (tenure.Process, func()) {
				used = append(used, dir)
				return me, func() { used = nil }
			},
		}
	})
}
