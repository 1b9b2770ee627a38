package test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"tenure/test/rig"
)

// A revert goes back under machines that live on its revision, and takes nothing from
// them. A refresh that would make data anew which a machine still uses is refused, until that
// machine has ended.
func TestDataInUse(t *testing.T) {
	t.Parallel()
	i := rig.New(t, rig.Config{})
	i.Tenure("install", "--dangerous", snap(t, "debian12", "1"))
	shelf := newShelf(t, i)
	_, closed := windows(time.Now())
	i.Tenure("set", "system", "refresh.timer="+closed) // Nothing comes by itself.
	shelf.release(managerOfShells(t, i), "manager_1", long(time.Hour))
	i.Tenure("install", "manager")
	livingMachines(t, i)
	write(t, i.Path("var/snap/manager/1/mark"), "of 1")
	shelf.release(managerOfShells(t, i), "manager_2", long(time.Minute))
	i.Tenure("refresh", "manager")
	i.Tenure("revert", "manager")
	if text, err := os.ReadFile(i.Path("var/snap/manager/1/mark")); err != nil || string(text) != "of 1" || current(t, i, "manager").Revision != "1" {
		t.Errorf("after a revert under machines that live on it: %q, %v", text, err)
	}
	i.Tenure("refresh", "manager") // Nobody is on 2.
	// A machine that is started now is on 2, and stays when the manager goes back.
	for id := range i.Units() {
		if strings.HasPrefix(id, "manager.virtd/vm.") {
			i.Tenure("stop", id)
			break
		}
	}
	i.Tenure("restart", "manager")
	livingMachines(t, i)
	i.Tenure("revert", "manager") // At the latest now it is a unit of its own.
	on2 := ""
	for id, unit := range i.Units() {
		if unit.Kind == "workload" && strings.HasPrefix(id, "manager.virtd/vm.") && unit.Revision == "2" {
			on2 = id
		}
	}
	write(t, i.Path("var/snap/manager/2/mark"), "of a machine on 2")
	result := i.Try("refresh", "manager")
	if result.Status == 0 || !strings.Contains(result.Stderr, "still in use by unit "+on2) || !strings.Contains(result.Stderr, "tenure stop "+on2) {
		t.Fatalf("a refresh onto the data of %s: %+v", on2, result)
	}
	if text, err := os.ReadFile(i.Path("var/snap/manager/2/mark")); err != nil || string(text) != "of a machine on 2" {
		t.Errorf("the data of a machine: %q, %v", text, err)
	}
	i.Tenure("stop", on2)
	i.Tenure("refresh", "manager")
	if got := current(t, i, "manager").Revision; got != "2" {
		t.Errorf("the current revision is %s", got)
	}
	if left, err := filepath.Glob(i.Path("var/snap/manager/*.aside")); err != nil || len(left) > 0 {
		t.Errorf("left aside: %v, %v", left, err)
	}
	livingMachines(t, i)
}
