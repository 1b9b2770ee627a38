package main

import (
	"bytes"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// join moves this process into the control group of a directory.
func (p *probe) join(dir string) error {
	return os.WriteFile(filepath.Join(dir, "cgroup.procs"), []byte(strconv.Itoa(os.Getpid())), 0o600)
}

// bomb starts two of itself, and each of them two, for as long as there is room for one more, and deaf
// to SIGTERM; "bomb:quiet" is what they do.
func (p *probe) bomb(generation string) error {
	signal.Ignore(syscall.SIGTERM)
	if generation == "" {
		p.report("lit")
	}
	for {
		if err := p.start(p.name, []string{"bomb:quiet"}); err != nil {
			break // There is no room.
		}
	}
	select {}
}

// flood writes lines as fast as it can, until it ends by a signal.
func (p *probe) flood(string) error {
	lines := bytes.Repeat([]byte(strings.Repeat("flood ", 20)+"\n"), 512)
	go func() {
		for {
			if _, err := os.Stdout.Write(lines); err != nil {
				return
			}
		}
	}()
	return nil
}

// eat takes memory until there is none.
func (p *probe) eat(string) error {
	p.report("eats")
	const bite = 1 << 20
	for {
		memory, err := unix.Mmap(-1, 0, bite, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS|unix.MAP_POPULATE)
		if err != nil {
			return err
		}
		memory[0] = 1
	}
}

// forbid has the kernel refuse a system call to this process and all that come out of it: "inotify_init1/EMFILE".
func (p *probe) forbid(what string) error {
	name, number, _ := strings.Cut(what, "/")
	call, known := map[string]uint32{"inotify_init1": unix.SYS_INOTIFY_INIT1, "inotify_add_watch": unix.SYS_INOTIFY_ADD_WATCH}[name]
	fault, knownToo := map[string]unix.Errno{"EMFILE": unix.EMFILE, "ENOSPC": unix.ENOSPC}[number]
	if !known || !knownToo {
		return fmt.Errorf("cannot refuse %q", what)
	}
	const numberOffset = 0 // struct seccomp_data of seccomp(2)
	filter := []unix.SockFilter{
		{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: numberOffset},
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, Jf: 1, K: call},
		{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ERRNO | uint32(fault)},
		{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ALLOW},
	}
	program := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	_, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, unix.SECCOMP_FILTER_FLAG_TSYNC, uintptr(unsafe.Pointer(&program)))
	if errno != 0 {
		return os.NewSyscallError("seccomp", errno)
	}
	return nil
}

// turnInto executes the program that all further arguments are.
func (p *probe) turnInto(string) error {
	argv := os.Args[slices.Index(os.Args, "become")+1:]
	return os.NewSyscallError("execve", syscall.Exec(argv[0], argv, os.Environ()))
}
