package powercut

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"syscall"
	"time"

	"github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// source is what the mount is called in the mount table; scripts/run-tests looks for it.
const source = "tenure-test"

// Mount is a disk at its place.
type Mount struct {
	server *fuse.Server
	dir    string
}

// Mount mounts the disk at dir, until Unmount. The kernel may remember what it was told,
// for nobody else changes the disk.
func (d *Disk) Mount(dir string) (*Mount, error) {
	always := time.Hour
	server, err := fs.Mount(dir, &file{disk: d, node: d.nodes[top]}, &fs.Options{
		MountOptions: fuse.MountOptions{
			DirectMountStrict: true, AllowOther: true, FsName: source, Name: source,
			Options: []string{"default_permissions", "suid", "dev"}, MaxWrite: 1 << 20,
		},
		EntryTimeout: &always, AttrTimeout: &always, NullPermissions: true,
		RootStableAttr: &fs.StableAttr{Ino: uint64(top), Gen: 1},
	})
	if err != nil {
		return nil, fmt.Errorf("mount a disk at %s: %w", dir, err)
	}
	return &Mount{server: server, dir: dir}, nil
}

// Unmount takes the disk away from its place. It goes in any case: one that is in use is
// broken off and detached, which is an error.
func (m *Mount) Unmount() error {
	err := m.server.Unmount()
	if err == nil {
		return nil
	}
	// A process that another test is just about to start has what is open here for a moment.
	if detachErr := unix.Unmount(m.dir, unix.MNT_DETACH); detachErr != nil {
		return errors.Join(fmt.Errorf("unmount the disk at %s: %w", m.dir, err), detachErr)
	}
	m.server.Wait()
	return nil
}

// errno is zero, or what the kernel is told.
type errno = syscall.Errno

// file is a node as the kernel knows it.
type file struct {
	fs.Inode

	disk *Disk
	node *node
}

// handle is an open file.
type handle struct {
	// durable is that every write waits for the disk.
	durable bool
}

func (f *file) lock() func() {
	f.disk.mu.Lock()
	return f.disk.mu.Unlock
}

func (n *node) describe(out *fuse.Attr) {
	out.Ino, out.Mode, out.Rdev = uint64(n.number), n.mode, n.device
	out.Uid, out.Gid = n.uid, n.gid
	out.Size, out.Nlink, out.Blksize = uint64(len(n.data)+len(n.target)), uint32(n.links), 4096 //nolint:gosec // A few.
	if n.is(unix.S_IFDIR) {
		out.Nlink++
	}
	out.Blocks = (out.Size + 511) / 512
	out.SetTimes(&n.access, &n.modify, &n.alter)
}

// child is what the kernel is to know of a node.
func (f *file) child(ctx context.Context, n *node, out *fuse.EntryOut) *fs.Inode {
	n.describe(&out.Attr)
	return f.NewInode(ctx, &file{disk: f.disk, node: n}, fs.StableAttr{Mode: n.mode & unix.S_IFMT, Ino: uint64(n.number), Gen: 1})
}

// Lookup finds a name.
func (f *file) Lookup(ctx context.Context, name string, out *fuse.EntryOut) (*fs.Inode, errno) {
	defer f.lock()()
	found, ok := f.node.names[name]
	if !ok {
		return nil, unix.ENOENT
	}
	return f.child(ctx, f.disk.nodes[found], out), 0
}

// Getattr describes the file.
func (f *file) Getattr(_ context.Context, _ fs.FileHandle, out *fuse.AttrOut) errno {
	defer f.lock()()
	f.node.describe(&out.Attr)
	return 0
}

// Setattr changes attributes and the length.
func (f *file) Setattr(_ context.Context, _ fs.FileHandle, in *fuse.SetAttrIn, out *fuse.AttrOut) errno {
	defer f.lock()()
	if failed := f.disk.refuse(f.node, ""); failed != 0 {
		return failed
	}
	now := time.Now()
	if size, ok := in.GetSize(); ok {
		f.disk.do(operation{kind: opResize, at: now, number: f.node.number, offset: int64(size)}) //nolint:gosec // A length.
	}
	var change attributes
	if mode, ok := in.GetMode(); ok {
		change.mode = &mode
	}
	if uid, ok := in.GetUID(); ok {
		change.uid = &uid
	}
	if gid, ok := in.GetGID(); ok {
		change.gid = &gid
	}
	if access, ok := in.GetATime(); ok {
		change.access = &access
	}
	if modify, ok := in.GetMTime(); ok {
		change.modify = &modify
	}
	if change.mode != nil || change.uid != nil || change.gid != nil || change.access != nil || change.modify != nil {
		f.disk.do(operation{kind: opAttributes, at: now, number: f.node.number, change: &change})
	}
	f.node.describe(&out.Attr)
	return 0
}

// make puts something new into the directory.
func (f *file) make(ctx context.Context, name string, n *node, out *fuse.EntryOut) (*fs.Inode, errno) {
	defer f.lock()()
	if failed := f.disk.refuse(f.node, name); failed != 0 {
		return nil, failed
	}
	if _, found := f.node.names[name]; found {
		return nil, unix.EEXIST
	}
	n.volatile = f.disk.isVolatileTop(slot{dir: f.node.number, name: name})
	return f.bear(ctx, n, out, slot{dir: f.node.number, name: name, number: f.disk.last + 1})
}

// bear makes something new, with names in the directory. The disk is locked.
func (f *file) bear(ctx context.Context, n *node, out *fuse.EntryOut, names ...slot) (*fs.Inode, errno) {
	now := time.Now()
	n.number = f.disk.last + 1
	n.access, n.modify, n.alter = now, now, now
	n.volatile = n.volatile || f.node.volatile
	if caller, ok := fuse.FromContext(ctx); ok {
		n.uid, n.gid = caller.Uid, caller.Gid
	}
	if f.node.mode&unix.S_ISGID != 0 {
		n.gid = f.node.gid
	}
	f.disk.do(operation{kind: opNames, at: now, number: n.number, born: n, slots: names})
	return f.child(ctx, f.disk.nodes[n.number], out), 0
}

// Tmpfile makes a file without a name and opens it.
func (f *file) Tmpfile(ctx context.Context, flags, mode uint32, out *fuse.EntryOut) (*fs.Inode, fs.FileHandle, uint32, errno) { //nolint:revive // As the interface is.
	defer f.lock()()
	if failed := f.disk.refuse(f.node, ""); failed != 0 {
		return nil, nil, 0, failed
	}
	made, failed := f.bear(ctx, &node{mode: mode&permissions | unix.S_IFREG}, out)
	return made, newHandle(flags), 0, failed
}

// Mkdir makes a directory.
func (f *file) Mkdir(ctx context.Context, name string, mode uint32, out *fuse.EntryOut) (*fs.Inode, errno) {
	return f.make(ctx, name, &node{mode: mode&permissions | unix.S_IFDIR, names: map[string]number{}}, out)
}

// Mknod makes a file, a socket, a fifo or a device.
func (f *file) Mknod(ctx context.Context, name string, mode, device uint32, out *fuse.EntryOut) (*fs.Inode, errno) {
	return f.make(ctx, name, &node{mode: mode, device: device}, out)
}

// Symlink makes a link.
func (f *file) Symlink(ctx context.Context, target, name string, out *fuse.EntryOut) (*fs.Inode, errno) {
	return f.make(ctx, name, &node{mode: unix.S_IFLNK | 0o777, target: target}, out)
}

// Create makes a file and opens it.
func (f *file) Create(ctx context.Context, name string, flags, mode uint32, out *fuse.EntryOut) (*fs.Inode, fs.FileHandle, uint32, errno) { //nolint:revive // As the interface is.
	made, failed := f.make(ctx, name, &node{mode: mode&permissions | unix.S_IFREG}, out)
	return made, newHandle(flags), 0, failed
}

func newHandle(flags uint32) *handle { return &handle{durable: flags&unix.O_DSYNC != 0} }

// Readlink is where a link leads to.
func (f *file) Readlink(context.Context) ([]byte, errno) { return []byte(f.node.target), 0 }

// Link gives a file one more name.
func (f *file) Link(ctx context.Context, target fs.InodeEmbedder, name string, out *fuse.EntryOut) (*fs.Inode, errno) {
	defer f.lock()()
	of, ok := target.(*file)
	if !ok || of.node.volatile != f.node.volatile {
		return nil, unix.EXDEV
	}
	if failed := f.disk.refuse(f.node, name); failed != 0 {
		return nil, failed
	}
	f.disk.do(operation{
		kind: opNames, at: time.Now(), number: of.node.number, slots: []slot{{f.node.number, name, of.node.number}},
	})
	return f.child(ctx, of.node, out), 0
}

// Unlink takes a name away.
func (f *file) Unlink(_ context.Context, name string) errno {
	defer f.lock()()
	gone, found := f.node.names[name]
	if !found {
		return unix.ENOENT
	}
	if failed := f.disk.refuse(f.node, name); failed != 0 {
		return failed
	}
	f.disk.do(operation{kind: opNames, at: time.Now(), number: gone, slots: []slot{{f.node.number, name, 0}}})
	return 0
}

// Rmdir takes an empty directory away.
func (f *file) Rmdir(ctx context.Context, name string) errno {
	unlock := f.lock()
	gone, found := f.node.names[name]
	full := found && len(f.disk.nodes[gone].names) > 0
	unlock()
	if full {
		return unix.ENOTEMPTY
	}
	return f.Unlink(ctx, name)
}

// Rename moves a name, or exchanges two.
func (f *file) Rename(_ context.Context, name string, parent fs.InodeEmbedder, newName string, flags uint32) errno {
	defer f.lock()()
	to, ok := parent.(*file)
	if !ok || to.node.volatile != f.node.volatile {
		return unix.EXDEV
	}
	moved, found := f.node.names[name]
	replaced, taken := to.node.names[newName]
	switch {
	case !found || flags == unix.RENAME_EXCHANGE && !taken:
		return unix.ENOENT
	case flags == unix.RENAME_NOREPLACE && taken:
		return unix.EEXIST
	case flags&^(unix.RENAME_NOREPLACE|unix.RENAME_EXCHANGE) != 0:
		return unix.EINVAL
	case flags == 0 && taken && len(f.disk.nodes[replaced].names) > 0:
		return unix.ENOTEMPTY
	case moved == replaced:
		return 0
	}
	if failed := f.disk.refuse(f.node, name); failed != 0 {
		return failed
	}
	left := number(0)
	if flags == unix.RENAME_EXCHANGE {
		left = replaced
	}
	f.disk.do(operation{
		kind: opNames, at: time.Now(), number: moved,
		slots: []slot{{f.node.number, name, left}, {to.node.number, newName, moved}},
	})
	return 0
}

// Readdir lists the directory.
func (f *file) Readdir(context.Context) (fs.DirStream, errno) {
	defer f.lock()()
	entries := make([]fuse.DirEntry, 0, len(f.node.names))
	for _, name := range slices.Sorted(maps.Keys(f.node.names)) {
		n := f.disk.nodes[f.node.names[name]]
		entries = append(entries, fuse.DirEntry{Name: name, Ino: uint64(n.number), Mode: n.mode})
	}
	return fs.NewListDirStream(entries), 0
}

// Open opens the file. What the kernel has of it in memory is what there is.
func (f *file) Open(_ context.Context, flags uint32) (fs.FileHandle, uint32, errno) {
	return newHandle(flags), fuse.FOPEN_KEEP_CACHE, 0
}

// Read reads from the file.
func (f *file) Read(_ context.Context, _ fs.FileHandle, dest []byte, offset int64) (fuse.ReadResult, errno) {
	defer f.lock()()
	if offset >= int64(len(f.node.data)) {
		return fuse.ReadResultData(nil), 0
	}
	return fuse.ReadResultData(dest[:copy(dest, f.node.data[offset:])]), 0
}

// Write writes to the file.
func (f *file) Write(_ context.Context, open fs.FileHandle, data []byte, offset int64) (uint32, errno) {
	defer f.lock()()
	if failed := f.disk.refuse(f.node, ""); failed != 0 {
		return 0, failed
	}
	f.disk.do(operation{kind: opWrite, at: time.Now(), number: f.node.number, offset: offset, data: slices.Clone(data)})
	if h, ok := open.(*handle); ok && h.durable {
		f.disk.do(operation{kind: opSync, at: time.Now(), number: f.node.number, dataOnly: true})
	}
	return uint32(len(data)), 0 //nolint:gosec // At most a megabyte.
}

// Flush has nothing to do: who closes a file does not wait for the disk.
func (f *file) Flush(context.Context, fs.FileHandle) errno { return 0 }

// onlyData is fdatasync (FUSE_FSYNC_FDATASYNC).
const onlyData = 1

// Fsync notes that all of the file, or of the directory, is on the disk.
func (f *file) Fsync(_ context.Context, _ fs.FileHandle, flags uint32) errno {
	defer f.lock()()
	if failed := f.disk.refuse(f.node, ""); failed != 0 {
		return failed
	}
	f.disk.do(operation{kind: opSync, at: time.Now(), number: f.node.number, dataOnly: flags&onlyData != 0})
	return 0
}

// Allocate makes the file longer, or writes zeros.
func (f *file) Allocate(_ context.Context, _ fs.FileHandle, offset, size uint64, mode uint32) errno {
	defer f.lock()()
	const zeroing = unix.FALLOC_FL_PUNCH_HOLE | unix.FALLOC_FL_ZERO_RANGE
	if mode&^(zeroing|unix.FALLOC_FL_KEEP_SIZE) != 0 {
		return unix.EOPNOTSUPP
	}
	if failed := f.disk.refuse(f.node, ""); failed != 0 {
		return failed
	}
	from, to := int64(offset), int64(offset+size) //nolint:gosec // Places in a file.
	if mode&unix.FALLOC_FL_KEEP_SIZE == 0 && to > int64(len(f.node.data)) {
		f.disk.do(operation{kind: opResize, at: time.Now(), number: f.node.number, offset: to})
	}
	if to = min(to, int64(len(f.node.data))); mode&zeroing != 0 && from < to {
		f.disk.do(operation{kind: opWrite, at: time.Now(), number: f.node.number, offset: from, data: make([]byte, to-from)})
	}
	return 0
}

// Getxattr reads an extended attribute.
func (f *file) Getxattr(_ context.Context, name string, dest []byte) (uint32, errno) {
	defer f.lock()()
	value, found := f.node.attributes[name]
	if !found {
		return 0, unix.ENODATA
	}
	return fill(dest, value)
}

// Listxattr lists the extended attributes.
func (f *file) Listxattr(_ context.Context, dest []byte) (uint32, errno) {
	defer f.lock()()
	var list []byte
	for _, name := range slices.Sorted(maps.Keys(f.node.attributes)) {
		list = append(append(list, name...), 0)
	}
	return fill(dest, list)
}

func fill(dest, value []byte) (uint32, errno) {
	if copy(dest, value) < len(value) {
		return uint32(len(value)), unix.ERANGE //nolint:gosec // Short.
	}
	return uint32(len(value)), 0 //nolint:gosec // Short.
}

// Setxattr sets an extended attribute.
func (f *file) Setxattr(_ context.Context, name string, data []byte, flags uint32) errno {
	defer f.lock()()
	_, found := f.node.attributes[name]
	switch {
	case flags == unix.XATTR_CREATE && found:
		return unix.EEXIST
	case flags == unix.XATTR_REPLACE && !found:
		return unix.ENODATA
	}
	if failed := f.disk.refuse(f.node, ""); failed != 0 {
		return failed
	}
	f.extend(name, append([]byte{}, data...))
	return 0
}

// Removexattr removes an extended attribute.
func (f *file) Removexattr(_ context.Context, name string) errno {
	defer f.lock()()
	if _, found := f.node.attributes[name]; !found {
		return unix.ENODATA
	}
	if failed := f.disk.refuse(f.node, ""); failed != 0 {
		return failed
	}
	f.extend(name, nil)
	return 0
}

func (f *file) extend(name string, value []byte) {
	f.disk.do(operation{
		kind: opAttributes, at: time.Now(), number: f.node.number, change: &attributes{extended: map[string][]byte{name: value}},
	})
}

// Statfs tells of plenty of room.
func (f *file) Statfs(_ context.Context, out *fuse.StatfsOut) errno {
	const blocks = 1 << 20
	out.Bsize, out.Frsize, out.Blocks, out.Bfree, out.Bavail, out.Files, out.Ffree, out.NameLen = 4096, 4096, blocks, blocks, blocks, blocks, blocks, 255
	return 0
}
