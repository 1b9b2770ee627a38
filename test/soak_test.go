//go:build soak

// The long form of what the tests at full speed show in short: see make soak-web.

package test

import "testing"

const soakRefreshes = 50

func TestSoakHandOver(t *testing.T) { //nolint:paralleltest // It has the machine to itself.
	handsOver(t, soakRefreshes)
}

func TestSoakReload(t *testing.T) { //nolint:paralleltest // It has the machine to itself.
	reloads(t, soakRefreshes)
}
