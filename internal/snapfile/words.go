package snapfile

import (
	"regexp"
	"strings"
	"sync"

	"tenure"
)

// pattern is a regular expression that is compiled when it is first asked: every run of
// the command line knows what snap files are, and nearly none reads one.
type pattern func() *regexp.Regexp

func compile(text string) pattern {
	return sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(text) })
}

func (p pattern) matches(s string) bool { return p().MatchString(s) }

// The forms of names and other words, from the public reference.
//
//nolint:gochecknoglobals // Each is set once, and compiled once.
var (
	versionForm    = compile(`^[a-zA-Z0-9](?:[a-zA-Z0-9:.+~-]{0,30}[a-zA-Z0-9+~])?$`)
	nameForm       = compile(`^[a-z](?:-?[a-z0-9])*$`)
	aliasForm      = compile(`^[a-zA-Z0-9][-_.a-zA-Z0-9]*$`)
	linkKindForm   = compile(`^[a-zA-Z](?:-?[a-zA-Z0-9])*$`)
	archForm       = compile(`^[a-z0-9][a-z0-9_-]{0,31}$`)
	featureForm    = compile(`^[a-z0-9](?:[a-z0-9._+-]*[a-z0-9+])?$`)
	licenseForm    = compile(`^[A-Za-z0-9][A-Za-z0-9.+() :-]*$|^\([A-Za-z0-9.+() :-]+$`)
	busNameForm    = compile(`^[A-Za-z_-][A-Za-z0-9_-]*(?:\.[A-Za-z_-][A-Za-z0-9_-]*)+$`)
	commonIDForm   = compile(`^[A-Za-z0-9][A-Za-z0-9._+:-]*$`)
	autostartForm  = compile(`^[A-Za-z0-9][A-Za-z0-9._+-]*\.desktop$`)
	commandForm    = compile(`^[A-Za-z0-9/. _#:$-]+$`)
	chainForm      = compile(`^[A-Za-z0-9/._#:$-]+$`)
	envNameForm    = compile(`^[^=\s\x00]{1,256}$`)
	abstractForm   = compile(`^@snap\.[A-Za-z0-9._-]+$`)
	socketPathForm = compile(`^(\$[A-Z_]+)/[A-Za-z0-9/._#:@+-]+$`)
)

// The words with which messages say what is accepted.
const (
	acceptedName    = "1 to 40 of a-z, 0-9 and single inner dashes, starting with a letter"
	acceptedApp     = "1 to 40 of a-z, A-Z, 0-9 and single inner dashes"
	acceptedAlias   = "up to 100 of letters, digits, dash, underscore and dot, starting with a letter or digit"
	acceptedCommand = "a program below the snap, such as bin/web, and arguments; letters, digits, spaces and / . _ # : $ -, and no .. in the program"
	acceptedChain   = "a program below the snap, such as bin/wrap; letters, digits and / . _ # : $ -, and no .."
	acceptedBelow   = "a path below the snap, without .."
)

func isName(s string) bool { return len(s) <= 40 && nameForm.matches(s) }
func isPlug(s string) bool { return len(s) <= 100 && nameForm.matches(s) }
func isApp(s string) bool  { _, err := tenure.ParseApp(s); return err == nil }

// IsAlias reports whether s can be an alias of an app.
func IsAlias(s string) bool { return len(s) <= 100 && aliasForm.matches(s) }

// upTo accepts every text of at most limit characters.
func upTo(limit int) func(string) bool {
	return func(s string) bool { return len([]rune(s)) <= limit }
}

// form accepts texts of at most limit bytes that match.
func form(limit int, p pattern) func(string) bool {
	return func(s string) bool { return len(s) <= limit && p.matches(s) }
}

// belowSnap cleans the path of something in the snap: "$SNAP/bin/x", "/bin/x"
// and "./bin/x" are all "bin/x", as people write them. It refuses paths that
// go up anywhere, even where they would come back, and other variables.
func belowSnap(s string) (string, bool) {
	s = strings.TrimPrefix(strings.TrimPrefix(s, "$SNAP/"), "${SNAP}/")
	var parts []string
	for part := range strings.SplitSeq(s, "/") {
		switch {
		case part == "" || part == ".":
		case part == ".." || strings.Contains(part, "$"):
			return "", false
		default:
			parts = append(parts, part)
		}
	}
	return strings.Join(parts, "/"), len(parts) > 0
}
