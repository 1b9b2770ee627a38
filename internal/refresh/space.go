package refresh

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"tenure"
	"tenure/internal/mount"
)

// leastRoom is what is left of a file system beside what a change needs there: for links, directories, logs, and what
// services write meanwhile.
const leastRoom = 1 << 20

// enough refuses jobs for which the disk has no room, before it is filled for nothing: services that write there would
// be the first to notice. They may still run out of it, and are undone then.
func (m *Manager) enough(ctx context.Context, op string, p *prepared) error {
	var files, data int64
	for i := range p.jobs {
		j := &p.jobs[i]
		// What is in the staging directory is there for good.
		if from := p.files[j.snap()]; j.Staged != "" && from != "" && filepath.Dir(from) != m.cfg.Paths.Staging() {
			info, err := os.Stat(from)
			if err != nil {
				return fmt.Errorf("stage %s: %w", j.snap(), err)
			}
			files += info.Size()
		}
		if j.Copy {
			size, err := m.dataSize(ctx, j)
			if err != nil {
				return err
			}
			data += size
		}
	}
	var err error
	if files > 0 {
		err = roomAt(m.cfg.Paths.State(), "for its file", files+leastRoom)
	}
	if err == nil && data > 0 {
		err = roomAt(m.cfg.Paths.DataDir(p.jobs[0].snap()), "for the copy of its data", data+leastRoom)
	}
	if err != nil {
		return &Error{Kind: KindSpace, Op: op, Object: join(jobSnaps(p.jobs)), Err: err, Hint: advice(syscall.ENOSPC)}
	}
	return nil
}

// leastToRun is what is left of where the records of units are, for what is to be started: what is stopped for
// that would not come up again.
const leastToRun = 256 << 10

// enoughToRun refuses what starts services where there is no room for their records.
func (m *Manager) enoughToRun(req Request) error {
	switch req.Action {
	case ActionInstall, ActionRefresh, ActionRevert, ActionEnable, ActionStart, ActionRestart:
	case ActionRemove, ActionDisable, ActionStop, ActionSwitch:
		return nil
	}
	if err := roomAt(m.cfg.Paths.Run(), "to start services", leastToRun); err != nil {
		return &Error{Kind: KindSpace, Op: string(req.Action), Object: strings.Join(requested(req), ", "), Err: err, Hint: "remove what fills it, and ask again"}
	}
	return nil
}

// requested is what a request is about, as it was written.
func requested(req Request) []string {
	names := slices.Clone(req.Names)
	for _, snap := range req.Snaps {
		names = append(names, string(snap))
	}
	for i := range req.Files {
		names = append(names, cmp.Or(req.Files[i].Label, req.Files[i].Path))
	}
	return names
}

// noRoomError is that a file system has less room than is needed.
type noRoomError struct {
	dir, what  string
	need, free int64
}

func (e *noRoomError) Error() string {
	return fmt.Sprintf("no space left on %s: %s are needed %s, and %s are free", e.dir, mebibytes(e.need), e.what, mebibytes(e.free))
}

func (e *noRoomError) Unwrap() error { return syscall.ENOSPC }

func mebibytes(n int64) string { return fmt.Sprintf("%.1f MiB", float64(n)/(1<<20)) }

// roomAt is nil if the file system of a directory has room for something.
func roomAt(dir, what string, need int64) error {
	room, err := mount.RoomAt(dir)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil // It is made when it is needed.
	case err != nil:
		return fmt.Errorf("see what is free: %w", err)
	case room.Free < need:
		return &noRoomError{dir: dir, what: what, need: need, free: room.Free}
	}
	return nil
}

// dataSize is how much of the data of a snap a job copies, at most: nothing where that is surely there.
func (m *Manager) dataSize(ctx context.Context, j *job) (int64, error) {
	dir := m.cfg.Paths.Data(tenure.Ref{Snap: j.snap(), Revision: j.from()})
	room, err := mount.RoomAt(dir)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return 0, nil
	case err != nil:
		return 0, fmt.Errorf("see how large the data of %s is: %w", j.snap(), err)
	case room.Shares || room.Free > room.Used:
		return 0, nil // There is more room than everything takes that is there.
	}
	var size int64
	err = filepath.WalkDir(dir, func(_ string, entry fs.DirEntry, err error) error {
		if err == nil && entry.Type().IsRegular() {
			size += allocated(entry)
		}
		if errors.Is(err, fs.ErrNotExist) {
			err = nil // It has just gone.
		}
		return errors.Join(err, ctx.Err())
	})
	if err != nil {
		return 0, fmt.Errorf("see how large the data of %s is: %w", j.snap(), err)
	}
	return size, nil
}

// allocated is what a file takes on the disk.
func allocated(entry fs.DirEntry) int64 {
	info, err := entry.Info()
	if err != nil {
		return 0
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return info.Size()
	}
	const unit = 512 // stat(2).
	return st.Blocks * unit
}
