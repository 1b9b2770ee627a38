package proc

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
)

// TestForgetProgram lets a process forget its program: it goes on, with less of it in
// memory. It is one of its own, for those beside it would bring the pages back.
func TestForgetProgram(t *testing.T) {
	t.Parallel()
	if os.Getenv("PROC_TEST_FORGETS") != "" {
		before := programInMemory(t)
		if err := ForgetProgram(); err != nil {
			t.Fatal(err)
		}
		fmt.Printf("forgets %d of %d\n", before-programInMemory(t), before)
		return
	}
	cmd := exec.CommandContext(t.Context(), "/proc/self/exe", "-test.run=^TestForgetProgram$", "-test.v")
	cmd.Env = append(os.Environ(), "PROC_TEST_FORGETS=1")
	out, err := cmd.CombinedOutput()
	var forgotten, before int
	if at := strings.Index(string(out), "forgets "); err != nil || at < 0 {
		t.Fatalf("%v\n%s", err, out)
	} else if _, err := fmt.Sscanf(string(out)[at:], "forgets %d of %d", &forgotten, &before); err != nil {
		t.Fatal(err)
	}
	if forgotten < before/4 {
		t.Errorf("%d of %d kB are forgotten", forgotten, before)
	}
}

// programInMemory is RssFile of the calling process, in kB (proc_pid_status(5)).
func programInMemory(t *testing.T) int {
	t.Helper()
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Fatal(err)
	}
	var kB int
	_, rest, _ := strings.Cut(string(status), "RssFile:")
	if _, err := fmt.Sscan(rest, &kB); err != nil {
		t.Fatal(err)
	}
	return kB
}

func TestReadOnlyPart(t *testing.T) {
	t.Parallel()
	for line, want := range map[string]bool{
		"00400000-01000000 r-xp 00000000 08:01 1234                               /usr/bin/tenured":       true,
		"01000000-02000000 r--p 00c00000 08:01 1234                               /usr/bin/tenured":       true,
		"02000000-02100000 rw-p 01c00000 08:01 1234                               /usr/bin/tenured":       false,
		"c000000000-c000400000 rw-p 00000000 00:00 0 ":                                                    false,
		"7ffd1000-7ffd2000 r-xp 00000000 00:00 0                                  [vdso]":                 false,
		"00400000-01000000 r-xp 00000000 08:01 1234                               /other/usr/bin/tenured": false,
		"":        false,
		"nothing": false,
	} {
		if _, _, ok := readOnlyPart(line, "/usr/bin/tenured"); ok != want {
			t.Errorf("%q is part of it: %v", line, ok)
		}
	}
}
