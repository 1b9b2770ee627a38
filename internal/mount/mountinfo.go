package mount

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// Dev is the number of a device. Every file of a mounted snap has that of its
// loop device, in every mount namespace.
type Dev struct {
	Major uint32 `json:"major"`
	Minor uint32 `json:"minor"`
}

// String is "7:12".
func (d Dev) String() string { return fmt.Sprintf("%d:%d", d.Major, d.Minor) }

// Info is one mount of this mount namespace.
type Info struct {
	// Dir is where it is mounted, as seen from the root of the caller.
	Dir string `json:"dir"`
	Dev Dev    `json:"dev"`
	// Type is the type of file system, "squashfs" for a revision.
	Type string `json:"type"`
	// Source is what was mounted, "/dev/loop3" for a revision. It is for
	// people: it can be anything.
	Source string `json:"source"`
	// Shared tells whether mounts below it propagate.
	Shared bool `json:"shared"`
}

// entry is one line of mountinfo (proc(5)).
type entry struct {
	id, parent int
	dev        Dev
	root, dir  string
	// shared and master are peer groups; 0 for none.
	shared, master int
	kind, source   string
}

func (e entry) info() Info {
	return Info{Dir: e.dir, Dev: e.dev, Type: e.kind, Source: e.source, Shared: e.shared != 0}
}

// Mounted tells whether something is mounted at dir, and what lies on top.
func Mounted(dir string) (Info, bool, error) {
	dir, err := canonical(dir)
	if err != nil {
		return Info{}, false, err
	}
	if info, ok, err := at(dir); !errors.Is(err, errSlow) {
		return info, ok, err
	}
	entries, err := readMountinfo("/proc/self/mountinfo")
	if err != nil {
		return Info{}, false, err
	}
	e, ok := topmost(entries, dir)
	return e.info(), ok, nil
}

// topmost is the last mount at dir: later ones cover earlier ones.
func topmost(entries []entry, dir string) (entry, bool) {
	for _, e := range slices.Backward(entries) {
		if e.dir == dir {
			return e, true
		}
	}
	return entry{}, false
}

// List are the mounts at and below the root of the store, in the order in which
// they were mounted.
func (s *Store) List() ([]Info, error) { return Below(s.root) }

// Below are the mounts at and below dir, in the order in which they were
// mounted.
func Below(dir string) ([]Info, error) {
	entries, err := readMountinfo("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	dir, err = canonical(dir)
	if err != nil {
		return nil, err
	}
	var infos []Info
	for _, e := range entries {
		if within(dir, e.dir) {
			infos = append(infos, e.info())
		}
	}
	return infos, nil
}

func within(dir, path string) bool {
	return path == dir || dir == "/" || strings.HasPrefix(path, dir+"/")
}

// canonical is the name that the kernel has for dir, which need not exist.
func canonical(dir string) (string, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return "", err
	}
	resolved, err := filepath.EvalSymlinks(filepath.Dir(dir))
	if os.IsNotExist(err) {
		return dir, nil
	}
	if err != nil {
		return "", err
	}
	return filepath.Join(resolved, filepath.Base(dir)), nil
}

func readMountinfo(path string) ([]entry, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close() //nolint:errcheck // Only read.
	entries, err := parseMountinfo(f)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", path, err)
	}
	return entries, nil
}

func parseMountinfo(r io.Reader) ([]entry, error) {
	var entries []entry
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		e, err := parseLine(lines.Text())
		if err != nil {
			return nil, err
		}
		entries = append(entries, e)
	}
	return entries, lines.Err()
}

// parseLine reads
//
//	36 35 98:0 /mnt1 /mnt2 rw,noatime shared:1 master:2 - ext3 /dev/root rw
func parseLine(line string) (entry, error) {
	before, after, found := strings.Cut(line, " - ")
	f, g := strings.Fields(before), strings.Fields(after)
	if !found || len(f) < 6 || len(g) < 1 {
		return entry{}, fmt.Errorf("malformed line %.200q", line)
	}
	e := entry{root: unescape(f[3]), dir: unescape(f[4]), kind: g[0]}
	if len(g) > 1 {
		e.source = unescape(g[1])
	}
	var err error
	if e.id, err = strconv.Atoi(f[0]); err == nil {
		e.parent, err = strconv.Atoi(f[1])
	}
	if err == nil {
		e.dev, err = parseDev(f[2], 10)
	}
	for _, field := range f[6:] {
		tag, number, _ := strings.Cut(field, ":")
		switch tag {
		case "shared":
			e.shared, err = strconv.Atoi(number)
		case "master":
			e.master, err = strconv.Atoi(number)
		}
	}
	if err != nil {
		return entry{}, fmt.Errorf("malformed line %.200q: %w", line, err)
	}
	return e, nil
}

// parseDev reads "7:12", in hexadecimal as /proc/PID/maps has it.
func parseDev(s string, base int) (Dev, error) {
	major, minor, _ := strings.Cut(s, ":")
	a, err := strconv.ParseUint(major, base, 32)
	if err != nil {
		return Dev{}, err
	}
	b, err := strconv.ParseUint(minor, base, 32)
	return Dev{uint32(a), uint32(b)}, err //nolint:gosec // Parsed as 32 bits.
}

// unescape turns the \040 of mountinfo into what it stands for.
func unescape(s string) string {
	if !strings.Contains(s, `\`) {
		return s
	}
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+3 < len(s) {
			if n, err := strconv.ParseUint(s[i+1:i+4], 8, 8); err == nil {
				b.WriteByte(byte(n))
				i += 3
				continue
			}
		}
		b.WriteByte(s[i])
	}
	return b.String()
}
