//go:build !failpoints

package daemon

import (
	"tenure/internal/change"
	"tenure/internal/refresh"
)

// boundary is where a build with fail points dies; this one has none.
func boundary(refresh.Paths) func(change.Point) { return nil }
