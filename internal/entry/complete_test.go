package entry

import (
	"bytes"
	"os"
	"os/exec"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// shown reads words, and prints those that the shell would have on its line.
const shown = `. ./complete.bash
COMP_CWORD=0 COMP_WORDS=("$1")
while IFS= read -r -d '' word; do
	if _tenure_word "$word" ""; then printf '%s\0' "$REPLY"; fi
done`

// judge runs each word as an argument, as it stands, and says what else it runs.
const judge = `PATH=/nowhere
x() { echo "ran: $word"; }
command_not_found_handle() { x; }
set -f
while IFS= read -r -d '' word; do
	(eval ": $word") 2>&1
done`

// Whatever a completer answers runs nothing when it is on the line, is redirected nowhere, and
// leaves no quotation open.
func TestNothingThatIsCompletedRuns(t *testing.T) {
	t.Parallel()
	part := rapid.OneOf(
		rapid.SampledFrom([]string{"$(x)", "`x`", ";x", "|x", "&x", ">f", "<f", "<(x)", "\n", "\x1b[2J", "${x}", "$'x'", "\\", "'", `"`, " ", "é", "\xff"}),
		rapid.StringN(1, 1, -1).Filter(func(s string) bool { return s != "\x00" }),
		rapid.StringOfN(rapid.RuneFrom([]rune("x;|&<>()$`\\\"' {}*?!~#=:")), 1, 4, -1),
	)
	word := rapid.Map(rapid.SliceOfN(part, 1, 5), func(parts []string) string { return strings.Join(parts, "") })
	words := make([]string, 600)
	for i := range words {
		words[i] = word.Example(i)
	}
	dir := t.TempDir()
	cmd := exec.CommandContext(t.Context(), "bash", "-c", judge)
	cmd.Dir, cmd.Stdin = dir, bytes.NewReader(bash(t, shown, []string{"x"}, words))
	if out, err := cmd.CombinedOutput(); err != nil || len(out) > 0 {
		t.Errorf("%v: %s", err, out)
	}
	if made, err := os.ReadDir(dir); err != nil || len(made) > 0 {
		t.Errorf("made: %v, %v", made, err)
	}
	// Within a quotation, or an expansion, nothing has a meaning.
	for _, open := range []string{"'x", `"x`, "x$(", "`x"} {
		if out := bash(t, shown, []string{open}, words); bytes.ContainsAny(out, "'\"`$\\;|&<>()\n") {
			t.Errorf("behind %s: %q", open, out)
		}
	}
}

// bash gives words to a script, each with a NUL behind it, and returns what it prints.
func bash(t *testing.T, script string, args, words []string) []byte {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "bash", append([]string{"-c", script, "bash"}, args...)...)
	cmd.Stdin = strings.NewReader(strings.Join(words, "\x00") + "\x00")
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil || stderr.Len() > 0 {
		t.Fatalf("%v: %s", err, stderr.String())
	}
	return out
}
