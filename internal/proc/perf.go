package proc

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The records of a ring that are used here, from linux/perf_event.h. Each begins with
// its kind, four bytes, flags and its size, two bytes each, and ends with its time.
const (
	perfLost   = 2
	perfFork   = 7
	perfSample = 9

	perfHeader = 8
	perfTime   = 8
)

// ringPages is how many pages of records a processor has, a power of two: about a
// thousand births.
const ringPages = 8

// perf hears of births by the events of perf(1), a ring of records for each processor.
// The kernel tells those in containers too, about what is in theirs.
type perf struct {
	rings []*ring
	// poll is readable when there may be something new in a ring.
	poll *os.File
	// heard are the births that were read and not given yet.
	heard []Birth
}

// ring is what the kernel writes to on one processor.
type ring struct {
	fd     int
	memory []byte
}

// listenPerf subscribes to the events on all processors.
func listenPerf(kinds []BirthKind) (_ *perf, err error) {
	processors, err := onlineProcessors()
	if err != nil {
		return nil, err
	}
	attr, err := perfEvent(kinds)
	if err != nil {
		return nil, err
	}
	p := new(perf)
	defer func() {
		if err != nil {
			p.silence()
		}
	}()
	poll, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("poll: %w", err)
	}
	if err := unix.SetNonblock(poll, true); err != nil {
		return nil, errors.Join(fmt.Errorf("poll: %w", err), unix.Close(poll))
	}
	p.poll = os.NewFile(uintptr(poll), "events of processes") //nolint:gosec // A descriptor is no number to overflow.
	for _, processor := range processors {
		r, err := openRing(processor, attr)
		if err != nil {
			return nil, fmt.Errorf("events of processor %d: %w", processor, err)
		}
		p.rings = append(p.rings, r)
		readable := unix.EpollEvent{Events: unix.EPOLLIN, Fd: int32(r.fd)} //nolint:gosec // A descriptor is no number to overflow.
		if err := unix.EpollCtl(poll, unix.EPOLL_CTL_ADD, r.fd, &readable); err != nil {
			return nil, fmt.Errorf("poll: %w", err)
		}
	}
	return p, nil
}

// perfEvent is the event that is subscribed to. One of a program that has been executed
// comes when its command line can be read; the record that perf(1) has of it is too
// early. Forks come as records beside it, or beside an event that counts nothing: no
// event has the child's pid as it is in the caller's namespace.
func perfEvent(kinds []BirthKind) (*unix.PerfEventAttr, error) {
	attr := &unix.PerfEventAttr{
		Type: unix.PERF_TYPE_SOFTWARE, Config: unix.PERF_COUNT_SW_DUMMY, Size: uint32(unsafe.Sizeof(unix.PerfEventAttr{})),
		Sample_type: unix.PERF_SAMPLE_TID | unix.PERF_SAMPLE_TIME,
		Bits:        unix.PerfBitSampleIDAll | unix.PerfBitWatermark, Wakeup: 1,
	}
	if wants(kinds, Forked) {
		attr.Bits |= unix.PerfBitTask
	}
	if wants(kinds, Executed) {
		id, err := tracepoint("sched/sched_process_exec")
		if err != nil {
			return nil, err
		}
		attr.Type, attr.Config, attr.Sample = unix.PERF_TYPE_TRACEPOINT, id, 1
	}
	return attr, nil
}

// tracepoint is the number of an event of the kernel's. The file system that has it is
// mounted nowhere for that.
func tracepoint(name string) (id uint64, err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("tracepoint %s: %w", name, err)
		}
	}()
	made, err := unix.Fsopen("tracefs", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return 0, err
	}
	defer unix.Close(made) //nolint:errcheck // It has served.
	if err := unix.FsconfigCreate(made); err != nil {
		return 0, err
	}
	mount, err := unix.Fsmount(made, unix.FSMOUNT_CLOEXEC, unix.MOUNT_ATTR_RDONLY)
	if err != nil {
		return 0, err
	}
	defer unix.Close(mount) //nolint:errcheck // Only looked at.
	text, err := os.ReadFile(fmt.Sprintf("/proc/self/fd/%d/events/%s/id", mount, name))
	if err != nil {
		return 0, err
	}
	return strconv.ParseUint(strings.TrimSpace(string(text)), 10, 64)
}

// openRing subscribes to an event, and the records beside it, on one processor.
func openRing(processor int, attr *unix.PerfEventAttr) (*ring, error) {
	fd, err := unix.PerfEventOpen(attr, -1, processor, -1, unix.PERF_FLAG_FD_CLOEXEC)
	if err != nil {
		return nil, err
	}
	memory, err := unix.Mmap(fd, 0, (1+ringPages)*os.Getpagesize(), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return nil, errors.Join(err, unix.Close(fd))
	}
	return &ring{fd: fd, memory: memory}, nil
}

func (p *perf) interrupt() { _ = p.poll.SetReadDeadline(time.Unix(1, 0)) }

func (p *perf) silence() {
	for _, r := range p.rings {
		_ = unix.Munmap(r.memory)
		_ = unix.Close(r.fd)
	}
	if p.poll != nil {
		_ = p.poll.Close()
	}
}

// receive gives the next birth.
func (p *perf) receive() (Birth, bool, error) {
	raw, err := p.poll.SyscallConn()
	if err != nil {
		return Birth{}, false, err
	}
	// Whoever asks whether there is something new is told once: all rings are looked at.
	err = raw.Read(func(uintptr) bool {
		if len(p.heard) == 0 {
			p.drain()
		}
		return len(p.heard) > 0
	})
	if err != nil {
		return Birth{}, false, err
	}
	first := p.heard[0]
	p.heard = p.heard[1:]
	return first, true, nil
}

// drain reads all rings, until there is nothing new in any: what came before something
// that was read has been read then, too, and can be put before it.
func (p *perf) drain() {
	type timed struct {
		Birth
		at uint64
	}
	var all []timed
	for read := -1; read < len(all); {
		read = len(all)
		for _, r := range p.rings {
			r.drain(func(kind uint32, record []byte) {
				if birth, ok := perfBirth(kind, record); ok {
					all = append(all, timed{birth, binary.NativeEndian.Uint64(record[len(record)-perfTime:])})
				}
			})
		}
	}
	slices.SortStableFunc(all, func(a, b timed) int { return cmp.Compare(a.at, b.at) })
	p.heard = nil
	for _, birth := range all {
		p.heard = append(p.heard, birth.Birth)
	}
}

// perfBirth is what a record says, if that is a birth of a process that is seen from here.
func perfBirth(kind uint32, record []byte) (Birth, bool) {
	word := func(n int) int { return int(int32(binary.NativeEndian.Uint32(record[perfHeader+4*n:]))) } //nolint:gosec // As the kernel means it.
	const forkSize, sampleSize = perfHeader + 4*4 + perfTime, perfHeader + 2*4 + perfTime
	switch {
	case kind == perfLost:
		return Birth{Kind: Missed}, true
	case kind == perfFork && len(record) >= forkSize:
		pid, task := word(0), word(2)
		return Birth{Kind: Forked, PID: pid, Parent: word(1)}, pid > 0 && pid == task
	case kind == perfSample && len(record) >= sampleSize:
		return Birth{Kind: Executed, PID: word(0)}, word(0) > 0
	}
	return Birth{}, false
}

// drain gives all records that the kernel has written, and tells it that they are read.
func (r *ring) drain(give func(kind uint32, record []byte)) {
	page := (*unix.PerfEventMmapPage)(unsafe.Pointer(&r.memory[0])) //nolint:gosec // The page that the kernel shares.
	data := r.memory[os.Getpagesize():]
	size := uint64(len(data))
	head, tail := atomic.LoadUint64(&page.Data_head), page.Data_tail
	// A record may begin at the end of the ring, and go on at its beginning.
	bytes := make([]byte, 0, head-tail)
	for at := tail; at < head; {
		part := data[at%size : min(size, at%size+head-at)]
		bytes = append(bytes, part...)
		at += uint64(len(part))
	}
	for len(bytes) >= perfHeader {
		length := int(binary.NativeEndian.Uint16(bytes[6:]))
		if length < perfHeader+perfTime || length > len(bytes) {
			break
		}
		give(binary.NativeEndian.Uint32(bytes), bytes[:length])
		bytes = bytes[length:]
	}
	atomic.StoreUint64(&page.Data_tail, head)
}

// onlineProcessors are the numbers of the processors that work.
func onlineProcessors() ([]int, error) {
	text, err := os.ReadFile("/sys/devices/system/cpu/online")
	if err != nil {
		return nil, fmt.Errorf("list processors: %w", err)
	}
	return processorList(strings.TrimSpace(string(text)))
}

// processorList reads a list such as "0-3,6" (cpuset(7)).
func processorList(text string) ([]int, error) {
	var list []int
	for part := range strings.SplitSeq(text, ",") {
		from, to, isRange := strings.Cut(part, "-")
		if !isRange {
			to = from
		}
		first, err := strconv.Atoi(from)
		last, lastErr := strconv.Atoi(to)
		if err := errors.Join(err, lastErr); err != nil {
			return nil, fmt.Errorf("list processors: %q: %w", text, err)
		}
		for n := first; n <= last; n++ {
			list = append(list, n)
		}
	}
	return list, nil
}
