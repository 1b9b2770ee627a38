package dir

import (
	"os"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
	"time"

	"tenure/internal/source"
)

// settled is how long ago a file must have changed last for its times to tell that it has
// not changed since: file systems count them in steps of up to two seconds.
const settled = 3 * time.Second

// known is what has been read of the files of a directory, until they change: who asks
// again and again makes nobody parse everything again.
type known struct {
	now func() time.Time

	mu sync.Mutex
	of map[string]reading
}

// reading is what was read of a release while its files were as they were.
type reading struct {
	yaml, snap stamp
	release    source.Release
}

// stamp tells one content of a file from all others: whatever changes it changes the time
// of its last change.
type stamp struct {
	dev, ino       uint64
	size           int64
	mode, uid      uint32
	mtime, changed syscall.Timespec
}

// stampOf is how a file is now; not ok is that it cannot be told.
func stampOf(path string, now time.Time) (s stamp, ok bool) {
	info, err := os.Lstat(path)
	if err != nil {
		return stamp{}, false
	}
	stat, ok := info.Sys().(*syscall.Stat_t)
	if !ok || now.Sub(time.Unix(stat.Ctim.Unix())) < settled {
		return stamp{}, false
	}
	return stamp{dev: stat.Dev, ino: stat.Ino, size: stat.Size, mode: stat.Mode, uid: stat.Uid, mtime: stat.Mtim, changed: stat.Ctim}, true
}

// reread is what the files called stem say, read again only if they have changed. An error
// is not kept: it may be that of a moment, which leaves no mark on the files.
func (s Source) reread(stem string) (source.Release, error) {
	now := s.known.now()
	yaml, told := stampOf(filepath.Join(s.path, stem+".yaml"), now)
	snap, also := stampOf(filepath.Join(s.path, stem+".snap"), now)
	if !told || !also {
		return s.read(stem)
	}
	s.known.mu.Lock()
	r, found := s.known.of[stem]
	s.known.mu.Unlock()
	if !found || r.yaml != yaml || r.snap != snap {
		release, err := s.read(stem)
		if err != nil {
			return source.Release{}, err
		}
		r = reading{yaml, snap, release}
		s.known.mu.Lock()
		s.known.of[stem] = r
		s.known.mu.Unlock()
	}
	r.release.Channels = slices.Clone(r.release.Channels)
	return r.release, nil
}

// forget drops what is known of files that are gone, when there is more of it than files.
func (k *known) forget(names []string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if len(k.of) <= len(names) {
		return
	}
	there := make(map[string]bool, len(names))
	for _, name := range names {
		there[name] = true
	}
	for stem := range k.of {
		if !there[stem+".yaml"] {
			delete(k.of, stem)
		}
	}
}
