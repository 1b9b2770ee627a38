package snapdata_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"tenure/internal/snapdata"
)

// No link on the way is followed, and what is made belongs to the owner of the top.
func TestDescend(t *testing.T) {
	t.Parallel()
	needRoot(t)
	top, elsewhere := t.TempDir(), t.TempDir()
	must(t, os.Chown(top, 33, 34), os.Mkdir(filepath.Join(elsewhere, "b"), 0o700))
	if _, err := snapdata.Descend(top, false, "a", "b"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("there is nothing: %v", err)
	}
	made, err := snapdata.Descend(top, true, "a", "b")
	must(t, err)
	var st unix.Stat_t
	must(t, made.Close(), unix.Stat(filepath.Join(top, "a/b"), &st))
	if st.Uid != 33 || st.Gid != 34 || st.Mode&0o7777 != 0o700 || made.Name() != filepath.Join(top, "a/b") {
		t.Errorf("%s is of %d:%d, mode %o", made.Name(), st.Uid, st.Gid, st.Mode)
	}
	must(t, os.Symlink(elsewhere, filepath.Join(top, "linked")), os.Symlink(elsewhere, filepath.Join(top, "a/linked")))
	for _, names := range [][]string{{"linked", "b"}, {"a", "linked"}, {"linked", "c"}} {
		if _, err := snapdata.Descend(top, true, names...); !errors.Is(err, unix.ENOTDIR) && !errors.Is(err, unix.ELOOP) {
			t.Errorf("%v: %v", names, err)
		}
	}
}
