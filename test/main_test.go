package test

import (
	"os"
	"testing"

	"tenure/test/nspawn"
)

// TestMain runs the tests here, or below a systemd of their own.
func TestMain(m *testing.M) {
	if os.Getenv("TENURE_SUPERVISOR") == "systemd" {
		os.Exit(nspawn.Main(m))
	}
	os.Exit(m.Run())
}
