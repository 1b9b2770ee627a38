package squash_test

import (
	"errors"
	"io/fs"
	"slices"
	"strings"
	"testing"

	"tenure/internal/squash"
)

func sound() []squash.Entry {
	return []squash.Entry{
		{Path: ".", Mode: fs.ModeDir | 0o755},
		{Path: "meta", Mode: fs.ModeDir | 0o755},
		{Path: "meta/snap.yaml", Mode: 0o644},
	}
}

func TestCheck(t *testing.T) {
	t.Parallel()
	cases := []struct {
		name  string
		entry squash.Entry
		says  string // Empty for what is allowed.
	}{
		{"absolute symlink", squash.Entry{Path: "etc", Mode: fs.ModeSymlink | 0o777, Target: "/etc"}, ""},
		{"symlink out", squash.Entry{Path: "out", Mode: fs.ModeSymlink | 0o777, Target: "../../.."}, ""},
		{"sticky directory", squash.Entry{Path: "tmp", Mode: fs.ModeDir | fs.ModeSticky | 0o777}, ""},
		{"set-gid directory", squash.Entry{Path: "mail", Mode: fs.ModeDir | fs.ModeSetgid | 0o775}, ""},
		{"hook", squash.Entry{Path: "meta/hooks/configure", Mode: 0o755}, ""},
		{"character device", squash.Entry{Path: "null", Mode: fs.ModeDevice | fs.ModeCharDevice | 0o666}, "null is a device"},
		{"block device", squash.Entry{Path: "sda", Mode: fs.ModeDevice | 0o660}, "sda is a device"},
		{"fifo", squash.Entry{Path: "pipe", Mode: fs.ModeNamedPipe | 0o644}, "pipe is a fifo"},
		{"socket", squash.Entry{Path: "sock", Mode: fs.ModeSocket | 0o644}, "sock is a socket"},
		{"set-uid", squash.Entry{Path: "su", Mode: fs.ModeSetuid | 0o755}, "su is set-uid"},
		{"set-gid", squash.Entry{Path: "sg", Mode: fs.ModeSetgid | 0o755}, "sg is set-uid or set-gid"},
		{"dots", squash.Entry{Path: "a/../b", Mode: 0o644}, "the file name"},
		{"absolute", squash.Entry{Path: "/a", Mode: 0o644}, "the file name"},
		{"control character", squash.Entry{Path: "a\x1b[2J", Mode: 0o644}, `"a\x1b[2J"`},
		{"control character in a target", squash.Entry{Path: "a", Mode: fs.ModeSymlink, Target: "\x07"}, "target"},
		{"meta is a symlink", squash.Entry{Path: "meta", Mode: fs.ModeSymlink | 0o777, Target: "/tmp"}, "meta is a symlink (want a directory)"},
		{"meta is a file", squash.Entry{Path: "meta", Mode: 0o644}, "meta is a regular file (want a directory)"},
		{"snap.yaml is a symlink", squash.Entry{Path: "meta/snap.yaml", Mode: fs.ModeSymlink | 0o777, Target: "/etc/shadow"}, "meta/snap.yaml is a symlink (want a regular file)"},
		{"hooks is a symlink", squash.Entry{Path: "meta/hooks", Mode: fs.ModeSymlink | 0o777, Target: "/"}, "meta/hooks is a symlink"},
		{"hook is a symlink", squash.Entry{Path: "meta/hooks/configure", Mode: fs.ModeSymlink | 0o777, Target: "/bin/sh"}, "meta/hooks/configure is a symlink"},
		{"closed root", squash.Entry{Path: ".", Mode: fs.ModeDir | 0o700}, "its root has mode 0700"},
		{"root that cannot be entered", squash.Entry{Path: ".", Mode: fs.ModeDir | 0o744}, "its root has mode 0744"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			err := squash.Check(append(sound(), c.entry), squash.CheckOptions{})
			if c.says == "" {
				if err != nil {
					t.Errorf("refused: %v", err)
				}
				return
			}
			if !errors.Is(err, squash.ErrForbidden) || !strings.Contains(err.Error(), c.says) {
				t.Errorf("got %v, want an error that says %q", err, c.says)
			}
		})
	}
}

func TestCheckWantsMeta(t *testing.T) {
	t.Parallel()
	for i := range sound() {
		if err := squash.Check(slices.Delete(sound(), i, i+1), squash.CheckOptions{}); !errors.Is(err, squash.ErrForbidden) {
			t.Errorf("without %s: %v", sound()[i].Path, err)
		}
	}
	if err := squash.Check(nil, squash.CheckOptions{}); !errors.Is(err, squash.ErrForbidden) {
		t.Errorf("empty: %v", err)
	}
}

func TestSetUIDInBasesAndClassicSnaps(t *testing.T) {
	t.Parallel()
	su := squash.Entry{Path: "bin/su", Mode: fs.ModeSetuid | 0o755}
	for _, opts := range []squash.CheckOptions{{Base: true}, {Classic: true}} {
		if err := squash.Check(append(sound(), su), opts); err != nil {
			t.Errorf("%+v: %v", opts, err)
		}
	}
}
