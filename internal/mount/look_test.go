package mount

import (
	"os"
	"testing"

	"golang.org/x/sys/unix"
)

// TestMapsAreReadAsTheyAreTold has the two ways to see what is mapped, of which kernels know the first since Linux 6.11,
// agree about this process, also where its maps do not fit in what is read at a time.
func TestMapsAreReadAsTheyAreTold(t *testing.T) {
	t.Parallel()
	var st unix.Stat_t
	if err := unix.Stat("/proc/self/exe", &st); err != nil {
		t.Fatal(err)
	}
	program := Dev{unix.Major(st.Dev), unix.Minor(st.Dev)}
	maps, err := os.Open("/proc/self/maps")
	if err != nil {
		t.Fatal(err)
	}
	defer maps.Close() //nolint:errcheck // Only read.
	told := 0
	if err := askMaps(int(maps.Fd()), func(d Dev) {
		if d == program {
			told++
		}
	}); err != nil {
		t.Fatal(err)
	}
	if told == 0 {
		t.Fatal("the kernel does not tell of the program of this process")
	}
	c, err := newCensus([]Info{{Dev: program}, {Dev: Dev{Major: 511, Minor: 7}}})
	if err != nil {
		t.Fatal(err)
	}
	for _, room := range []int{lookRoom, 600} {
		l := c.look()
		l.buf = l.buf[:room]
		if _, err := maps.Seek(0, 0); err != nil {
			t.Fatal(err)
		}
		read := 0
		if err := l.readMaps(int(maps.Fd()), func(d Dev, _ What) {
			if d == program {
				read++
			}
		}); err != nil {
			t.Fatal(err)
		}
		if read != told {
			t.Errorf("with room for %d bytes %d mappings of the program were read, and %d told of", room, read, told)
		}
	}
}
