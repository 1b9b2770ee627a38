// Package dir is a source that is a directory: snap files, and beside each one a
// file that describes it (docs/sources.md).
//
//	hello_12.snap
//	hello_12.yaml
//
// Nothing in the directory is believed that has not been checked, no link in it is
// followed, and what is read of it is bounded. A release that is wrong in any way
// is not there, and is told of. Only root may be able to write to the directory and
// to what is in it: who can, can install what they like.
//
// A Source looks at the directory whenever it is asked. What it has read of files it keeps
// until they change.
package dir

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"go.yaml.in/yaml/v3"

	"tenure"
	"tenure/internal/source"
)

// Bounds of what is read.
const (
	maxEntries  = 20_000
	maxDescribe = 16 << 10
)

// Source is a directory.
type Source struct {
	path  string
	known *known
}

var _ interface {
	source.Source
	source.Lister
} = Source{}

// Open is the source in a directory, which must be there.
func Open(path string) (source.Source, error) {
	if !filepath.IsAbs(path) || filepath.Clean(path) != path {
		return nil, fmt.Errorf("open directory %q: want an absolute path", path)
	}
	if err := checkDir(path); err != nil {
		return nil, err
	}
	return Source{path, &known{now: time.Now, of: map[string]reading{}}}, nil
}

func checkDir(path string) error {
	info, err := os.Stat(path)
	if err != nil {
		return fmt.Errorf("open directory: %w", err)
	}
	if !info.IsDir() {
		return fmt.Errorf("open directory %s: it is a file", path)
	}
	if err := rootAlone(info); err != nil {
		return fmt.Errorf("open directory %s: %w", path, err)
	}
	return nil
}

// rootAlone refuses what others than root can write to.
func rootAlone(info fs.FileInfo) error {
	stat, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return errors.New("its owner cannot be seen")
	}
	if stat.Uid != 0 && int(stat.Uid) != os.Geteuid() {
		return fmt.Errorf("it belongs to uid %d, who could put anything into it; it must be root's", stat.Uid)
	}
	if info.Mode().Perm()&0o022 != 0 {
		return fmt.Errorf("others than root can write to it (mode %04o); take that away with chmod go-w", info.Mode().Perm())
	}
	return nil
}

// All implements source.Lister.
func (s Source) All(ctx context.Context) (source.Listing, error) {
	return s.list(ctx, func(string) bool { return true })
}

// Releases implements source.Source.
func (s Source) Releases(ctx context.Context, snap string) (source.Listing, error) {
	return s.list(ctx, func(name string) bool { return name == snap })
}

func (s Source) list(ctx context.Context, wanted func(snap string) bool) (source.Listing, error) {
	if err := checkDir(s.path); err != nil {
		return source.Listing{}, err
	}
	names, err := s.names()
	if err != nil {
		return source.Listing{}, err
	}
	s.known.forget(names)
	var listing source.Listing
	for _, name := range names {
		if ctx.Err() != nil {
			return source.Listing{}, context.Cause(ctx)
		}
		snap, _, _ := strings.Cut(name, "_")
		stem, described := strings.CutSuffix(name, ".yaml")
		if !described || !wanted(snap) {
			continue
		}
		r, err := s.reread(stem)
		if err != nil {
			listing.Problems = append(listing.Problems, fmt.Errorf("%q: %w", name, err))
			continue
		}
		listing.Releases = append(listing.Releases, r)
	}
	return listing, nil
}

func (s Source) names() ([]string, error) {
	dir, err := os.Open(s.path)
	if err != nil {
		return nil, fmt.Errorf("list packages: %w", err)
	}
	defer dir.Close() //nolint:errcheck // Only looked at.
	names, err := dir.Readdirnames(maxEntries + 1)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("list packages: %w", err)
	}
	if len(names) > maxEntries {
		return nil, fmt.Errorf("list packages in %s: there are more than %d files", s.path, maxEntries)
	}
	return names, nil
}

// described is what the file beside a snap file says.
type described struct {
	Version  string    `yaml:"version"`
	Summary  string    `yaml:"summary"`
	Channels []string  `yaml:"channels"`
	Released time.Time `yaml:"released"`
	Urgency  string    `yaml:"urgency"`
	Size     int64     `yaml:"size"`
	SHA256   string    `yaml:"sha256"`
}

// read is the release that the files called stem are.
func (s Source) read(stem string) (source.Release, error) {
	snap, number, _ := strings.Cut(stem, "_")
	rev, err := tenure.ParseRevision(number)
	if err != nil || rev.Local() {
		return source.Release{}, errors.New("want NAME_REVISION.yaml, with a REVISION like 12")
	}
	text, err := s.text(stem + ".yaml")
	if err != nil {
		return source.Release{}, err
	}
	said := described{Channels: []string{"stable"}, Urgency: string(source.Normal)}
	decoder := yaml.NewDecoder(bytes.NewReader(text))
	decoder.KnownFields(true)
	if err := decoder.Decode(&said); err != nil {
		return source.Release{}, fmt.Errorf("read it: %w", err)
	}
	r := source.Release{
		Snap: snap, Revision: rev, Version: said.Version, Summary: said.Summary, Released: said.Released.UTC(),
		Urgency: source.Urgency(said.Urgency), Size: said.Size, Digest: strings.ToLower(said.SHA256),
	}
	for _, name := range said.Channels {
		channel, err := source.ParseChannel(name)
		if err != nil {
			return source.Release{}, err
		}
		r.Channels = append(r.Channels, channel)
	}
	if err := r.Check(); err != nil {
		return source.Release{}, err
	}
	file, err := s.open(stem + ".snap")
	if err != nil {
		return source.Release{}, err
	}
	defer file.Close() //nolint:errcheck // Only looked at.
	info, err := file.Stat()
	if err == nil && info.Size() != r.Size {
		err = fmt.Errorf("%s.snap has %d bytes, and not %d", stem, info.Size(), r.Size)
	}
	return r, err
}

// text is what a file that describes says.
func (s Source) text(name string) ([]byte, error) {
	file, err := s.open(name)
	if err != nil {
		return nil, err
	}
	defer file.Close() //nolint:errcheck // Opened for reading.
	text, err := io.ReadAll(io.LimitReader(file, maxDescribe+1))
	if err == nil && len(text) > maxDescribe {
		err = fmt.Errorf("it is longer than %d bytes", maxDescribe)
	}
	return text, err
}

// open opens a file that is one, and no link, pipe or device.
func (s Source) open(name string) (*os.File, error) {
	file, err := os.OpenFile(filepath.Join(s.path, name), os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0)
	if errors.Is(err, syscall.ELOOP) {
		return nil, fmt.Errorf("%s is a link", name)
	}
	if err != nil {
		return nil, err
	}
	info, err := file.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = errors.New("it is not a file")
	}
	if err == nil {
		err = rootAlone(info)
	}
	if err != nil {
		_ = file.Close() // It was not read.
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return file, nil
}

// Fetch implements source.Source.
func (s Source) Fetch(ctx context.Context, r source.Release, to io.Writer) error {
	if err := r.Check(); err != nil {
		return fmt.Errorf("fetch: %w", err)
	}
	if err := checkDir(s.path); err != nil {
		return fmt.Errorf("fetch %s: %w", r, err)
	}
	stem := r.Snap + "_" + r.Revision.String()
	// Where it is not described any more it has been taken back.
	now, err := s.read(stem)
	if err == nil && now.Digest != r.Digest {
		err = fmt.Errorf("%w: another file has its name", source.ErrGone)
	}
	if errors.Is(err, fs.ErrNotExist) {
		err = source.ErrGone
	}
	if err != nil {
		return fmt.Errorf("fetch %s: %w", r, err)
	}
	file, err := s.open(stem + ".snap")
	if err != nil {
		return fmt.Errorf("fetch %s: %w", r, err)
	}
	defer file.Close() //nolint:errcheck // Opened for reading.
	return source.Copy(ctx, to, file, r)
}
