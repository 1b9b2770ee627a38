package refresh

import (
	"fmt"
	"strings"
	"testing"
	"testing/synctest"

	"tenure"
	"tenure/internal/hook"
	"tenure/internal/snapfile"
	"tenure/internal/supervise"
	"tenure/internal/supervise/supervisetest"
)

const templateYAML = `
name: probe
version: '1'
apps:
  vm: {command: bin/vm, daemon: simple, lifecycle: {instances: true}}
  manager: {command: bin/manager, daemon: simple}
`

// A snap can name only so many workloads and instances that live or start by themselves;
// what has ended is not counted.
func TestNamesAreBounded(t *testing.T) {
	t.Parallel()
	info, err := snapfile.Parse([]byte(templateYAML), nil)
	if err != nil {
		t.Fatal(err)
	}
	synctest.Test(t, func(t *testing.T) {
		h := newHarness(t)
		service := h.service("manager", tenure.LocalRevision(1), supervisetest.Program{})
		service.Workloads = []supervise.Workload{{Name: "vm"}}
		if err := h.twin.Start(t.Context(), service); err != nil {
			t.Fatal(err)
		}
		p, caller := Packages{m: h.Manager}, hook.Caller{Unit: service.Unit}
		start := func(name string) error {
			return p.StartWorkload(t.Context(), caller, name, supervisetest.Program{}.Command("/vm").Argv)
		}
		const enabled = 3
		for n := range enabled {
			if err := h.instances.put(tenure.InstanceUnit(probe, "vm", fmt.Sprint("kept", n)), &instance{Enabled: true}); err != nil {
				t.Fatal(err)
			}
		}
		for n := range maxNamed - enabled {
			if err := start(fmt.Sprint("vm@", n)); err != nil {
				t.Fatal(err)
			}
		}
		want := func(what string, err error) {
			t.Helper()
			if err == nil || !strings.Contains(err.Error(), "may have 512 at a time") {
				t.Errorf("%s: %v", what, err)
			}
		}
		ask := func(name string) error {
			c := &controlled{state: h.state(tenure.LocalRevision(1))}
			c.asked.units = []tenure.UnitID{tenure.InstanceUnit(probe, "vm", name)}
			return h.instancesAsked(t.Context(), Request{Action: ActionStart}, c, info)
		}
		want("one more is started", start("vm@more"))
		want("one more is adopted", p.AdoptWorkload(t.Context(), caller, "vm@more", 1))
		want("one more instance", ask("more"))
		if err := ask("kept0"); err != nil {
			t.Errorf("one that counts already is started: %v", err)
		}
		if err := p.StopWorkload(t.Context(), caller, "vm@0"); err != nil {
			t.Fatal(err)
		}
		if err := ask("more"); err != nil {
			t.Errorf("one has ended, and an instance is to come: %v", err)
		}
		if err := start("vm@more"); err != nil {
			t.Errorf("one has ended, and another comes: %v", err)
		}
		want("one that has ended comes back", start("vm@0"))
	})
}
