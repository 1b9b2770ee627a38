package hostile

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path"
	"slices"
	"strings"
	"syscall"
)

// change is one thing that is done to a sound tree. What it returns are options
// for mksquashfs.
type change struct {
	what string
	do   func(m *Maker, f *files, rng *rand.Rand) []string
}

// plainly is a change without options.
func plainly(what string, do func(f *files)) change {
	return change{what, func(_ *Maker, f *files, _ *rand.Rand) []string { do(f); return nil }}
}

// tree packs a tree with something in it that no snap may have, or that looks
// like it. Every change has its turn.
func (m *Maker) tree(ctx context.Context, rng *rand.Rand, n int) (Case, error) {
	all := trees()
	one := all[(2*(n/20)+n%2)%len(all)]
	f, name := m.newTree(), fmt.Sprintf("%s-%d", m.cfg.Prefix, n)
	m.sound(f, name)
	// Compressing is not what is tried here, and others take longer than all the rest.
	options := append([]string{"-comp", "lz4"}, one.do(m, f, rng)...)
	b, err := m.build(ctx, f, options...)
	if err != nil {
		return Case{}, fmt.Errorf("%s: %w", one.what, err)
	}
	file, err := m.write(b)
	return Case{What: one.what, File: file, Name: name}, err
}

func trees() []change {
	var all []change
	for _, list := range [][]change{metaTrees(), linkTrees(), kindTrees(), modeTrees(), nameTrees(), sizeTrees()} {
		all = append(all, list...)
	}
	return all
}

// metaTrees are wrong where the daemon itself looks.
func metaTrees() []change {
	return []change{
		plainly("nothing wrong", func(*files) {}),
		plainly("no meta", func(f *files) { f.do(os.RemoveAll(f.path("meta"))) }),
		plainly("no snap.yaml", func(f *files) { f.do(os.Remove(f.path("meta/snap.yaml"))) }),
		plainly("an empty snap.yaml", func(f *files) { f.write("meta/snap.yaml", "", 0o644) }),
		plainly("snap.yaml is a directory", func(f *files) {
			f.do(errors.Join(os.Remove(f.path("meta/snap.yaml")), os.Mkdir(f.path("meta/snap.yaml"), 0o755)))
		}),
		plainly("meta is a file", func(f *files) {
			f.do(os.RemoveAll(f.path("meta")))
			f.write("meta", "name: x\n", 0o644)
		}),
		plainly("a hook is a directory", func(f *files) { f.write("meta/hooks/install/x", "", 0o755) }),
		plainly("a hook with a strange name", func(f *files) { f.write("meta/hooks/In..stall", "", 0o755) }),
		plainly("a hook that may not be executed", func(f *files) { f.write("meta/hooks/install", "", 0o644) }),
		plainly("no program", func(f *files) { f.do(os.Remove(f.path("bin/probe"))) }),
		plainly("the program is a directory", func(f *files) {
			f.do(errors.Join(os.Remove(f.path("bin/probe")), os.Mkdir(f.path("bin/probe"), 0o755)))
		}),
		plainly("the program may not be executed", func(f *files) { f.do(os.Chmod(f.path("bin/probe"), 0o644)) }),
		plainly("the program is no program", func(f *files) { f.write("bin/probe", "\x7fELF but not much more", 0o755) }),
		plainly("the program has an interpreter that is not there", func(f *files) { f.write("bin/probe", "#!/bin/sh\n", 0o755) }),
	}
}

// linkTrees have links out of the tree, for each place a link that starts at the
// root and one that goes up.
func linkTrees() []change {
	var all []change
	for place, target := range map[string]string{
		"meta": "", "meta/snap.yaml": "snap.yaml", "meta/hooks": "", "meta/hooks/configure": "probe",
		"bin": "", "bin/probe": "probe", "share": "", "meta/gui": "",
	} {
		for _, up := range []bool{false, true} {
			all = append(all, change{fmt.Sprintf("%s is a link out of the tree (upwards: %v)", place, up), func(m *Maker, f *files, _ *rand.Rand) []string {
				out := path.Join(m.cfg.Canary, target)
				if up {
					out = strings.Repeat("../", 20) + strings.TrimPrefix(out, "/")
				}
				f.link(place, out)
				return nil
			}})
		}
	}
	// A map has no order, and each case must be the same every time.
	sortChanges(all)
	return append(all,
		plainly("snap.yaml is a link to /etc/shadow", func(f *files) { f.link("meta/snap.yaml", "/etc/shadow") }),
		plainly("snap.yaml is a link to a device", func(f *files) { f.link("meta/snap.yaml", "/dev/zero") }),
		plainly("snap.yaml is a link to itself", func(f *files) { f.link("meta/snap.yaml", "snap.yaml") }),
		plainly("snap.yaml is a link inside", func(f *files) {
			f.do(os.Rename(f.path("meta/snap.yaml"), f.path("meta/other.yaml")))
			f.link("meta/snap.yaml", "other.yaml")
		}),
		plainly("links in a circle", func(f *files) { f.link("a", "b"); f.link("b", "a") }),
		plainly("the program is in a circle of links", func(f *files) { f.link("bin/link", "probe"); f.link("bin/probe", "link") }),
		plainly("a link to /proc/1/root", func(f *files) { f.link("share", "/proc/1/root") }),
		plainly("a link with a very long target", func(f *files) { f.link("long", strings.Repeat("../", 1300)) }),
		plainly("a link whose target has control characters", func(f *files) { f.link("bell", "\a\x1b]0;x\a") }),
		plainly("a link whose target has a line feed", func(f *files) { f.link("line", "x\n-rwsr-xr-x 0/0 1 2022-01-01 00:00 squashfs-root/su") }),
	)
}

// kindTrees have what is neither a file nor a directory nor a link.
func kindTrees() []change {
	special := func(what string, options ...string) change {
		return change{what, func(*Maker, *files, *rand.Rand) []string { return options }}
	}
	return []change{
		special("a character device", "-p", "null c 666 0 0 1 3"),
		special("a block device", "-p", "sda b 660 0 0 8 0"),
		special("the disk of the machine in a directory", "-p", "share/sda b 666 0 0 254 0"),
		special("a device among the hooks", "-p", "meta/hooks/install c 777 0 0 1 5"),
		special("a device with huge numbers", "-p", "odd c 666 0 0 4095 1048575"),
		plainly("a fifo", func(f *files) { f.do(syscall.Mkfifo(f.path("fifo"), 0o666)) }),
		plainly("snap.yaml is a fifo", func(f *files) {
			f.do(errors.Join(os.Remove(f.path("meta/snap.yaml")), syscall.Mkfifo(f.path("meta/snap.yaml"), 0o666)))
		}),
		plainly("the program is a fifo", func(f *files) {
			f.do(errors.Join(os.Remove(f.path("bin/probe")), syscall.Mkfifo(f.path("bin/probe"), 0o777)))
		}),
		plainly("a socket", func(f *files) { f.do(syscall.Mknod(f.path("socket"), syscall.S_IFSOCK|0o666, 0)) }),
		plainly("names that share a file", func(f *files) { f.do(os.Link(f.path("bin/probe"), f.path("bin/other"))) }),
	}
}

// modeTrees have modes that a snap may not have, or seldom has.
func modeTrees() []change {
	mode := func(what, name string, mode os.FileMode) change {
		return plainly(what, func(f *files) { f.do(os.Chmod(f.path(name), mode)) })
	}
	base := func(f *files) {
		text, err := os.ReadFile(f.path("meta/snap.yaml"))
		f.do(err)
		head, _, _ := strings.Cut(string(text), "base:")
		f.write("meta/snap.yaml", head+"type: base\n", 0o644)
	}
	root := func(what, mode string) change {
		return change{what, func(*Maker, *files, *rand.Rand) []string { return []string{"-root-mode", mode} }}
	}
	return []change{
		mode("a set-uid program", "bin/probe", os.ModeSetuid|0o755),
		mode("a set-gid program", "bin/probe", os.ModeSetgid|0o755),
		mode("a set-uid file that nobody may execute", "share/text", os.ModeSetuid|0o644),
		mode("a set-uid hook", "meta/hooks/configure", os.ModeSetuid|0o755),
		mode("a set-gid directory", "share", os.ModeDir|os.ModeSetgid|0o755),
		mode("a sticky directory", "share", os.ModeDir|os.ModeSticky|0o777),
		mode("a directory that nobody may enter", "bin", os.ModeDir),
		mode("meta that nobody may enter", "meta", os.ModeDir),
		mode("snap.yaml that nobody may read", "meta/snap.yaml", 0),
		root("a root that nobody may enter", "0"),
		root("a root that only its owner may enter", "0700"),
		root("a root that everybody may write to", "01777"),
		plainly("a set-uid program in a base", func(f *files) { base(f); f.do(os.Chmod(f.path("bin/probe"), os.ModeSetuid|0o755)) }),
		plainly("a set-uid program in a classic snap", func(f *files) {
			f.do(os.Chmod(f.path("bin/probe"), os.ModeSetuid|0o755))
			text, err := os.ReadFile(f.path("meta/snap.yaml"))
			f.do(err)
			f.write("meta/snap.yaml", "confinement: classic\n"+string(text), 0o644)
		}),
		plainly("a base with a service", base),
	}
}

// nameTrees have names that hurt whoever prints, splits or joins them.
func nameTrees() []change {
	var all []change
	for _, name := range []string{
		"two\nlines", "tab\tbed", "\x1b[2J\x1b[31mred", "not \xff\xfe UTF-8", "..hidden", "...", " ", "-rf", "a -> b", "*", "quo\"te'", "back\\slash",
		"right to left \u202e txt.exe", "\u00e9 and e\u0301", "100%s%n", "$(touch /tmp/x)", strings.Repeat("n", 255), strings.Repeat("日", 85),
	} {
		all = append(all, plainly(fmt.Sprintf("a file called %.40q", name), func(f *files) { f.write("share/"+name, "x", 0o644) }))
	}
	return all
}

// sizeTrees are large, or say that they are.
func sizeTrees() []change {
	sparse := func(f *files, name string, size int64) {
		f.do(os.Truncate(f.path(name), size))
	}
	return []change{
		plainly("3000 files", func(f *files) {
			for i := range 3000 {
				f.write(fmt.Sprintf("many/%d", i), "", 0o644)
			}
		}),
		plainly("300 levels", func(f *files) { f.do(os.MkdirAll(f.path(strings.Repeat("d/", 300)), 0o755)) }),
		plainly("15 levels with long names", func(f *files) { f.do(os.MkdirAll(f.path(strings.Repeat(strings.Repeat("d", 250)+"/", 15)), 0o755)) }),
		plainly("300 hooks", func(f *files) {
			for i := range 300 {
				f.write(fmt.Sprintf("meta/hooks/h%d", i), "", 0o755)
			}
		}),
		plainly("a file of 64 MiB of nothing", func(f *files) { sparse(f, "share/text", 64<<20) }),
		plainly("a description of 64 MiB of nothing", func(f *files) { sparse(f, "meta/snap.yaml", 64<<20) }),
		plainly("a description of a byte too much", func(f *files) {
			text, err := os.ReadFile(f.path("meta/snap.yaml"))
			f.do(err)
			f.write("meta/snap.yaml", string(text)+strings.Repeat("#", 64<<10+1-len(text)), 0o644)
		}),
	}
}

func sortChanges(all []change) {
	slices.SortFunc(all, func(a, b change) int { return strings.Compare(a.what, b.what) })
}
