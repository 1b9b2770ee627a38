package squash_test

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"tenure/internal/squash"
)

func TestBuildIsReproducible(t *testing.T) {
	t.Parallel()
	var images [][]byte
	for i := range 3 {
		dir := snapTree(t)
		// Times, owners and the mode of the root are not part of a snap.
		when := time.Unix(int64(1e9+i), 0)
		if err := os.Chtimes(filepath.Join(dir, "bin/a file"), when, when); err != nil {
			t.Fatal(err)
		}
		if err := os.Chown(filepath.Join(dir, "meta/snap.yaml"), 1000+i, 1000); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(dir, []os.FileMode{0o700, 0o755, 0o777}[i]); err != nil {
			t.Fatal(err)
		}
		image, err := os.ReadFile(build(t, dir, squash.BuildOptions{}))
		if err != nil {
			t.Fatal(err)
		}
		if len(image)%4096 != 0 {
			t.Errorf("%d bytes are not padded for loop devices", len(image))
		}
		images = append(images, image)
	}
	if !bytes.Equal(images[0], images[1]) || !bytes.Equal(images[0], images[2]) {
		t.Error("the same input gave different bytes")
	}
}

func TestBuildIntoItsOwnDirectory(t *testing.T) {
	t.Parallel()
	dir := snapTree(t)
	out := filepath.Join(dir, "hello.snap")
	var images [][]byte
	for range 2 {
		if err := squash.Build(t.Context(), dir, out, squash.BuildOptions{}); err != nil {
			t.Fatal(err)
		}
		image, err := os.ReadFile(out)
		if err != nil {
			t.Fatal(err)
		}
		images = append(images, image)
	}
	if !bytes.Equal(images[0], images[1]) {
		t.Error("the output became part of the input")
	}
	entries, err := squash.Open(squash.Config{}).List(t.Context(), out)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if strings.Contains(e.Path, "hello.snap") || strings.Contains(e.Path, "tenure-build") {
			t.Errorf("the snap contains %s", e.Path)
		}
	}
}

func TestBuildFailsWithoutTrace(t *testing.T) {
	t.Parallel()
	outDir := t.TempDir()
	out := filepath.Join(outDir, "x.snap")
	write(t, out, "before", 0o644)
	for name, c := range map[string]struct {
		dir  string
		opts squash.BuildOptions
		says string
	}{
		"no directory":        {filepath.Join(outDir, "nothing"), squash.BuildOptions{}, "nothing"},
		"a file":              {out, squash.BuildOptions{}, "not a directory"},
		"unknown compression": {snapTree(t), squash.BuildOptions{Compression: "rar"}, `"rar"`},
		"a tool that fails":   {snapTree(t), squash.BuildOptions{Mksquashfs: "/bin/false"}, "exit status 1"},
	} {
		err := squash.Build(t.Context(), c.dir, out, c.opts)
		if err == nil || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: got %v, want an error that says %q", name, err, c.says)
		}
	}
	names, err := filepath.Glob(filepath.Join(outDir, "*"))
	hidden, hiddenErr := filepath.Glob(filepath.Join(outDir, ".*"))
	if err != nil || hiddenErr != nil {
		t.Fatal(err, hiddenErr)
	}
	if diff := cmp.Diff([]string{out}, append(names, hidden...)); diff != "" {
		t.Errorf("left behind (-want +got):\n%s", diff)
	}
	if got, err := os.ReadFile(out); err != nil || string(got) != "before" {
		t.Errorf("the old file became %q, %v", got, err)
	}
}

func TestCopyDigest(t *testing.T) {
	t.Parallel()
	var b bytes.Buffer
	n, digest, err := squash.CopyDigest(&b, strings.NewReader("abc"))
	const want = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad" // FIPS 180-2, B.1.
	if n != 3 || digest != want || err != nil || b.String() != "abc" {
		t.Errorf("got %d, %s, %v, %q", n, digest, err, b.String())
	}
}
