package api

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	"tenure/internal/refresh"
	"tenure/internal/squash"
)

// actionTry is to install an unpacked snap.
const actionTry = "try"

// pack makes the file of an unpacked snap that is to be tried: what is refreshed is a
// file as any other, which does not change while something runs from it.
func (u *upload) pack(ctx context.Context) error {
	dir := u.fields["snap-path"]
	if len(u.files) > 0 || !filepath.IsAbs(dir) {
		return bad("to try a snap, give the absolute path of its directory as snap-path, and no file")
	}
	if info, err := os.Stat(dir); err != nil || !info.IsDir() {
		return bad(fmt.Sprintf("cannot try %q: it is not a directory", dir))
	}
	file, err := os.CreateTemp(u.dir, "try-*.snap")
	if err != nil {
		return fmt.Errorf("try %s: %w", dir, err)
	}
	u.files = append(u.files, refresh.File{Path: file.Name(), Label: dir})
	if err := file.Close(); err != nil {
		return fmt.Errorf("try %s: %w", dir, err)
	}
	if err := squash.Build(ctx, dir, file.Name(), squash.BuildOptions{Compression: squash.LZ4}); err != nil {
		return bad(err.Error())
	}
	u.fields["action"], u.fields["dangerous"] = string(refresh.ActionInstall), "true"
	return nil
}
