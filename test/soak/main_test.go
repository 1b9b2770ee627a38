package soak

import (
	"os"
	"testing"

	"tenure/test/nspawn"
)

// TestMain runs the soak here, or below a systemd of its own.
func TestMain(m *testing.M) {
	if os.Getenv("TENURE_SUPERVISOR") != "systemd" {
		os.Exit(m.Run())
	}
	os.Exit(nspawn.Main(m))
}
