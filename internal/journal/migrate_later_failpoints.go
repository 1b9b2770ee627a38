//go:build failpoints

package journal

import (
	"os"
	"path/filepath"
	"strings"

	bolt "go.etcd.io/bbolt"
)

// later is a migration of the release after this one, if the name of the directory that this program is executed
// from begins with "next".
func later() []migration {
	self, err := os.Executable()
	if err != nil || !strings.HasPrefix(filepath.Base(filepath.Dir(self)), "next") {
		return nil
	}
	return []migration{func(tx *bolt.Tx) error {
		_, err := tx.CreateBucketIfNotExists([]byte("later"))
		return err
	}}
}
