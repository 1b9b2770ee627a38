package supervisetest_test

import (
	"testing"

	"tenure"
	"tenure/internal/supervise"
	"tenure/internal/supervise/supervisetest"
)

func TestTwinPassesTheLaw(t *testing.T) {
	t.Parallel()
	supervisetest.Run(t, func(*testing.T) supervisetest.Harness {
		twin, record := supervisetest.NewTwin(), &supervisetest.Record{}
		twin.Record(record.Add)
		return supervisetest.Harness{
			Supervisor: twin, Exe: "/twin", Recorded: record.All, Heed: twin.Heed,
			Spawn:   func(_ *testing.T, p supervisetest.Program) tenure.Process { return twin.Spawn(p) },
			Connect: func(_ *testing.T, s supervise.Socket) <-chan string { return twin.Connect(s) },
			Socket: func(_ *testing.T, name string) supervise.Socket {
				return supervise.Socket{Name: name, Network: "unix", Address: "/" + name}
			},
		}
	})
}
