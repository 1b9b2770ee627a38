package snapfile

import (
	"regexp"
	"strings"

	"tenure"
)

// The forms of names and other words, from the public reference.
var (
	versionForm    = regexp.MustCompile(`^[a-zA-Z0-9](?:[a-zA-Z0-9:.+~-]{0,30}[a-zA-Z0-9+~])?$`)
	nameForm       = regexp.MustCompile(`^[a-z](?:-?[a-z0-9])*$`)
	aliasForm      = regexp.MustCompile(`^[a-zA-Z0-9][-_.a-zA-Z0-9]*$`)
	linkKindForm   = regexp.MustCompile(`^[a-zA-Z](?:-?[a-zA-Z0-9])*$`)
	archForm       = regexp.MustCompile(`^[a-z0-9][a-z0-9_-]{0,31}$`)
	featureForm    = regexp.MustCompile(`^[a-z0-9](?:[a-z0-9._+-]*[a-z0-9+])?$`)
	licenseForm    = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9.+() :-]*$|^\([A-Za-z0-9.+() :-]+$`)
	busNameForm    = regexp.MustCompile(`^[A-Za-z_-][A-Za-z0-9_-]*(?:\.[A-Za-z_-][A-Za-z0-9_-]*)+$`)
	commonIDForm   = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._+:-]*$`)
	autostartForm  = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._+-]*\.desktop$`)
	commandForm    = regexp.MustCompile(`^[A-Za-z0-9/. _#:$-]+$`)
	chainForm      = regexp.MustCompile(`^[A-Za-z0-9/._#:$-]+$`)
	envNameForm    = regexp.MustCompile(`^[^=\s\x00]{1,256}$`)
	abstractForm   = regexp.MustCompile(`^@snap\.[A-Za-z0-9._-]+$`)
	socketPathForm = regexp.MustCompile(`^(\$[A-Z_]+)/[A-Za-z0-9/._#:@+-]+$`)
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

func isName(s string) bool { return len(s) <= 40 && nameForm.MatchString(s) }
func isPlug(s string) bool { return len(s) <= 100 && nameForm.MatchString(s) }
func isApp(s string) bool  { _, err := tenure.ParseApp(s); return err == nil }

// IsAlias reports whether s can be an alias of an app.
func IsAlias(s string) bool { return len(s) <= 100 && aliasForm.MatchString(s) }

// upTo accepts every text of at most limit characters.
func upTo(limit int) func(string) bool {
	return func(s string) bool { return len([]rune(s)) <= limit }
}

// form accepts texts of at most limit bytes that match.
func form(limit int, re *regexp.Regexp) func(string) bool {
	return func(s string) bool { return len(s) <= limit && re.MatchString(s) }
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
