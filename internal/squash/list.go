package squash

import (
	"bytes"
	"fmt"
	"io/fs"
	"strconv"
	"strings"
)

// Entry is one file of an image.
type Entry struct {
	// Path is relative to the root of the image, which is ".". It is clean and
	// never leads out.
	Path string
	// Mode has the type, the permissions and the set-uid, set-gid and sticky
	// bits as package fs has them.
	Mode     fs.FileMode
	UID, GID uint32
	// Size is in bytes; 0 for devices.
	Size int64
	// Target is what a symlink says, as it stands in the image.
	Target string
}

const (
	listRoot = "squashfs-root"
	// maxLine is longer than the longest path and the longest link target that
	// the kernel takes, together.
	maxLine = 16 << 10
)

// listParser reads the output of unsquashfs -lln, a line at a time, in pieces
// of any size. Names are raw in that output, so it relies on this: a name has
// no slash, hence a line feed in a name cannot start a line that looks like an
// entry; a link target can, hence its length is compared with the link's size.
type listParser struct {
	limit   int
	entries []Entry
	rest    []byte
}

func (p *listParser) write(b []byte) error {
	for {
		line, after, found := bytes.Cut(b, []byte{'\n'})
		if len(p.rest)+len(line) > maxLine {
			return fmt.Errorf("%w: a line of %d bytes in its list of files", ErrCorrupt, len(p.rest)+len(line))
		}
		p.rest = append(p.rest, line...)
		if !found {
			return nil
		}
		if err := p.line(string(p.rest)); err != nil {
			return err
		}
		p.rest, b = p.rest[:0], after
	}
}

func (p *listParser) close() error {
	if len(p.rest) > 0 {
		return fmt.Errorf("%w: its list of files ends in the middle of a line: %.80q", ErrCorrupt, p.rest)
	}
	if len(p.entries) == 0 {
		return fmt.Errorf("%w: it has no root directory", ErrCorrupt)
	}
	return nil
}

func (p *listParser) line(line string) error {
	if line == "" && len(p.entries) == 0 {
		return nil
	}
	if len(p.entries) >= p.limit {
		return fmt.Errorf("%w: more than %d files", ErrTooBig, p.limit)
	}
	e, err := parseEntry(line)
	if err != nil {
		return fmt.Errorf("%w: cannot read this line of its list of files: %.120q: %w", ErrCorrupt, line, err)
	}
	p.entries = append(p.entries, e)
	return nil
}

// lineError is what is wrong with one line of a listing.
type lineError string

func (e lineError) Error() string { return string(e) }

// parseEntry reads one line:
//
//	lrwxrwxrwx 0/0                       9 2022-01-01 00:00 squashfs-root/a -> b
//	crw-r--r-- 0/0                   1,  3 2022-01-01 00:00 squashfs-root/null
func parseEntry(line string) (Entry, error) {
	var e Entry
	mode, rest, _ := strings.Cut(line, " ")
	var ok bool
	if e.Mode, ok = parseMode(mode); !ok {
		return Entry{}, lineError("mode")
	}
	owner, rest, _ := strings.Cut(rest, " ")
	uid, gid, _ := strings.Cut(owner, "/")
	var okUID, okGID bool
	e.UID, okUID = parseID(uid)
	e.GID, okGID = parseID(gid)
	if !okUID || !okGID {
		return Entry{}, lineError("owner")
	}
	rest = strings.TrimLeft(rest, " ")
	if e.Mode&fs.ModeDevice != 0 {
		rest, ok = skipDevice(rest)
	} else {
		e.Size, rest, ok = cutSize(rest)
	}
	if !ok {
		return Entry{}, lineError("size")
	}
	name, ok := skipTime(rest)
	if !ok {
		return Entry{}, lineError("time")
	}
	return e.withName(name)
}

// withName takes the name, and the target of a symlink, off the end of a line.
func (e Entry) withName(name string) (Entry, error) {
	if e.Mode&fs.ModeSymlink != 0 {
		const arrow = " -> "
		at := int64(len(name)) - e.Size
		if e.Size < 1 || at < int64(len(arrow)) || name[at-int64(len(arrow)):at] != arrow {
			return Entry{}, lineError("symlink target with a line feed or a zero byte")
		}
		name, e.Target = name[:at-int64(len(arrow))], name[at:]
	}
	below, found := strings.CutPrefix(name, listRoot)
	switch {
	case found && below == "":
		e.Path = "."
	case found && below[0] == '/':
		e.Path = below[1:]
	default:
		return Entry{}, lineError("path")
	}
	if !cleanPath(e.Path) {
		return Entry{}, lineError("path")
	}
	return e, nil
}

// cleanPath is fs.ValidPath for names that need not be UTF-8.
func cleanPath(p string) bool {
	if p == "." {
		return true
	}
	for name := range strings.SplitSeq(p, "/") {
		if name == "" || name == "." || name == ".." || len(name) > 255 {
			return false
		}
	}
	return true
}

func parseID(s string) (uint32, bool) {
	n, err := strconv.ParseUint(s, 10, 32)
	return uint32(n), err == nil //nolint:gosec // Parsed as 32 bits.
}

func cutSize(s string) (int64, string, bool) {
	digits, rest, found := strings.Cut(s, " ")
	n, err := strconv.ParseInt(digits, 10, 64)
	return n, rest, found && err == nil && n >= 0
}

// skipDevice skips "1,  3 ".
func skipDevice(s string) (string, bool) {
	major, rest, found := strings.Cut(s, ",")
	if _, ok := parseID(major); !ok || !found {
		return "", false
	}
	minor, rest, found := strings.Cut(strings.TrimLeft(rest, " "), " ")
	_, ok := parseID(minor)
	return rest, ok && found
}

// skipTime skips "2022-01-01 00:00 ". Years have more digits than four in
// images that lie about their age.
func skipTime(s string) (string, bool) {
	date, rest, ok := strings.Cut(s, " ")
	clock, name, ok2 := strings.Cut(rest, " ")
	return name, ok && ok2 && onlyOf(date, "-") && onlyOf(clock, ":")
}

func onlyOf(s, others string) bool {
	return s != "" && !strings.ContainsFunc(s, func(r rune) bool {
		return (r < '0' || r > '9') && !strings.ContainsRune(others, r)
	})
}

// parseMode reads "drwxr-xr-x" with s, S, t and T where they belong.
func parseMode(s string) (fs.FileMode, bool) {
	if len(s) != 10 {
		return 0, false
	}
	m, ok := parseType(s[0])
	if !ok {
		return 0, false
	}
	special := [...]struct {
		char byte
		bit  fs.FileMode
	}{{'s', fs.ModeSetuid}, {'s', fs.ModeSetgid}, {'t', fs.ModeSticky}}
	const letters = "rwxrwxrwx"
	for i := range letters {
		bit := fs.FileMode(1) << (8 - i)
		sp := special[i/3]
		switch c := s[i+1]; {
		case c == letters[i]:
			m |= bit
		case c == '-':
		case i%3 == 2 && c == sp.char:
			m |= bit | sp.bit
		case i%3 == 2 && c == sp.char-('a'-'A'):
			m |= sp.bit
		default:
			return 0, false
		}
	}
	return m, true
}

func parseType(c byte) (fs.FileMode, bool) {
	switch c {
	case '-':
		return 0, true
	case 'd':
		return fs.ModeDir, true
	case 'l':
		return fs.ModeSymlink, true
	case 'p':
		return fs.ModeNamedPipe, true
	case 's':
		return fs.ModeSocket, true
	case 'b':
		return fs.ModeDevice, true
	case 'c':
		return fs.ModeDevice | fs.ModeCharDevice, true
	default:
		return 0, false
	}
}
