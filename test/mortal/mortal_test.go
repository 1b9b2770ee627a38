package main

import (
	"encoding/binary"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// TestMain is the tests, or the command that they are about.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && (os.Args[1] == "attach" || os.Args[1] == "become") {
		main()
		return
	}
	os.Exit(m.Run()) //nolint:forbidigo // This is main.
}

// What a program does by the paths of files is seen, though whoever looks at it was there before the program.
func TestPathsOfWhatItBecomes(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		at   string
		want []string
	}{
		{"0", []string{"create /one", "create /two"}},
		{"2", []string{"create /one"}},
	} {
		root := t.TempDir()
		log := filepath.Join(root, "calls")
		order := filepath.Join(root, ".mortal")
		if err := os.WriteFile(order, []byte(c.at+" "+log), 0o600); err != nil {
			t.Fatal(err)
		}
		self, err := os.Executable()
		if err != nil {
			t.Fatal(err)
		}
		cmd := exec.CommandContext(t.Context(), self, "become", "/bin/sh", "-c", `: > "$1/one"; : > "$1/two"`, "--root", root) //nolint:gosec // This program.
		out, err := cmd.CombinedOutput()
		if died := err != nil; died != (c.at != "0") {
			t.Fatalf("killed at %s: %v: %s", c.at, err, out)
		}
		for _, name := range []string{"/one", "/two"} {
			_, err := os.Stat(root + name)
			if there := err == nil; there != slices.Contains(c.want, "create "+name) {
				t.Errorf("killed at %s, %s is there: %t", c.at, name, there)
			}
		}
		text, err := os.ReadFile(log)
		if err != nil {
			t.Fatal(err)
		}
		for _, line := range c.want {
			if !strings.Contains(string(text), line+"\n") {
				t.Errorf("killed at %s, %q was not seen:\n%s", c.at, line, text)
			}
		}
	}
}

// A thread that rests between looks for work is not the one that only ever sleeps.
func TestWhoLooksForWorkIsNoSleeper(t *testing.T) {
	t.Parallel()
	memory, err := os.Open("/proc/self/mem")
	if err != nil {
		t.Fatal(err)
	}
	defer memory.Close() //nolint:errcheck // Opened for reading.
	var moment, rest [16]byte
	binary.NativeEndian.PutUint64(moment[8:], uint64(3*time.Microsecond))
	binary.NativeEndian.PutUint64(rest[8:], uint64(20*time.Microsecond))
	w := &watch{memory: memory, sleeps: map[int]int{}}
	sleep := func(tid int, of *[16]byte) bool {
		return w.sleeper(tid, &call{number: unix.SYS_NANOSLEEP, args: [6]uint64{uint64(uintptr(unsafe.Pointer(of)))}}) //nolint:gosec // It is read from the memory.
	}
	for range 100 {
		if sleep(1, &moment) {
			t.Fatal("who sleeps for moments is let go")
		}
	}
	let := 1
	for ; !sleep(2, &rest); let++ {
		if let == 5 {
			w.sleeper(2, &call{number: unix.SYS_FUTEX})
		}
	}
	if let != 5+8 {
		t.Errorf("who only sleeps is let go at its sleep %d, with another call after the fifth", let)
	}
}
