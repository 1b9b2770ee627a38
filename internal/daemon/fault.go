//go:build !failpoints

package daemon

import "context"

// fault is where a build with fail points fails on purpose; this one does not.
func fault(context.Context, string) error { return nil }
