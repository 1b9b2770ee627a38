package tidy_test

import (
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// listed is what this test needs of `go list -json`.
type listed struct {
	ImportPath   string
	Doc          string
	GoFiles      []string
	Imports      []string
	TestImports  []string
	XTestImports []string
}

const module = "tenure"

// TestImportsGoStrictlyDown reads the layer table of docs/ARCHITECTURE.md, so
// that what newcomers read is what is enforced.
func TestImportsGoStrictlyDown(t *testing.T) {
	t.Parallel()
	layers := layerTable(t)
	for _, pkg := range packages(t) {
		layer, ok := layers.of(pkg.ImportPath)
		if !ok {
			t.Errorf("%s stands in no layer of docs/ARCHITECTURE.md", pkg.ImportPath)
			continue
		}
		for _, imported := range pkg.Imports {
			if imported != module && !strings.HasPrefix(imported, module+"/") {
				continue
			}
			below, ok := layers.of(imported)
			if !ok {
				continue
			}
			if below >= layer && !layers.family(pkg.ImportPath, imported) {
				t.Errorf("%s (layer %d) imports %s (layer %d): imports go strictly down", pkg.ImportPath, layer, imported, below)
			}
		}
	}
}

// TestHeavyLibrariesStayInTheDaemon keeps the small binaries small.
func TestHeavyLibrariesStayInTheDaemon(t *testing.T) {
	t.Parallel()
	heavy := []string{"go.etcd.io/bbolt", "github.com/fsnotify/fsnotify", "github.com/godbus/dbus/v5", "github.com/coreos/go-systemd/v22/dbus", "cel.dev/cel-go/cel", module + "/internal/rules", module + "/internal/daemon", module + "/internal/refresh"}
	for _, command := range []string{"./cmd/tenure", "./cmd/tenure-run", "./cmd/snapctl"} {
		if _, err := os.Stat(filepath.Join(root(t), command)); errors.Is(err, os.ErrNotExist) {
			continue
		}
		out := goList(t, "-deps", command)
		for line := range strings.Lines(out) {
			if slices.Contains(heavy, strings.TrimSpace(line)) {
				t.Errorf("%s links %s", command, strings.TrimSpace(line))
			}
		}
	}
}

// TestEveryPackageSaysWhatItIs asks for a package comment that begins as Go
// expects and is more than a line.
func TestEveryPackageSaysWhatItIs(t *testing.T) {
	t.Parallel()
	for _, pkg := range packages(t) {
		if len(pkg.GoFiles) > 0 && len(pkg.Doc) < 30 {
			t.Errorf("%s has no package comment that says what it is", pkg.ImportPath)
		}
	}
}

type layerOf map[string]int

// of finds the layer of the longest listed prefix of path.
func (l layerOf) of(path string) (layer int, ok bool) {
	for p := path; p != "." && p != "/"; p = filepath.Dir(p) {
		if layer, ok := l[p]; ok {
			return layer, p != module || path == module
		}
	}
	return 0, false
}

// family reports whether both packages belong to one entry of the table, where
// implementations import their contract.
func (l layerOf) family(a, b string) bool { return l.owner(a) == l.owner(b) }

func (l layerOf) owner(path string) string {
	for p := path; p != "." && p != "/"; p = filepath.Dir(p) {
		if _, ok := l[p]; ok {
			return p
		}
	}
	return path
}

// layerTable reads rows like "| 2 | `internal/proc` | … |".
func layerTable(t *testing.T) layerOf {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(root(t), "docs", "ARCHITECTURE.md"))
	if err != nil {
		t.Fatal(err)
	}
	row := regexp.MustCompile("(?m)^\\| (\\d+) \\| `([^`]+)`")
	layers := layerOf{}
	for _, match := range row.FindAllStringSubmatch(string(text), -1) {
		layer, err := strconv.Atoi(match[1])
		if err != nil {
			t.Fatal(err)
		}
		path := module
		if match[2] != module {
			path = module + "/" + match[2]
		}
		layers[path] = layer
	}
	if len(layers) < 10 {
		t.Fatalf("docs/ARCHITECTURE.md lists %d packages; has its table changed its form?", len(layers))
	}
	return layers
}

func packages(t *testing.T) []listed {
	t.Helper()
	var all []listed
	decoder := json.NewDecoder(strings.NewReader(goList(t, "-json", "./...")))
	for {
		var pkg listed
		err := decoder.Decode(&pkg)
		if errors.Is(err, io.EOF) {
			return all
		}
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, pkg)
	}
}

func goList(t *testing.T, args ...string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "go", append([]string{"list"}, args...)...)
	cmd.Dir = root(t)
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list %v: %v", args, err)
	}
	return string(out)
}

func root(t *testing.T) string {
	t.Helper()
	dir, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	return dir
}
