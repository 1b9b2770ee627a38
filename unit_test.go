package tenure_test

import (
	"errors"
	"strings"
	"testing"

	"tenure"
)

func TestUnitNames(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]tenure.UnitID{
		"virt.virtd":              {Snap: "virt", Kind: tenure.Service, App: "virtd"},
		"virt_dev.vm@web1":        {Snap: "virt_dev", Kind: tenure.Service, App: "vm", At: "web1"},
		"virt.virtd/vm.4711":      {Snap: "virt", Kind: tenure.Workload, App: "virtd", Name: "vm", Serial: 4711},
		"virt.virtd/vm@web1":      {Snap: "virt", Kind: tenure.Workload, App: "virtd", Name: "vm", Label: "web1"},
		"virt.virtd/vm":           {Snap: "virt", Kind: tenure.Workload, App: "virtd", Name: "vm"},
		"virt.vm@web1/job@a":      {Snap: "virt", Kind: tenure.Workload, App: "vm", At: "web1", Name: "job", Label: "a"},
		"virt.vm@web1/leftover.9": {Snap: "virt", Kind: tenure.Workload, App: "vm", At: "web1", Name: "leftover", Serial: 9},
		"virt.qemu-img~4711":      {Snap: "virt", Kind: tenure.AppRun, App: "qemu-img", Serial: 4711},
		"virt.hook.configure~9":   {Snap: "virt", Kind: tenure.HookRun, App: "configure", Serial: 9},
	} {
		got, err := tenure.ParseUnit(text)
		if err != nil || got != want || got.String() != text {
			t.Errorf("%q is %+v, %v, want %+v", text, got, err, want)
		}
		if got.Kind != tenure.Workload {
			continue
		}
		again, err := got.Service().ParseWorkload(got.WorkloadName())
		if err != nil || again != want {
			t.Errorf("%s of %s is %+v, %v", got.WorkloadName(), got.Service(), again, err)
		}
	}
}

func TestHostileUnitNames(t *testing.T) {
	t.Parallel()
	for _, text := range []string{
		"", ".", "virt", "virt.", "virt..", "../etc.x", "virt.virtd/", "virt.virtd//vm", "virt.virtd/vm.", "virt.virtd/vm.0",
		"virt.virtd/vm.01", "virt.virtd/vm.-1", "virt.virtd/.1", "virt.virtd/vm@", "virt.virtd/@web", "virt.virtd/vm@a.1",
		"virt.virtd/vm@a@b", "virt.virtd/../vm", "virt.virtd/vm@../x", "virt.virtd/vm@a/b", "virt.virtd/vm+a", "virt.virtd/vm.1@a",
		"virt.vm@", "virt.vm@a@b", "virt.vm@/vm", "virt.vm@a.b", "virt.vm@a~1", "virt.vm~", "virt.vm~x", "virt.vm~1/vm.1",
		"virt.hook.a.b~1", "virt.vm@" + strings.Repeat("a", 41), "virt.virtd/vm@\x00", "virt.virtd/vm@a\nb", "virt.virtd/vm\u00e4",
	} {
		if unit, err := tenure.ParseUnit(text); !errors.Is(err, tenure.ErrName) {
			t.Errorf("%q is %+v, %v, want ErrName", text, unit, err)
		}
	}
}
