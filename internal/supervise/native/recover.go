package native

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"

	"tenure/internal/proc"
	"tenure/internal/supervise/fdstore"
)

// keptFile is a descriptor that the holder keeps for the unit, and which open file it is. Where the holder has died
// together with the supervisor, a service that has it open still gives it back.
type keptFile struct {
	Kind fdstore.Kind `json:"kind"`
	Name string       `json:"name"`
	File fileID       `json:"file"`
}

// fileID tells open files apart, as far as they have an inode of their own.
type fileID struct {
	Device uint64 `json:"device"`
	Inode  uint64 `json:"inode"`
	// Mode is the type of the file, and Access whether it can be read from or written to: both ends of
	// a pipe are one inode.
	Mode   uint32 `json:"mode"`
	Access int    `json:"access"`
}

// identify tells which file is open. Without an inode of its own (eventfd(2), for one) that cannot be told.
func identify(file *os.File) (id fileID, known bool) {
	raw, err := file.SyscallConn()
	if err != nil {
		return id, false
	}
	_ = raw.Control(func(fd uintptr) {
		var stat syscall.Stat_t
		if syscall.Fstat(int(fd), &stat) != nil { //nolint:gosec // A descriptor.
			return
		}
		flags, _, errno := syscall.Syscall(syscall.SYS_FCNTL, fd, syscall.F_GETFL, 0)
		id = idOf(&stat)
		id.Access = int(flags) & syscall.O_ACCMODE //nolint:gosec // Two bits.
		known = errno == 0 && id.Mode != 0
	})
	return id, known
}

func idOf(stat *syscall.Stat_t) fileID {
	return fileID{Device: stat.Dev, Inode: stat.Ino, Mode: stat.Mode & syscall.S_IFMT}
}

// keep has the holder keep a descriptor, and notes which one it is; the caller saves the record.
func (u *unit) keep(ctx context.Context, kind fdstore.Kind, name string, file *os.File) error {
	if err := u.s.cfg.Holder.Put(ctx, u.id, kind, name, file); err != nil {
		return err
	}
	if kind == fdstore.Listen {
		u.unkeep(kind, name)
	}
	id, known := identify(file)
	kept := keptFile{Kind: kind, Name: name, File: id}
	switch {
	case !known || slices.Contains(u.rec.Kept, kept):
	case len(u.rec.Kept) < maxKept:
		u.rec.Kept = append(u.rec.Kept, kept)
	case !u.unnoted:
		u.unnoted = true
		u.s.cfg.Logger.Warn("more descriptors are kept than can be recovered", slog.Any("unit", u.id), slog.Int("most", maxKept))
	}
	return nil
}

// maxKept bounds the record of a service that stores a great many.
const maxKept = 256

// unkeep forgets what was kept under a name, or all of a kind where that is empty.
func (u *unit) unkeep(kind fdstore.Kind, name string) {
	u.rec.Kept = slices.DeleteFunc(u.rec.Kept, func(k keptFile) bool { return k.Kind == kind && (name == "" || k.Name == name) })
}

// recover gives the holder again what it has lost and the processes of the unit still have open.
func (u *unit) recover(ctx context.Context) {
	if len(u.rec.Kept) == 0 || u.rec.Draining { // Those of who drains are its successor's.
		return
	}
	kept, err := u.s.cfg.Holder.Get(ctx, u.id)
	if err != nil {
		u.warn("kept descriptors cannot be looked at", err)
		return
	}
	lost := slices.Clone(u.rec.Kept)
	for _, k := range kept {
		id, _ := identify(k.File)
		lost = slices.DeleteFunc(lost, func(l keptFile) bool { return l == keptFile{Kind: k.Kind, Name: k.Name, File: id} })
		_ = k.File.Close()
	}
	if len(lost) == 0 {
		return
	}
	infos, seen := u.living()
	failed := !seen
	for _, info := range infos {
		if lost, err = u.recoverFrom(ctx, info, lost); err != nil && !errors.Is(err, proc.ErrGone) {
			u.warn("kept descriptors cannot be recovered", err)
			failed = true
		}
	}
	if failed || len(lost) == 0 {
		return // The next start may find them.
	}
	for _, l := range lost {
		u.s.cfg.Logger.Warn("a kept descriptor is lost", slog.Any("unit", u.id), slog.String("kind", string(l.Kind)), slog.String("name", l.Name))
	}
	u.rec.Kept = slices.DeleteFunc(u.rec.Kept, func(k keptFile) bool { return slices.Contains(lost, k) })
	u.save()
}

// recoverFrom takes what is lost from one process, and returns what is still lost.
func (u *unit) recoverFrom(ctx context.Context, info proc.Info, lost []keptFile) ([]keptFile, error) {
	if len(lost) == 0 {
		return nil, nil
	}
	handle, err := proc.Open(info.Process)
	if err != nil {
		return lost, err
	}
	defer handle.Close()
	for _, open := range openFiles(ctx, info.PID) {
		alike := func(l keptFile) bool {
			return l.File.Device == open.Device && l.File.Inode == open.Inode && l.File.Mode == open.Mode
		}
		if !slices.ContainsFunc(lost, alike) {
			continue
		}
		file, err := handle.Descriptor(open.number)
		if err != nil {
			return lost, err
		}
		lost = u.recoverFile(ctx, file, lost)
		_ = file.Close() // The holder has its own.
	}
	return lost, nil
}

// openFile is an open file of a process, by its number there. How it is open is not known.
type openFile struct {
	fileID

	number int
}

// openFiles are those of a process that can be told in a moment: what is on a file system that does not answer
// is for the kernel to wait for, and for nobody here.
func openFiles(ctx context.Context, pid int) []openFile {
	found := make(chan openFile)
	ctx, done := context.WithTimeout(ctx, lookTime)
	defer done()
	go func() {
		defer close(found)
		dir := fmt.Sprintf("/proc/%d/fd", pid)
		entries, _ := os.ReadDir(dir) // Who has ended has none.
		for _, entry := range entries {
			number, err := strconv.Atoi(entry.Name())
			var stat unix.Statx_t
			if err != nil || unix.Statx(unix.AT_FDCWD, filepath.Join(dir, entry.Name()), unix.AT_STATX_DONT_SYNC|unix.AT_NO_AUTOMOUNT, unix.STATX_TYPE|unix.STATX_INO, &stat) != nil {
				continue // It has just been closed.
			}
			id := fileID{Device: unix.Mkdev(stat.Dev_major, stat.Dev_minor), Inode: stat.Ino, Mode: uint32(stat.Mode) & unix.S_IFMT}
			select {
			case found <- openFile{fileID: id, number: number}:
			case <-ctx.Done():
				return
			}
		}
	}()
	var files []openFile
	for {
		select {
		case file, more := <-found:
			if !more {
				return files
			}
			files = append(files, file)
		case <-ctx.Done():
			return files
		}
	}
}

// recoverFile gives the holder what is lost and is this file.
func (u *unit) recoverFile(ctx context.Context, file *os.File, lost []keptFile) []keptFile {
	id, known := identify(file)
	return slices.DeleteFunc(lost, func(l keptFile) bool {
		if !known || l.File != id {
			return false
		}
		if err := u.s.cfg.Holder.Put(ctx, u.id, l.Kind, l.Name, file); err != nil {
			u.warn("a recovered descriptor cannot be kept", err)
			return false
		}
		return true
	})
}
