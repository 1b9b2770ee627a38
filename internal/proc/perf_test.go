package proc

import (
	"encoding/binary"
	"os"
	"testing"
	"unsafe"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

// perfRecord is a record of numbers of four bytes, with the time 7.
func perfRecord(kind uint32, words ...uint32) []byte {
	native := binary.NativeEndian
	record := native.AppendUint32(nil, kind)
	record = native.AppendUint16(record, 0)
	record = native.AppendUint16(record, uint16(perfHeader+4*len(words)+perfTime))
	for _, word := range words {
		record = native.AppendUint32(record, word)
	}
	return native.AppendUint64(record, 7)
}

func TestPerfBirth(t *testing.T) {
	t.Parallel()
	const nobody = 1<<32 - 1
	for _, c := range []struct {
		what   string
		record []byte
		want   Birth
		known  bool
	}{
		{"a process", perfRecord(perfFork, 20, 10, 20, 11), Birth{Forked, 20, 10}, true},
		{"a thread", perfRecord(perfFork, 20, 10, 21, 11), Birth{Forked, 20, 10}, false},
		{"a process that is not seen from here", perfRecord(perfFork, nobody, 10, nobody, 11), Birth{Forked, -1, 10}, false},
		{"an exec", perfRecord(perfSample, 20, 20), Birth{Kind: Executed, PID: 20}, true},
		{"an exec that is not seen from here", perfRecord(perfSample, 0, 0), Birth{Kind: Executed}, false},
		{"a loss", perfRecord(perfLost, 1, 0, 3, 0), Birth{Kind: Missed}, true},
		{"something else", perfRecord(4, 20, 10, 20, 11), Birth{}, false},
		{"too little", perfRecord(perfFork, 20, 20), Birth{}, false},
	} {
		got, known := perfBirth(binary.NativeEndian.Uint32(c.record), c.record)
		if got != c.want || known != c.known {
			t.Errorf("%s: %v, %t, want %v, %t", c.what, got, known, c.want, c.known)
		}
	}
}

// TestRing reads records of which one goes on at the beginning of the ring.
func TestRing(t *testing.T) {
	t.Parallel()
	memory := make([]byte, 2*os.Getpagesize())
	page := (*unix.PerfEventMmapPage)(unsafe.Pointer(&memory[0]))
	ring, size := &ring{memory: memory}, uint64(os.Getpagesize())
	write := func(record []byte) {
		for _, b := range record {
			memory[size+page.Data_head%size] = b
			page.Data_head++
		}
	}
	read := func() (pids []uint32) {
		ring.drain(func(_ uint32, record []byte) {
			pids = append(pids, binary.NativeEndian.Uint32(record[perfHeader:]))
		})
		return pids
	}
	page.Data_head, page.Data_tail = 10*size-16, 10*size-16
	write(perfRecord(perfFork, 20, 10, 20, 11))
	write(perfRecord(perfFork, 21, 10, 21, 11))
	if diff := cmp.Diff([]uint32{20, 21}, read()); diff != "" {
		t.Errorf("first: (-want +got)\n%s", diff)
	}
	if got := read(); got != nil {
		t.Errorf("again: %v", got)
	}
	write(perfRecord(perfFork, 22, 10, 22, 11))
	if diff := cmp.Diff([]uint32{22}, read()); diff != "" {
		t.Errorf("then: (-want +got)\n%s", diff)
	}
}

func TestProcessorList(t *testing.T) {
	t.Parallel()
	for text, want := range map[string][]int{"0": {0}, "0-3,6,8-9": {0, 1, 2, 3, 6, 8, 9}} {
		if got, err := processorList(text); err != nil || !cmp.Equal(got, want) {
			t.Errorf("%q: %v, %v, want %v", text, got, err, want)
		}
	}
	for _, text := range []string{"", "a", "1-", "0,,1"} {
		if got, err := processorList(text); err == nil {
			t.Errorf("%q: %v", text, got)
		}
	}
}
