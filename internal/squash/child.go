package squash

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// imageArg is the snap file as its child names it: the descriptor that
// exec.Cmd.ExtraFiles makes of its first file.
const imageArg = "/proc/self/fd/3"

// limits are what one child may use.
type limits struct {
	output, memory int64
	// file is how large a file may be that it writes, and into the directory, if any,
	// that it may write below.
	file int64
	into *os.File
}

// errOutput is how the reading end stops a child.
var errOutput = errors.New("output limit")

// run runs unsquashfs with args on the file at snapPath and gives its output to
// sink, in pieces.
//
// How the child is limited, without a moment in which it is not: the thread
// that forks it has no_new_privs, which is inherited; the identity and the
// namespaces are set between fork and exec; the resource limits, which Go
// cannot set there, are set by prlimit(1), the first program that runs, on
// itself, before it becomes unsquashfs. Nothing that depends on the file is
// executed before all of them hold.
func (r *Reader) run(ctx context.Context, snapPath string, lim limits, sink func([]byte) error, args ...string) error {
	f, _, err := r.open(snapPath)
	if err != nil {
		return err
	}
	defer f.Close() //nolint:errcheck // Only read.
	image, err := r.readable(ctx, f)
	if err != nil {
		return err
	}
	defer image.Close() //nolint:errcheck // Only read; may be f itself.

	ctx, cancel := context.WithTimeout(ctx, r.cfg.Time)
	defer cancel()
	c := child{argv: r.argv(lim, args), files: []*os.File{image}, uid: r.cfg.UID, gid: r.cfg.GID, starter: &r.starter}
	if lim.into != nil {
		c.files = append(c.files, lim.into)
	} else if os.Geteuid() == 0 {
		c.own = firstOwn + r.children.Add(1)%owns
	}
	err = c.run(ctx, lim.output, sink)
	if errors.Is(err, context.DeadlineExceeded) {
		return fmt.Errorf("%w: reading it took longer than %s", ErrCorrupt, r.cfg.Time)
	}
	return err
}

// argv is prlimit, the limits, then unsquashfs on one thread: its buffers for
// many would not fit the limit.
func (r *Reader) argv(lim limits, args []string) []string {
	seconds := strconv.Itoa(max(1, int(r.cfg.Time.Seconds())))
	return append([]string{
		r.cfg.Prlimit,
		"--as=" + strconv.FormatInt(lim.memory, 10),
		"--cpu=" + seconds,
		"--core=0", "--fsize=" + strconv.FormatInt(lim.file, 10), "--nofile=64", "--memlock=0", "--stack=1048576",
		r.cfg.Unsquashfs, "-processors", "1",
	}, args...)
}

// readable returns f itself if the child may open it anew by its descriptor,
// which needs the right to read the file though not its directory. Otherwise
// it returns a nameless copy, which shares its blocks where the file system
// can.
func (r *Reader) readable(ctx context.Context, f *os.File) (*os.File, error) {
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if info.Mode().Perm()&0o004 != 0 {
		return f, nil
	}
	dir := r.cfg.Scratch
	if dir == "" {
		dir = filepath.Dir(f.Name())
	}
	fd, err := unix.Open(dir, unix.O_TMPFILE|unix.O_RDWR|unix.O_CLOEXEC, 0o444)
	if err != nil {
		return nil, fmt.Errorf("make a readable copy in %s: %w", dir, err)
	}
	tmp := os.NewFile(uintptr(fd), dir)
	if err = clone(ctx, tmp, f); err == nil {
		err = tmp.Chmod(0o444)
	}
	if err == nil {
		return tmp, nil
	}
	_ = tmp.Close()
	return nil, fmt.Errorf("make a readable copy in %s: %w", dir, errors.Join(err, ctx.Err()))
}

func clone(ctx context.Context, dst, src *os.File) error {
	if unix.IoctlFileClone(int(dst.Fd()), int(src.Fd())) == nil {
		return nil
	}
	_, err := io.Copy(dst, readerFunc(func(b []byte) (int, error) {
		if err := ctx.Err(); err != nil {
			return 0, err
		}
		return src.Read(b)
	}))
	return err
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(b []byte) (int, error) { return f(b) }

// child is one run of a program that must not be trusted.
type child struct {
	argv     []string
	files    []*os.File
	uid, gid uint32
	// own, if not 0, is a number that no other process has for a user or group.
	own     uint32
	starter *starter
}

func (c child) run(ctx context.Context, limit int64, sink func([]byte) error) error {
	out, outW, err := os.Pipe()
	if err != nil {
		return err
	}
	defer out.Close() //nolint:errcheck // Only read.
	stderr := &capped{limit: 4 << 10}
	cmd, err := c.start(ctx, outW, stderr)
	_ = outW.Close()
	if err != nil {
		return err
	}
	sinkErr := pump(out, limit, sink)
	if sinkErr != nil {
		_ = cmd.Cancel()
	}
	waitErr := cmd.Wait()
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case errors.Is(sinkErr, errOutput):
		return fmt.Errorf("%w: more than %d bytes", ErrTooBig, limit)
	case sinkErr != nil:
		return sinkErr
	}
	return verdict(waitErr, stderr.String())
}

// The numbers of children of their own: above those that directories of users give (SSSD and FreeIPA, up to 2,000,200,000), and below
// those that systemd has put aside (from 2,147,352,576, UIDS-GIDS in its documentation).
const (
	firstOwn = 2_100_000_000
	owns     = 1 << 16
)

// way is who a child is, and from whom it is apart.
type way struct {
	namespaces uintptr
	uid, gid   uint32
}

// ways are tried from the most to the least separate: containers forbid some of them. Who shares a number with others needs a
// user namespace, or could look into their memory, by /proc. Who is alone does not, and need not be forked off a copy of
// this process, whose size that takes time for (Go forks so where there is a user namespace to be set up).
func (c child) ways() (ways []way) {
	all := uintptr(syscall.CLONE_NEWPID | syscall.CLONE_NEWNS | syscall.CLONE_NEWIPC | syscall.CLONE_NEWUTS)
	if !c.starter.nowhere() {
		all |= syscall.CLONE_NEWNET
	}
	if c.own != 0 {
		ways = append(ways, way{all, c.own, c.own})
	}
	return append(ways, way{all | syscall.CLONE_NEWUSER, c.uid, c.gid}, way{all, c.uid, c.gid}, way{0, c.uid, c.gid})
}

func (c child) start(ctx context.Context, stdout *os.File, stderr io.Writer) (*exec.Cmd, error) {
	var err error
	for _, way := range c.ways() {
		cmd := c.command(ctx, way)
		cmd.Stdout, cmd.Stderr = stdout, stderr
		err = c.starter.start(cmd)
		if err == nil {
			return cmd, nil
		}
		if !errors.Is(err, unix.EPERM) && !errors.Is(err, unix.ENOSPC) && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOSYS) {
			break
		}
	}
	return nil, fmt.Errorf("start %s: %w", c.argv[0], err)
}

func (c child) command(ctx context.Context, w way) *exec.Cmd {
	cmd := exec.CommandContext(ctx, c.argv[0], c.argv[1:]...) //nolint:gosec // The programs are those of the configuration.
	cmd.Env = []string{"LC_ALL=C", "TZ=UTC", "MALLOC_ARENA_MAX=1"}
	cmd.Dir = "/"
	cmd.ExtraFiles = c.files
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Setpgid:    true,
		Cloneflags: w.namespaces,
	}
	if os.Geteuid() == 0 {
		cmd.SysProcAttr.Credential = &syscall.Credential{Uid: w.uid, Gid: w.gid}
	}
	if w.namespaces&syscall.CLONE_NEWUSER != 0 {
		cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{ContainerID: int(w.uid), HostID: int(w.uid), Size: 1}}
		cmd.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{ContainerID: int(w.gid), HostID: int(w.gid), Size: 1}}
		cmd.SysProcAttr.GidMappingsEnableSetgroups = true
	}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	return cmd
}

// pump gives at most limit bytes of out to sink.
func pump(out io.Reader, limit int64, sink func([]byte) error) error {
	buf := make([]byte, 32<<10)
	var total int64
	for {
		n, err := out.Read(buf)
		total += int64(n)
		if total > limit {
			return errOutput
		}
		if n > 0 {
			if err := sink(buf[:n]); err != nil {
				return err
			}
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// verdict turns the end of unsquashfs into an error. Its exit status is 1 for
// a damaged image and 2 for a file that is not there or cannot be written out.
func verdict(err error, stderr string) error {
	if err == nil && strings.TrimSpace(stderr) == "" {
		return nil
	}
	said := firstLine(stderr)
	if strings.HasPrefix(said, "cat: ") && (strings.Contains(said, "no matches") || strings.Contains(said, "is a directory") || strings.Contains(said, "not a")) {
		return fmt.Errorf("%w: %s", ErrNotFound, said)
	}
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		return err
	}
	switch said {
	case "":
		said = exit.String()
	case "FATAL ERROR: Failed to create thread", "FATAL ERROR:Failed to create thread":
		// It says so where the machine has room for one process, and not for its threads.
		return fmt.Errorf("unsquashfs says: %s: %w", said, unix.EAGAIN)
	}
	return fmt.Errorf("%w: unsquashfs says: %s", ErrCorrupt, said)
}

// firstLine is the first line that says something, safe to print: what the
// child writes may contain names from the image.
func firstLine(s string) string {
	for line := range strings.Lines(s) {
		line = strings.TrimSpace(line)
		if line != "" {
			q := strconv.QuoteToASCII(line)
			return q[1 : len(q)-1]
		}
	}
	return ""
}

// capped keeps the first limit bytes and forgets the rest.
type capped struct {
	bytes.Buffer
	limit int
}

func (c *capped) Write(b []byte) (int, error) {
	c.Buffer.Write(b[:min(len(b), max(0, c.limit-c.Len()))])
	return len(b), nil
}
