package mount

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestParseMountinfo(t *testing.T) {
	t.Parallel()
	const text = `36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw,errors=continue
200 36 7:12 / /snap/a\040b/x1 ro,nosuid,nodev shared:5 master:3 propagate_from:2 - squashfs /dev/loop12 ro
201 36 0:44 / /odd\134name rw - tmpfs none rw
`
	got, err := parseMountinfo(strings.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	want := []entry{
		{id: 36, parent: 35, dev: Dev{98, 0}, root: "/mnt1", dir: "/mnt2", master: 1, kind: "ext3", source: "/dev/root"},
		{id: 200, parent: 36, dev: Dev{7, 12}, root: "/", dir: "/snap/a b/x1", shared: 5, master: 3, kind: "squashfs", source: "/dev/loop12"},
		{id: 201, parent: 36, dev: Dev{0, 44}, root: "/", dir: `/odd\name`, kind: "tmpfs", source: "none"},
	}
	if diff := cmp.Diff(want, got, cmp.AllowUnexported(entry{})); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	for _, bad := range []string{"x", "1 2 3", "1 2 x:y / / rw - a b", "a 2 1:2 / / rw - a b", "1 2 1:2 / / rw shared:x - a b"} {
		if _, err := parseMountinfo(strings.NewReader(bad)); err == nil {
			t.Errorf("accepted %q", bad)
		}
	}
}

func TestParseStat(t *testing.T) {
	t.Parallel()
	line := "42 (a) b) (c) S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 987654 20"
	start, comm, ok := parseStat([]byte(line))
	if start != 987654 || comm != "a) b) (c" || !ok {
		t.Errorf("got %d, %q, %v", start, comm, ok)
	}
	for _, bad := range []string{"", "42 (x", "42 (x) S 1 2"} {
		if _, _, ok := parseStat([]byte(bad)); ok {
			t.Errorf("accepted %q", bad)
		}
	}
}

func FuzzUnescape(f *testing.F) {
	f.Add(`a\040b`)
	f.Add(`\\777\0`)
	f.Fuzz(func(t *testing.T, s string) {
		if got := unescape(s); len(got) > len(s) {
			t.Errorf("%q became %q", s, got)
		}
	})
}
