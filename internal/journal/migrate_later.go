//go:build !failpoints

package journal

// later are migrations that are not there yet.
func later() []migration { return nil }
