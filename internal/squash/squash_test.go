package squash_test

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"tenure/internal/squash"
)

func write(t *testing.T, path, content string, mode fs.FileMode) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), mode.Perm()); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(path, mode); err != nil {
		t.Fatal(err)
	}
}

// snapTree makes the directory of a small, sound snap.
func snapTree(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	write(t, filepath.Join(dir, "meta/snap.yaml"), "name: hello\n", 0o644)
	write(t, filepath.Join(dir, "meta/hooks/configure"), "#!/bin/sh\n", 0o755)
	write(t, filepath.Join(dir, "meta/hooks/README"), "not a hook\n", 0o644)
	write(t, filepath.Join(dir, "bin/a file"), strings.Repeat("x", 300_000), 0o755)
	if err := os.Symlink("/etc/passwd", filepath.Join(dir, "away -> here")); err != nil {
		t.Fatal(err)
	}
	return dir
}

func build(t *testing.T, dir string, opts squash.BuildOptions) string {
	t.Helper()
	out := filepath.Join(t.TempDir(), "hello.snap")
	if err := squash.Build(t.Context(), dir, out, opts); err != nil {
		t.Fatal(err)
	}
	return out
}

func TestEveryCompressionIsRead(t *testing.T) {
	t.Parallel()
	dir := snapTree(t)
	for _, comp := range []squash.Compression{squash.Gzip, squash.LZO, squash.XZ, squash.LZ4, squash.Zstd} {
		t.Run(string(comp), func(t *testing.T) {
			t.Parallel()
			snap := build(t, dir, squash.BuildOptions{Compression: comp})
			r := squash.Open(squash.Config{})
			sb, err := r.Superblock(snap)
			if err != nil || sb.Compression != comp {
				t.Errorf("superblock: %+v, %v", sb, err)
			}
			got, err := r.ReadFile(t.Context(), snap, "meta/snap.yaml", 1000)
			if err != nil || string(got) != "name: hello\n" {
				t.Errorf("snap.yaml: %q, %v", got, err)
			}
			checkList(t, r, snap)
		})
	}
}

// checkList compares the list of a snap with what snapTree made.
func checkList(t *testing.T, r *squash.Reader, snap string) {
	t.Helper()
	entries, err := r.List(t.Context(), snap)
	if err != nil {
		t.Fatal(err)
	}
	want := []squash.Entry{
		{Path: ".", Mode: fs.ModeDir | 0o755},
		{Path: "away -> here", Mode: fs.ModeSymlink | 0o777, Size: 11, Target: "/etc/passwd"},
		{Path: "bin", Mode: fs.ModeDir | 0o755},
		{Path: "bin/a file", Mode: 0o755, Size: 300_000},
		{Path: "meta", Mode: fs.ModeDir | 0o755},
		{Path: "meta/hooks", Mode: fs.ModeDir | 0o755},
		{Path: "meta/hooks/README", Mode: 0o644, Size: 11},
		{Path: "meta/hooks/configure", Mode: 0o755, Size: 10},
		{Path: "meta/snap.yaml", Mode: 0o644, Size: 12},
	}
	for i := range entries {
		if entries[i].Mode.IsDir() {
			entries[i].Size = 0 // It depends on how the image is laid out.
		}
	}
	if diff := cmp.Diff(want, entries); diff != "" {
		t.Errorf("list (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]string{"configure"}, squash.Hooks(entries)); diff != "" {
		t.Errorf("hooks (-want +got):\n%s", diff)
	}
	if err := squash.Check(entries, squash.CheckOptions{}); err != nil {
		t.Errorf("check: %v", err)
	}
}

func TestReadFileSaysWhatIsWrong(t *testing.T) {
	t.Parallel()
	dir := snapTree(t)
	snap := build(t, dir, squash.BuildOptions{})
	cut := filepath.Join(t.TempDir(), "cut.snap")
	whole, err := os.ReadFile(snap)
	if err != nil {
		t.Fatal(err)
	}
	write(t, cut, string(whole[:200]), 0o644)
	garbled := bytes.Clone(whole)
	for i := 96; i < len(garbled); i++ {
		garbled[i] ^= 0x5a
	}
	bad := filepath.Join(t.TempDir(), "garbled.snap")
	write(t, bad, string(garbled), 0o644)
	fifo := filepath.Join(t.TempDir(), "fifo")
	if err := syscall.Mkfifo(fifo, 0o644); err != nil {
		t.Fatal(err)
	}
	text := filepath.Join(t.TempDir(), "text.snap")
	write(t, text, strings.Repeat("text ", 100), 0o644)

	cases := []struct {
		name, file, inner string
		limit             int64
		kind              error
		says              string
	}{
		{"missing inside", snap, "meta/nothing", 100, squash.ErrNotFound, "meta/nothing"},
		{"directory inside", snap, "meta", 100, squash.ErrNotFound, "is a directory"},
		{"too big", snap, "bin/a file", 1000, squash.ErrTooBig, "1000 bytes"},
		{"wildcard", snap, "meta/*", 100, squash.ErrNotFound, "plain path"},
		{"way out", snap, "../x", 100, squash.ErrNotFound, "plain path"},
		{"option", snap, "-stat", 100, squash.ErrNotFound, ""},
		{"cut off", cut, "meta/snap.yaml", 100, squash.ErrNotSquashfs, "cut off"},
		{"garbled", bad, "meta/snap.yaml", 100, squash.ErrCorrupt, ""},
		{"fifo", fifo, "meta/snap.yaml", 100, squash.ErrNotSquashfs, "a fifo"},
		{"directory", dir, "meta/snap.yaml", 100, squash.ErrNotSquashfs, "a directory"},
		{"device", "/dev/null", "meta/snap.yaml", 100, squash.ErrNotSquashfs, "a device"},
		{"text", text, "meta/snap.yaml", 100, squash.ErrNotSquashfs, "magic"},
		{"no file", filepath.Join(dir, "nothing"), "meta/snap.yaml", 100, fs.ErrNotExist, "nothing"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			got, err := squash.Open(squash.Config{}).ReadFile(t.Context(), c.file, c.inner, c.limit)
			if !errors.Is(err, c.kind) || !strings.Contains(err.Error(), c.says) {
				t.Errorf("got %q, %v; want an error of kind %q that says %q", got, err, c.kind, c.says)
			}
		})
	}
}

// probe is run in place of unsquashfs and tells what it may do.
const probe = `#!/bin/sh
cat /proc/self/status
for ns in net pid mnt user ipc; do echo "ns $(readlink /proc/self/ns/$ns)"; done
cat /proc/self/limits | tr -s ' '
echo "environment: $(env | grep -v -e ^PWD= -e ^SHLVL= -e ^_= | sort | tr '\n' ' ')"
head -c 4 /proc/self/fd/3
`

func TestChildHasNoRights(t *testing.T) {
	t.Parallel()
	snap := build(t, snapTree(t), squash.BuildOptions{})
	// Only root may read the file, and look into its directory.
	if err := errors.Join(os.Chmod(snap, 0o600), os.Chmod(filepath.Dir(snap), 0o700)); err != nil {
		t.Fatal(err)
	}
	out := runProbe(t, snap, probe)
	ids := regexp.MustCompile(`[UG]id:\t(21\d{8}\t){3}`)
	own := ids.FindAllString(out, -1)
	if len(own) != 2 || ids.FindString(runProbe(t, snap, probe)) == own[0] {
		t.Errorf("two children are the same user, or one that others are, too: %q", own)
	}
	for _, want := range []string{
		"Groups:\t \n", "NoNewPrivs:\t1", "CapEff:\t0000000000000000", "CapPrm:\t0000000000000000",
		"Max address space 268435456 268435456", "Max file size 0 0", "Max core file size 0 0", "Max cpu time 5 5",
		"environment: LC_ALL=C MALLOC_ARENA_MAX=1 TZ=UTC \n",
		"hsqs",
	} {
		if !strings.Contains(out, want) {
			t.Errorf("the child's state lacks %q:\n%s", want, out)
		}
	}
	for _, ns := range []string{"net", "pid", "mnt", "ipc"} {
		ours, err := os.Readlink("/proc/self/ns/" + ns)
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(out, "ns "+ours+"\n") {
			t.Errorf("the child shares our namespace %s", ours)
		}
	}
	left, err := filepath.Glob(filepath.Join(filepath.Dir(snap), "*"))
	if err != nil || len(left) != 1 {
		t.Errorf("left beside the snap: %v, %v", left, err)
	}
}

// runProbe runs a script in place of unsquashfs and returns what it prints.
func runProbe(t *testing.T, snap, script string) string {
	t.Helper()
	program := filepath.Join(t.TempDir(), "probe")
	write(t, program, script, 0o755)
	open(t, filepath.Dir(program))
	r := squash.Open(squash.Config{Unsquashfs: program, Time: 5 * time.Second})
	out, err := r.ReadFile(t.Context(), snap, "x", 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	return string(out)
}

// open lets everybody enter a temporary directory of a test, and the one that
// it is in.
func open(t *testing.T, dir string) {
	t.Helper()
	if err := errors.Join(os.Chmod(dir, 0o755), os.Chmod(filepath.Dir(dir), 0o755)); err != nil {
		t.Fatal(err)
	}
}

func TestChildEndsInTime(t *testing.T) {
	t.Parallel()
	snap := build(t, snapTree(t), squash.BuildOptions{})
	cases := map[string]string{
		"sleeps":              "#!/bin/sh\nsleep 1000\n",
		"leaves a child":      "#!/bin/sh\n(trap '' TERM; sleep 1000) &\nsleep 1000\n",
		"burns":               "#!/bin/sh\nwhile :; do :; done\n",
		"never stops talking": "#!/bin/sh\nwhile :; do echo yyyyyyyyyyyyyyyyyyyyyyyyyyyy; done\n",
	}
	for name, script := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			program := filepath.Join(t.TempDir(), "probe")
			write(t, program, script, 0o755)
			open(t, filepath.Dir(program))
			r := squash.Open(squash.Config{Unsquashfs: program, Time: time.Second})
			began := time.Now()
			_, err := r.ReadFile(t.Context(), snap, "x", 10_000)
			if !errors.Is(err, squash.ErrCorrupt) && !errors.Is(err, squash.ErrTooBig) {
				t.Errorf("got %v", err)
			}
			if took := time.Since(began); took > 8*time.Second {
				t.Errorf("it took %s", took)
			}
		})
	}
}

// It is the machine that has no room for the threads of unsquashfs, but not where a name in the image says so.
func TestChildWithoutThreads(t *testing.T) {
	t.Parallel()
	snap := build(t, snapTree(t), squash.BuildOptions{})
	for said, short := range map[string]bool{
		"FATAL ERROR: Failed to create thread":                             true,
		"create_inode: failed to create thread, because File exists":       false,
		"FATAL ERROR: Failed to read directory Failed to create thread: x": false,
	} {
		program := filepath.Join(t.TempDir(), "probe")
		write(t, program, "#!/bin/sh\necho '"+said+"' >&2\nexit 1\n", 0o755)
		open(t, filepath.Dir(program))
		r := squash.Open(squash.Config{Unsquashfs: program, Time: time.Minute})
		if _, err := r.ReadFile(t.Context(), snap, "x", 10_000); errors.Is(err, unix.EAGAIN) != short || errors.Is(err, squash.ErrCorrupt) == short {
			t.Errorf("%q is %v", said, err)
		}
	}
}

func TestCancelEndsTheChild(t *testing.T) {
	t.Parallel()
	snap := build(t, snapTree(t), squash.BuildOptions{})
	program := filepath.Join(t.TempDir(), "probe")
	write(t, program, "#!/bin/sh\necho started\nsleep 1000\n", 0o755)
	open(t, filepath.Dir(program))
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	_, err := squash.Open(squash.Config{Unsquashfs: program}).ReadFile(ctx, snap, "x", 10_000)
	if !errors.Is(err, context.DeadlineExceeded) && !errors.Is(err, squash.ErrCorrupt) {
		t.Errorf("got %v", err)
	}
}

func TestMemoryIsBounded(t *testing.T) {
	t.Parallel()
	snap := build(t, snapTree(t), squash.BuildOptions{})
	program := filepath.Join(t.TempDir(), "probe")
	write(t, program, "#!/bin/sh\nexec dd if=/dev/zero of=/dev/null bs=400M count=1\n", 0o755)
	open(t, filepath.Dir(program))
	_, err := squash.Open(squash.Config{Unsquashfs: program}).ReadFile(t.Context(), snap, "x", 10_000)
	if !errors.Is(err, squash.ErrCorrupt) || !strings.Contains(err.Error(), "memory") {
		t.Errorf("got %v", err)
	}
}

func TestListIsBounded(t *testing.T) {
	t.Parallel()
	dir := snapTree(t)
	for i := range 100 {
		write(t, filepath.Join(dir, "many", strconv.Itoa(i)), "", 0o644)
	}
	snap := build(t, dir, squash.BuildOptions{})
	for _, cfg := range []squash.Config{{Entries: 50}, {ListBytes: 1000}} {
		if got, err := squash.Open(cfg).List(t.Context(), snap); !errors.Is(err, squash.ErrTooBig) {
			t.Errorf("%+v: got %d entries, %v", cfg, len(got), err)
		}
	}
}

func TestListRefusesWhatCannotBeTold(t *testing.T) {
	t.Parallel()
	for name, target := range map[string]string{
		"fake entry": "x\n-rw-r--r-- 0/0 5 2022-01-01 00:00 squashfs-root/meta/hooks/configure",
		"line feed":  "x\ny",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := snapTree(t)
			if err := os.Symlink(target, filepath.Join(dir, "link")); err != nil {
				t.Fatal(err)
			}
			got, err := squash.Open(squash.Config{}).List(t.Context(), build(t, dir, squash.BuildOptions{}))
			if !errors.Is(err, squash.ErrCorrupt) || !strings.Contains(err.Error(), "symlink target") {
				t.Errorf("got %+v, %v", got, err)
			}
		})
	}
}

// TestMutatedImages flips bytes everywhere in an image. Whatever comes out, it
// comes out as a value or an error, in bounded time.
func TestMutatedImages(t *testing.T) {
	t.Parallel()
	snap := build(t, snapTree(t), squash.BuildOptions{Compression: squash.Gzip})
	image, err := os.ReadFile(snap)
	if err != nil {
		t.Fatal(err)
	}
	r := squash.Open(squash.Config{Time: 10 * time.Second})
	file := filepath.Join(t.TempDir(), "mutated.snap")
	const steps = 150
	for i := range steps {
		mutated := bytes.Clone(image)
		at := i
		if i >= 96 {
			at = 96 + (i-96)*(len(image)-96)/(steps-96)
		}
		mutated[at] ^= byte(1 + i*37)
		write(t, file, string(mutated), 0o644)
		_, readErr := r.ReadFile(t.Context(), file, "meta/snap.yaml", 1000)
		_, listErr := r.List(t.Context(), file)
		for _, err := range []error{readErr, listErr} {
			if err != nil && !kindOfFile(err) {
				t.Errorf("byte %d: an error of no kind: %v", at, err)
			}
		}
	}
}

func kindOfFile(err error) bool {
	for _, kind := range []error{squash.ErrNotSquashfs, squash.ErrCorrupt, squash.ErrNotFound, squash.ErrTooBig} {
		if errors.Is(err, kind) {
			return true
		}
	}
	return false
}
