// Package hostile makes snap files that no honest packer makes, each from one
// number: damaged images, trees with what no snap may contain, descriptions that
// are wrong or too much, and some that only look wrong.
//
// The same seed and number give the same snap, but for the names that the caller
// chooses. A Maker is for one goroutine; several may work side by side.
package hostile

import (
	"bytes"
	"context"
	_ "embed" // For the program.
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

//go:embed probe.S
var probeSource string

//go:embed hook.S
var hookSource string

// Config says what a Maker makes.
type Config struct {
	// Dir is the Maker's own: what it makes is in there.
	Dir string
	// Canary is the directory that links point to, and that programs try to write
	// to. It holds a snap.yaml that is sound, and a program.
	Canary string
	// Prefix is the start of all names of snaps.
	Prefix string
	Seed   uint64
}

// Case is one snap file.
type Case struct {
	// Kind is a word for the histogram, What says what is wrong.
	Kind, What string
	// File is the snap file; the next Make replaces it.
	File string
	// Name is what the snap is called, if anything is left of its description.
	// Renamed is that its name may be one that another Maker's case has, too.
	Name    string
	Renamed bool
}

// Maker makes cases.
type Maker struct {
	cfg Config
	// probe is the program that the snaps run, hook that of their hooks.
	probe, hook []byte
	// images are sound images to damage, one for each compression; plain has
	// uncompressed tables.
	images []image
	plain  image
	// slots are uncompressed images with room for a description, the smallest first.
	slots []slot
}

// image is a sound snap file.
type image struct {
	name, compression string
	bytes             []byte
}

// maker is one kind of cases.
type maker struct {
	kind  string
	share int
	make  func(m *Maker, ctx context.Context, rng *rand.Rand, n int) (Case, error)
}

// kinds are all kinds, with how many of twenty cases each has.
func kinds() []maker {
	return []maker{
		{"flipped bytes", 4, (*Maker).flipped},
		{"superblock", 2, (*Maker).superblock},
		{"tables", 3, (*Maker).tables},
		{"names in tables", 1, (*Maker).names},
		{"cut or longer", 1, (*Maker).cut},
		{"foreign file", 1, (*Maker).foreign},
		{"tree", 2, (*Maker).tree},
		{"description", 6, (*Maker).description},
	}
}

// New makes what all cases share.
func New(ctx context.Context, cfg Config) (*Maker, error) {
	m := &Maker{cfg: cfg}
	var err error
	if m.probe, err = assemble(ctx, cfg.Dir, probeSource); err != nil {
		return nil, fmt.Errorf("make hostile snaps: %w", err)
	}
	if m.hook, err = assemble(ctx, cfg.Dir, hookSource); err != nil {
		return nil, fmt.Errorf("make hostile snaps: %w", err)
	}
	if err := m.templates(ctx); err != nil {
		return nil, fmt.Errorf("make hostile snaps: %w", err)
	}
	return m, nil
}

// Make makes case n.
func (m *Maker) Make(ctx context.Context, n int) (Case, error) {
	rng := rand.New(rand.NewPCG(m.cfg.Seed, uint64(n))) //nolint:gosec // It must be repeatable, and n is small.
	all := kinds()
	at := n % 20
	for _, kind := range all {
		if at -= kind.share; at >= 0 {
			continue
		}
		made, err := kind.make(m, ctx, rng, n)
		if err != nil {
			return Case{}, fmt.Errorf("make hostile snap %d (%s): %w", n, kind.kind, err)
		}
		made.Kind = kind.kind
		return made, nil
	}
	return Case{}, fmt.Errorf("make hostile snap %d: the shares are too small", n)
}

// write puts an image where the case's file is.
func (m *Maker) write(b []byte) (string, error) {
	file := filepath.Join(m.cfg.Dir, "case.snap")
	return file, os.WriteFile(file, b, 0o644) //nolint:gosec // As people's files are.
}

// assemble makes a program.
func assemble(ctx context.Context, dir, source string) ([]byte, error) {
	object, program := filepath.Join(dir, "probe.o"), filepath.Join(dir, "probe")
	as := exec.CommandContext(ctx, "as", "-o", object, "-")
	as.Stdin = strings.NewReader(source)
	for _, cmd := range []*exec.Cmd{as, exec.CommandContext(ctx, "ld", "-s", "-n", "-o", program, object)} {
		if out, err := cmd.CombinedOutput(); err != nil {
			return nil, fmt.Errorf("%s: %w: %s", cmd.Args[0], err, bytes.TrimSpace(out))
		}
	}
	return os.ReadFile(program)
}

// files is a tree in the making.
type files struct {
	dir string
	err error
}

func (f *files) path(name string) string { return filepath.Join(f.dir, name) }

// do keeps the first error, so that a tree can be written down in one go.
func (f *files) do(err error) { f.err = errors.Join(f.err, err) }

func (f *files) write(name, content string, mode os.FileMode) {
	f.do(os.MkdirAll(filepath.Dir(f.path(name)), 0o755))
	f.do(os.WriteFile(f.path(name), []byte(content), mode.Perm()))
	f.do(os.Chmod(f.path(name), mode))
}

func (f *files) link(name, target string) {
	f.do(os.MkdirAll(filepath.Dir(f.path(name)), 0o755))
	f.do(os.RemoveAll(f.path(name)))
	f.do(os.Symlink(target, f.path(name)))
}

// sound writes the tree that all cases start from: a service that tries to write
// out of its root, through links and by plain paths, and one that waits.
func (m *Maker) sound(f *files, name string) {
	f.write("meta/snap.yaml", m.soundYAML(name), 0o644)
	f.write("meta/hooks/configure", string(m.hook), 0o755)
	f.write("bin/probe", string(m.probe), 0o755)
	f.write("share/text", strings.Repeat("The quick brown fox jumps over the lazy dog.\n", 400), 0o644)
	f.link("bin/link", "probe")
	f.link("out", m.cfg.Canary)
	f.link("up", strings.Repeat("../", 12)+strings.TrimPrefix(m.cfg.Canary, "/"))
}

func (m *Maker) soundYAML(name string) string {
	return fmt.Sprintf(`name: %s
version: 1
summary: A snap that tries
base: bare
apps:
  try:
    command: bin/probe $SNAP/out/touched $SNAP/up/touched %s/touched /etc/touched $SNAP/touched
    daemon: oneshot
    restart-condition: never
  idle:
    command: bin/link
    daemon: simple
    after: [try]
`, name, m.cfg.Canary)
}

// build makes an image of a tree.
func (m *Maker) build(ctx context.Context, f *files, options ...string) ([]byte, error) {
	if f.err != nil {
		return nil, f.err
	}
	out := f.dir + ".img"
	args := append([]string{
		f.dir, out, "-noappend", "-quiet", "-no-progress", "-no-recovery", "-processors", "1",
		"-all-root", "-no-xattrs", "-mkfs-time", "0", "-all-time", "0",
	}, options...)
	if said, err := exec.CommandContext(ctx, "mksquashfs", args...).CombinedOutput(); err != nil {
		return nil, fmt.Errorf("mksquashfs %v: %w: %s", options, err, bytes.TrimSpace(said))
	}
	b, err := os.ReadFile(out)
	return b, errors.Join(err, os.Remove(out), os.RemoveAll(f.dir))
}

// newTree is an empty tree.
func (m *Maker) newTree() *files {
	dir, err := os.MkdirTemp(m.cfg.Dir, "tree-")
	f := &files{dir: dir, err: err}
	f.do(os.Chmod(dir, 0o755)) //nolint:gosec // As the root of a snap must be.
	return f
}

// templates builds the images that are damaged later.
func (m *Maker) templates(ctx context.Context) error {
	uncompressed := []string{"-noI", "-noD", "-noF", "-noX"}
	for _, compression := range []string{"gzip", "lzo", "lz4", "xz", "zstd"} {
		f, name := m.newTree(), m.cfg.Prefix+"-"+compression
		m.sound(f, name)
		b, err := m.build(ctx, f, "-comp", compression)
		if err != nil {
			return err
		}
		m.images = append(m.images, image{name: name, compression: compression, bytes: b})
	}
	f, name := m.newTree(), m.cfg.Prefix+"-plain"
	m.sound(f, name)
	b, err := m.build(ctx, f, uncompressed...)
	if err != nil {
		return err
	}
	m.plain = image{name: name, compression: "none", bytes: b}
	for _, room := range []int{4 << 10, 64 << 10, 2 << 20} {
		f := m.newTree()
		m.sound(f, "x")
		f.write("meta/snap.yaml", strings.Repeat(slotMark, room/len(slotMark)), 0o644)
		b, err := m.build(ctx, f, append(uncompressed, "-no-duplicates")...)
		if err != nil {
			return err
		}
		s, err := newSlot(b, room)
		if err != nil {
			return err
		}
		m.slots = append(m.slots, s)
	}
	return nil
}
