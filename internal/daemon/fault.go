//go:build !failpoints

package daemon

// fault is where a build with fail points fails on purpose; this one does not.
func fault(string) error { return nil }
