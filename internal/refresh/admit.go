package refresh

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sync/errgroup"

	"tenure"
	"tenure/internal/change"
	"tenure/internal/snapfile"
	"tenure/internal/source"
	"tenure/internal/squash"
	"tenure/internal/supervise"
)

// maxYAML is the longest meta/snap.yaml that is read, in bytes.
const maxYAML = 64 << 10

// candidate is a snap file that has been looked at.
type candidate struct {
	File   File
	Name   tenure.Instance
	Info   *snapfile.Snap
	Digest string
	Size   int64
}

// kindOfPackage is what is wrong where a package cannot be had or read: the machine may be short of something.
func kindOfPackage(err error) Kind {
	if supervise.IsShort(supervise.Short(err)) {
		return KindShort
	}
	return KindPackage
}

// inspectAll is inspect for files, one for each processor at a time. Of those that are refused the first one is told of.
func (m *Manager) inspectAll(ctx context.Context, files []File) ([]candidate, error) {
	found, failures := make([]candidate, len(files)), make([]error, len(files))
	var group errgroup.Group
	group.SetLimit(runtime.NumCPU())
	for i := range files {
		group.Go(func() error {
			failures[i] = change.Guarded(func() (err error) {
				found[i], err = m.inspect(ctx, files[i])
				return err
			})
			return failures[i]
		})
	}
	if group.Wait() == nil {
		return found, nil
	}
	return nil, failures[slices.IndexFunc(failures, func(err error) bool { return err != nil })]
}

// inspect reads what a file says of itself. Nothing is mounted, and the file is
// not trusted in any way.
func (m *Manager) inspect(ctx context.Context, file File) (candidate, error) {
	bad := func(err error) (candidate, error) {
		return candidate{}, &Error{Kind: kindOfPackage(err), Op: "read snap file", Object: file.Label, Err: supervise.Short(err)}
	}
	c := candidate{File: file, Name: file.Name}
	// Side by side, for each is a process or a thread of its own.
	hashing, stop := context.WithCancel(ctx)
	var sum errgroup.Group
	defer func() { stop(); _ = sum.Wait() }() // It is in the way of nobody when this returns.
	sum.Go(func() error {
		return change.Guarded(func() (err error) {
			c.Digest, c.Size, err = digest(hashing, file.Path)
			return err
		})
	})
	var entries []squash.Entry
	var listing errgroup.Group
	listing.Go(func() error {
		return change.Guarded(func() (err error) {
			entries, err = m.cfg.Reader.List(ctx, file.Path)
			return err
		})
	})
	yaml, err := m.cfg.Reader.ReadFile(ctx, file.Path, snapfile.File, maxYAML)
	if err := cmp.Or(listing.Wait(), err); err != nil {
		return bad(unlabel(err, file))
	}
	info, err := snapfile.Parse(yaml, squash.Hooks(entries))
	if err != nil {
		return bad(err)
	}
	if err := squash.CheckSnap(info, entries); err != nil {
		return bad(err)
	}
	if c.Info = info; c.Name == "" {
		c.Name = tenure.Instance(info.Name)
	}
	if c.Name.Snap() != info.Name {
		return bad(fmt.Errorf("the snap in it is named %q, so it cannot be installed as %q", info.Name, c.Name))
	}
	if err := sum.Wait(); err != nil {
		return bad(err)
	}
	if file.Origin != nil && file.Origin.Release.Digest != c.Digest {
		return bad(source.ErrDigest)
	}
	return c, nil
}

// unlabel keeps where the file is staged out of what people read.
func unlabel(err error, file File) error {
	if file.Label == "" || file.Label == file.Path {
		return err
	}
	return &relabelled{err: err, text: strings.ReplaceAll(err.Error(), file.Path, file.Label)}
}

type relabelled struct {
	err  error
	text string
}

func (e *relabelled) Error() string { return e.text }
func (e *relabelled) Unwrap() error { return e.err }

func digest(ctx context.Context, path string) (sum string, size int64, err error) {
	f, err := os.Open(path)
	if err != nil {
		return "", 0, err
	}
	defer f.Close() //nolint:errcheck // Opened for reading.
	hash := sha256.New()
	size, err = io.Copy(hash, withContext{ctx, f})
	if err != nil {
		return "", 0, fmt.Errorf("read %s: %w", path, err)
	}
	return hex.EncodeToString(hash.Sum(nil)), size, nil
}

// admit decides whether c may be installed here, on top of before (nil: for the
// first time), together with others of the same request.
func admit(c *candidate, before *snapState, options Options, bases func(string) bool) error {
	info := c.Info
	refuse := func(kind Kind, hint, format string, args ...any) error {
		return &Error{Kind: kind, Op: "install", Object: string(c.Name), Hint: hint, Err: fmt.Errorf(format, args...)}
	}
	if c.Name == "bin" {
		return refuse(KindPackage, "give it another name: --name bin_KEY", "its directory would be that of all commands, snap/bin")
	}
	switch info.Type {
	case snapfile.TypeApp, snapfile.TypeBase, snapfile.TypeOS:
	case snapfile.TypeGadget, snapfile.TypeKernel, snapfile.TypeSnapd:
		return refuse(KindPackage, "", "it is a snap of type %s; Tenure installs apps and bases", info.Type)
	}
	if !options.Dangerous && c.File.Origin == nil {
		return refuse(KindNeedsFlag, "add --dangerous if you trust it", "no source vouches for the file %s", c.File.Label)
	}
	if err := admitConfinement(info, options, refuse); err != nil {
		return err
	}
	if arch := DebianArch(runtime.GOARCH); !slices.Contains(info.Architectures, "all") && !slices.Contains(info.Architectures, arch) {
		return refuse(KindPackage, "", "it is for %s and this machine is %s", strings.Join(info.Architectures, ", "), arch)
	}
	if unmet := unmetAssumptions(info.Assumes); len(unmet) > 0 {
		return refuse(KindPackage, "", "it assumes what Tenure does not have: %s", strings.Join(unmet, ", "))
	}
	for i := range info.Apps {
		if info.Apps[i].DaemonScope == snapfile.ScopeUser {
			return refuse(KindPackage, "", "its service %s runs in people's sessions (daemon-scope: user), which Tenure does not do", info.Apps[i].Name)
		}
	}
	if base := info.EffectiveBase(); needsBase(info) && !bases(base) {
		return refuse(KindBase, "install "+base+" first, or give both files in one command", "its base %q is not installed", base)
	}
	return admitOver(c, before, refuse)
}

func admitConfinement(info *snapfile.Snap, options Options, refuse func(Kind, string, string, ...any) error) error {
	if options.JailMode && (options.Classic || options.DevMode) {
		return refuse(KindBad, "", "--jailmode goes with neither --classic nor --devmode")
	}
	switch info.Confinement {
	case snapfile.Classic:
		if !options.Classic && !options.JailMode {
			return refuse(KindNeedsFlag, "add --classic if you trust it", "it uses classic confinement: it sees and may change all of this machine")
		}
		if options.JailMode {
			return refuse(KindBad, "", "it uses classic confinement, which --jailmode cannot enforce")
		}
	case snapfile.Devmode:
		if !options.DevMode && !options.JailMode {
			return refuse(KindNeedsFlag, "add --devmode to run it unconfined, or --jailmode to confine it all the same", "it is made for development mode")
		}
	case snapfile.Strict:
	}
	return nil
}

func admitOver(c *candidate, before *snapState, refuse func(Kind, string, string, ...any) error) error {
	if before == nil || !before.Line.Installed() {
		return nil
	}
	old := before.Kept[before.Line.Current].Info
	if old.Type != c.Info.Type {
		return refuse(KindPackage, "remove the installed one first", "it is of type %s and the installed one of type %s", c.Info.Type, old.Type)
	}
	if !c.Info.Epoch.CanRead(old.Epoch) {
		return refuse(KindPackage, "", "it cannot read the data of the installed revision %s (epoch %s after %s)", before.Line.Current, c.Info.Epoch, old.Epoch)
	}
	return nil
}

// needsBase reports whether a snap's processes need another snap as their root.
func needsBase(info *snapfile.Snap) bool {
	if info.Type != snapfile.TypeApp || info.Confinement == snapfile.Classic {
		return false
	}
	base := info.EffectiveBase()
	return base != snapfile.BaseNone && base != snapfile.BaseBare
}

// assumed is the version of snapd whose package format Tenure understands.
const assumedMajor, assumedMinor = 2, 77

// unmetAssumptions are those of a snap's assumes that do not hold here.
func unmetAssumptions(assumes []string) []string {
	features := []string{
		"common-data-dir", "snap-env", "command-chain", "app-refresh-mode", "snap-uid-envvars",
		"environment-file", "content-attr", "kernel-assets",
	}
	var unmet []string
	for _, assumption := range assumes {
		version, isVersion := strings.CutPrefix(assumption, "snapd")
		if !slices.Contains(features, assumption) && (!isVersion || !versionKnown(version)) {
			unmet = append(unmet, assumption)
		}
	}
	return unmet
}

func versionKnown(version string) bool {
	parts := strings.SplitN(version, ".", 3)
	numbers := make([]int, 2)
	for i := range min(len(parts), 2) {
		n, err := strconv.Atoi(parts[i])
		if err != nil {
			return false
		}
		numbers[i] = n
	}
	return numbers[0] < assumedMajor || numbers[0] == assumedMajor && numbers[1] <= assumedMinor
}
