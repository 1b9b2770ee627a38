package bench

import (
	"os"
	"testing"

	"tenure/test/nspawn"
)

// TestMain runs the benchmarks here, or below a systemd of their own.
func TestMain(m *testing.M) {
	if !bySystemd() {
		os.Exit(m.Run())
	}
	os.Exit(nspawn.Main(m))
}

// bySystemd reports whether systemd is what supervises.
func bySystemd() bool { return os.Getenv("TENURE_SUPERVISOR") == "systemd" }
