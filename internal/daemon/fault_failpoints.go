//go:build failpoints

package daemon

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
)

// fault makes a program fail at a point of its start, where the name of the directory that it is executed from says
// how it ends: "exits-at-POINT", "panics-at-POINT", "hangs-at-POINT". Points are "preflight",
// "rehearsal", "start" (no change has been taken up yet) and "ready".
func fault(point string) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	name := filepath.Base(filepath.Dir(self))
	switch {
	case strings.HasSuffix(name, "exits-at-"+point):
		return errors.New("it fails on purpose")
	case strings.HasSuffix(name, "panics-at-"+point):
		go panic("it panics on purpose")
		select {}
	case strings.HasSuffix(name, "hangs-at-"+point):
		select {}
	}
	return nil
}
