package test

import (
	"testing"

	"tenure/examples/clients/hello"
	"tenure/examples/clients/snaps"
	"tenure/test/rig"
)

// snap is the file of an example package in a version.
func snap(t *testing.T, name, version string) string {
	t.Helper()
	file, err := snaps.Build(t.Context(), name, version)
	if err != nil {
		t.Fatal(err)
	}
	return file
}

func TestHelloIsRefreshed(t *testing.T) {
	t.Parallel()
	i := rig.New(t, rig.Config{})
	i.Tenure("install", "--dangerous", snap(t, "hello", "1"))
	socket := i.Path("var/snap/hello/common/hello.sock")
	before, err := hello.Ask(t.Context(), socket)
	if err != nil {
		t.Fatal(err)
	}
	i.Tenure("refresh", "--dangerous", snap(t, "hello", "2"))
	after, err := hello.Ask(t.Context(), socket)
	if err != nil {
		t.Fatal(err)
	}
	if before.Revision != "x1" || after.Revision != "x2" || before.PID == after.PID {
		t.Errorf("before: %v, after: %v", before, after)
	}
}

// TestTheEndOfTheDaemonTouchesNoService is N14, for an end in good order.
func TestTheEndOfTheDaemonTouchesNoService(t *testing.T) {
	t.Parallel()
	i := rig.New(t, rig.Config{})
	i.Tenure("install", "--dangerous", snap(t, "hello", "1"))
	socket := i.Path("var/snap/hello/common/hello.sock")
	before := i.Main("hello.hellod")
	i.Stop()
	answer, err := hello.Ask(t.Context(), socket)
	if err != nil || answer.PID != before.PID {
		t.Errorf("without the daemon: %v, %v", answer, err)
	}
	i.Start()
	if after := i.Main("hello.hellod"); after != before {
		t.Errorf("the main process was %v and is %v", before, after)
	}
	i.Tenure("stop", "hello")
	if err := rig.Gone(t.Context(), before); err != nil {
		t.Error(err)
	}
}
