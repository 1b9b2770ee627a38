package snapfile_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cockroachdb/datadriven"
	"github.com/google/go-cmp/cmp"

	"tenure/internal/snapfile"
)

// TestScripts runs the transcripts in testdata/scripts: "file" parses a file of
// testdata/snaps, "parse" its input, "wrong" too but says only what is wrong.
// A hooks argument lists the files in meta/hooks.
func TestScripts(t *testing.T) {
	t.Parallel()
	datadriven.Walk(t, "testdata/scripts", func(t *testing.T, path string) {
		t.Helper()
		datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) string {
			t.Helper()
			var hooks []string
			for _, arg := range d.CmdArgs {
				if arg.Key == "hooks" {
					hooks = arg.Vals
				}
			}
			input := []byte(d.Input)
			switch d.Cmd {
			case "file":
				input = readSnap(t, d.CmdArgs[0].Key)
			case "wrong":
				input = append([]byte("name: web\nversion: 1\n"), input...)
			}
			snap, err := snapfile.Parse(input, hooks)
			if invalid, ok := errors.AsType[*snapfile.InvalidError](err); ok {
				return strings.Join(invalid.Lines(), "\n") + "\n"
			}
			if d.Cmd == "wrong" {
				return "accepted\n"
			}
			text, err := json.MarshalIndent(snap, "", " ")
			if err != nil {
				t.Fatal(err)
			}
			return string(text) + "\n"
		})
	})
}

func readSnap(tb testing.TB, name string) []byte {
	tb.Helper()
	data, err := os.ReadFile(filepath.Join("testdata/snaps", name))
	if err != nil {
		tb.Fatal(err)
	}
	return data
}

func TestSnapsSurviveJSON(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob("testdata/snaps/*.yaml")
	if err != nil || len(files) < 6 {
		t.Fatalf("testdata: %d files, %v", len(files), err)
	}
	for _, file := range files {
		snap, err := snapfile.Parse(readSnap(t, filepath.Base(file)), []string{"install", "configure"})
		if err != nil {
			t.Errorf("%s: %v", file, err)
			continue
		}
		checkJSON(t, snap)
	}
}

func checkJSON(t *testing.T, snap *snapfile.Snap) {
	t.Helper()
	text, err := json.Marshal(snap)
	if err != nil {
		t.Fatal(err)
	}
	back := &snapfile.Snap{}
	if err := json.Unmarshal(text, back); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(snap, back); diff != "" {
		t.Errorf("changed by encoding/json (-before +after):\n%s", diff)
	}
}

func TestBombs(t *testing.T) {
	t.Parallel()
	laughs := "a: &a [x,x,x,x,x,x,x,x,x]\n"
	for i := range 8 {
		before, after := string(rune('a'+i)), string(rune('b'+i))
		laughs += after + ": &" + after + " [" + strings.Repeat("*"+before+",", 9) + "]\n"
	}
	tests := []struct{ name, yaml, want string }{
		{"laughs", laughs, "more values than a description can need"},
		{"within itself", "name: &a [*a]\n", "nested too deep, or within itself"},
		{"merge of itself", "apps: &a\n  <<: *a\n", "nested too deep, or within itself"},
		{"deep flow", "name: " + strings.Repeat("[", 60000), "broken YAML"},
		{"deep closed flow", "name: " + strings.Repeat("[", 900) + strings.Repeat("]", 900), "nested too deep"},
		{"deep blocks", deepBlocks(150), "nested too deep"},
		{"too long", "#" + strings.Repeat("x", 64<<10), "found 65537 bytes; accepted: at most 65536 bytes"},
		{"many values", "x: [" + strings.Repeat("1,", 30000) + "]", "more values than"},
		{"many apps", "name: a\nversion: 1\napps:\n" + manyApps(257), "apps: found 257 entries; accepted: at most 256"},
		{"list as key", "? [a]\n: b\n", "found a list as a key; accepted: text"},
		{"alias as key", "x: &a b\n? *a\n: c\n", "as a key; accepted: text"},
		{"two documents", "name: a\n---\nname: b\n", "found a second document"},
		{"no document", "", "found nothing"},
		{"a comment", "# nothing\n", "found nothing"},
		{"control", "name: a\x00b", "broken YAML (control characters are not allowed"},
		{"not UTF-8", "name: \xff", "broken YAML"},
		{"a list", "- a\n", "meta/snap.yaml:1: found a list; accepted: a map"},
		{"text", "hello", `meta/snap.yaml:1: found "hello"; accepted: a map`},
		{"unknown anchor", "name: *a", "broken YAML (unknown anchor 'a' referenced)"},
		{"dear patterns", dearPatterns(), "apps.a.lifecycle.workloads.w12.match: found"},
		{"foreign tag", "name: !!python/object x\nversion: 1\n", "meta/snap.yaml:1: name: found"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			snap, err := snapfile.Parse([]byte(test.yaml), nil)
			invalid, ok := errors.AsType[*snapfile.InvalidError](err)
			if snap != nil || !ok || !strings.Contains(strings.Join(invalid.Lines(), "\n"), test.want) || strings.Contains(err.Error(), "\n") {
				t.Errorf("got %v, %v (a %T); want an error with %q", snap, err, err, test.want)
			}
		})
	}
}

// dearPatterns are each cheap enough, but not together.
func dearPatterns() string {
	var b strings.Builder
	b.WriteString("name: a\nversion: 1\napps: {a: {command: x, daemon: simple, lifecycle: {workloads: {")
	for i := range 20 {
		fmt.Fprintf(&b, "w%d: {match: '^(?:a{999}b{999})'},", i)
	}
	b.WriteString("}}}}")
	return b.String()
}

func deepBlocks(levels int) string {
	var b strings.Builder
	for i := range levels {
		b.WriteString(strings.Repeat(" ", i) + "a:\n")
	}
	return b.String()
}

func manyApps(n int) string {
	var b strings.Builder
	for i := range n {
		b.WriteString(" a" + strings.Repeat("b", i%36) + strings.Repeat("c", i/36) + ": {command: x}\n")
	}
	return b.String()
}

func TestEveryProblemIsAnError(t *testing.T) {
	t.Parallel()
	_, err := snapfile.Parse([]byte("name: web\nversion: 1\ntype: cat\ngrade: a\n"), nil)
	var problem *snapfile.ValueError
	if !errors.As(err, &problem) {
		t.Fatalf("no ValueError in %v", err)
	}
	want := snapfile.ValueError{
		File: "meta/snap.yaml", Line: 3, Key: "type", Found: `"cat"`,
		Accepted: "app, base, core, os, gadget, kernel, snapd",
	}
	if diff := cmp.Diff(want, *problem); diff != "" {
		t.Error(diff)
	}
}

func TestProblemsAreBounded(t *testing.T) {
	t.Parallel()
	_, err := snapfile.Parse([]byte("name: web\nversion: 1\napps:\n"+strings.ReplaceAll(manyApps(200), "command: x", "command: '*'")), nil)
	var invalid *snapfile.InvalidError
	if !errors.As(err, &invalid) {
		t.Fatal(err)
	}
	if len(invalid.Problems) != 50 || invalid.More != 150 {
		t.Errorf("%d problems and %d more", len(invalid.Problems), invalid.More)
	}
	if lines := invalid.Lines(); len(lines) != 51 || lines[50] != "and 150 more" || !strings.HasSuffix(err.Error(), " (and 199 more wrong values)") {
		t.Errorf("in one line: %v; %d lines, the last: %s", err, len(lines), lines[len(lines)-1])
	}
}
