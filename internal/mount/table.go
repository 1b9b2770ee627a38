package mount

import (
	"context"

	"tenure"
)

// Table is what is mounted, and who uses it. Its law, and one in memory, are in package mounttest.
type Table interface {
	Mounts
	Using
}

// Mounts are what is mounted. Each method is the function of its name.
type Mounts interface {
	Mount(ctx context.Context, file, dir string) (Info, error)
	Mounted(dir string) (Info, bool, error)
	Below(dir string) ([]Info, error)
	Share(dir string) error
	Unmount(ctx context.Context, dir string) error
	UnmountTree(ctx context.Context, dir string) error
	DetachTree(ctx context.Context, dir string) error
}

// Using is who uses what is mounted. Each method is the function of its name.
type Using interface {
	UsersOf(ctx context.Context, mounts ...Info) (map[Dev][]Use, error)
	RunnersOf(ctx context.Context, mounts ...Info) (map[Dev][]Use, error)
	UsedBy(p tenure.Process, mounts ...Info) (map[Dev][]What, error)
}

// Kernel is the table of this mount namespace.
type Kernel struct{}

var _ Table = Kernel{}

// Mount implements Table.
func (Kernel) Mount(ctx context.Context, file, dir string) (Info, error) {
	return Mount(ctx, file, dir)
}

// Mounted implements Table.
func (Kernel) Mounted(dir string) (Info, bool, error) { return Mounted(dir) }

// Below implements Table.
func (Kernel) Below(dir string) ([]Info, error) { return Below(dir) }

// Share implements Table.
func (Kernel) Share(dir string) error { return Share(dir) }

// Unmount implements Table.
func (Kernel) Unmount(ctx context.Context, dir string) error { return Unmount(ctx, dir) }

// UnmountTree implements Table.
func (Kernel) UnmountTree(ctx context.Context, dir string) error { return UnmountTree(ctx, dir) }

// DetachTree implements Table.
func (Kernel) DetachTree(ctx context.Context, dir string) error { return DetachTree(ctx, dir) }

// UsersOf implements Table.
func (Kernel) UsersOf(ctx context.Context, mounts ...Info) (map[Dev][]Use, error) {
	return UsersOf(ctx, mounts...)
}

// RunnersOf implements Table.
func (Kernel) RunnersOf(ctx context.Context, mounts ...Info) (map[Dev][]Use, error) {
	return RunnersOf(ctx, mounts...)
}

// UsedBy implements Table.
func (Kernel) UsedBy(p tenure.Process, mounts ...Info) (map[Dev][]What, error) {
	return UsedBy(p, mounts...)
}
