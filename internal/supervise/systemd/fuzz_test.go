package systemd

import (
	"slices"
	"strings"
	"testing"
	"unicode"

	"github.com/coreos/go-systemd/v22/unit"
)

// FuzzUnitFile puts anything into values and commands of unit files. What is read out again are
// the settings that were put in, no more and no fewer, and the same command.
func FuzzUnitFile(f *testing.F) {
	f.Add("a service", "/bin/true\x00a b\x00\"$HOME\" 100% \\")
	f.Add("x\nExecStart=/bin/sh", "/bin/true\x00\r\n[Service]\rUser=root")
	f.Add(`ends with \`, "")
	f.Add("# no comment\x00; nor this", "\x00")
	f.Fuzz(func(t *testing.T, text, args string) {
		argv := strings.Split(strings.Map(printableOrLine, args), "\x00")
		command := quoteCommand(argv)
		if len(text)+len(command) > 600 { // The library, and not systemd, has a limit for lines.
			return
		}
		file := render(section{"Unit", []setting{{"Description", percents(text)}}}, section{"Service", []setting{{"ExecStart", command}, {"User", "nobody"}}})
		if strings.ContainsAny(file, "\r\x00") {
			t.Errorf("a line ends elsewhere: %q", file)
		}
		options, err := unit.DeserializeOptions(strings.NewReader(file))
		if err != nil {
			t.Fatalf("%v: %q", err, file)
		}
		var names []string
		for _, option := range options {
			names = append(names, option.Section+"."+option.Name)
		}
		if want := []string{"Unit.Description", "Service.ExecStart", "Service.User"}; !slices.Equal(names, want) {
			t.Fatalf("there are %q in %q", names, file)
		}
		if got := unquote(options[1].Value); !slices.Equal(got, argv) {
			t.Errorf("%q is read as %q", argv, got)
		}
	})
}

// printableOrLine leaves of what programs are given what file names of a root can have, and ends of lines.
func printableOrLine(r rune) rune {
	if unicode.IsControl(r) && r != '\n' && r != '\r' && r != 0 || r == unicode.ReplacementChar {
		return '?'
	}
	return r
}

// unquote reads a command as systemd.service(5) says, of what is all in quotation marks.
func unquote(command string) (argv []string) {
	var word strings.Builder
	inside, rest := false, []rune(command)
	for i := 0; i < len(rest); i++ {
		switch c := rest[i]; {
		case !inside:
			inside = c == '"'
		case c == '"':
			argv, inside = append(argv, word.String()), false
			word.Reset()
		case c == '\\', c == '%', c == '$':
			i++
			escaped := map[rune]rune{'n': '\n', 'r': '\r'}[rest[i]]
			if c != '\\' || escaped == 0 {
				escaped = rest[i]
			}
			word.WriteRune(escaped)
		default:
			word.WriteRune(c)
		}
	}
	return argv
}
