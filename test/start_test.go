package test

import (
	"testing"

	"tenure/test/rig"
)

// "tenure start" of a snap leaves alone what runs, whatever it runs from, and when it fails
// only what it has started itself is stopped again.
func TestStartLeavesAloneWhatRuns(t *testing.T) {
	t.Parallel()
	i := rig.New(t, rig.Config{})
	pack := func(version string) string {
		return probeSnap(t, i, probeYAML(version, `
lasting:
	daemon: notify
	command: PROBE trap notify:READY:1 run
	lifecycle: {refresh: endure}
`, `
steady:
	daemon: notify
	command: PROBE trap notify:READY:1 run
`, `
frail:
	daemon: notify
	start-timeout: 1s
	command: PROBE trap count:3 notify:READY:1 run
`))
	}
	i.Tenure("install", "--dangerous", pack("1"))
	lasting := i.Main("probe.lasting")
	i.Tenure("refresh", "--dangerous", pack("2"))
	steady, frail := i.Main("probe.steady"), i.Main("probe.frail")
	i.Tenure("start", "probe")
	same(t, "frail after the start", frail, i.Main("probe.frail"))
	i.Tenure("stop", "probe.frail")
	i.Tenure("start", "probe")
	i.Tenure("stop", "probe.frail")
	if r := i.Try("start", "probe"); r.Status == 0 {
		t.Errorf("the start of a service that does not get ready: %+v", r)
	}
	same(t, "lasting after the starts", lasting, i.Main("probe.lasting"))
	same(t, "steady after the starts", steady, i.Main("probe.steady"))
	if unit, runs := i.Units()["probe.frail"]; runs {
		t.Errorf("what could not be started is %+v", unit)
	}
}
