package test

import (
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"tenure"
	"tenure/examples/clients/virtd"
	"tenure/internal/policy"
	"tenure/internal/proc"
	"tenure/test/rig"
)

func TestStopLeavesTheMachines(t *testing.T) {
	t.Parallel()
	h := newHall(t)
	web, db := h.start("web"), h.start("db")
	manages := h.Main(manager)

	job := h.start("job")
	plan := h.plan("stop", job.unit())
	same(t, "verdicts on stop by name", map[string]tenure.Verdict{job.unit(): tenure.Stop}, verdicts(plan))
	h.Tenure("stop", job.unit()) // Until now it was among the processes of its manager.
	if err := rig.Gone(t.Context(), job.process); err != nil {
		t.Error(err)
	}
	h.halted(job, 1)
	h.lives(web)
	if now := h.Main(manager); now != manages {
		t.Errorf("the manager is %v, want still %v", now, manages)
	}

	plan = h.plan("stop", "virt")
	same(t, "verdicts on stop", map[string]tenure.Verdict{manager: tenure.Stop, web.unit(): tenure.Endure, db.unit(): tenure.Endure}, verdicts(plan))
	h.Tenure("stop", "virt")
	if err := rig.Gone(t.Context(), manages); err != nil {
		t.Error(err)
	}
	carriedOut(h, plan)
	h.lives(web)
	h.lives(db)

	plan = h.plan("stop", web.unit())
	same(t, "verdicts on stop by name", map[string]tenure.Verdict{web.unit(): tenure.Stop}, verdicts(plan))
	for _, item := range plan.Items {
		if item.Rule.Source != policy.Administrator {
			t.Errorf("%s is stopped by the rule %+v, want the administrator's word", item.Unit, item.Rule)
		}
	}
	h.Tenure("stop", web.unit())
	if err := rig.Gone(t.Context(), web.process); err != nil {
		t.Error(err)
	}
	h.halted(web, 1)
	h.lives(db)

	h.Tenure("start", "virt")
	list, err := h.List(t.Context())
	if err != nil || len(list) != 3 || !list[0].Running || list[1].Running || list[2].Running {
		t.Errorf("the manager found %+v, %v, want db running and the others not", list, err)
	}
	if result := h.Try("stop", web.unit()); result.Status == 0 || !strings.Contains(result.Stderr, web.unit()) {
		t.Errorf("stop of a machine that has ended: %+v, want an error that names it", result)
	}
}

func TestDisableEndsTheMachines(t *testing.T) {
	t.Parallel()
	h := newHall(t)
	web := h.start("web")
	h.refresh("2")
	db := h.start("db") // Still among the processes of its manager.

	plan := h.plan("disable", "virt")
	same(t, "verdicts", map[string]tenure.Verdict{manager: tenure.Stop, web.unit(): tenure.Stop, db.unit(): tenure.Stop}, verdicts(plan))
	h.Tenure("disable", "virt")
	carriedOut(h, plan)
	for _, m := range []machine{web, db} {
		if err := rig.Gone(t.Context(), m.process); err != nil {
			t.Error(err)
		}
		h.halted(m, 1)
	}
	same(t, "processes and control groups", []string(nil), running(h))
	same(t, "units", 0, len(h.ps()))
	if _, err := os.Lstat(h.Path("snap/virt/current")); err == nil {
		t.Error("the disabled snap has a current revision")
	}
	if result := h.Exec(h.Path("snap/bin/virt.virtctl"), "list"); result.Status == 0 {
		t.Errorf("a command of the disabled snap runs: %+v", result)
	}

	h.Tenure("enable", "virt")
	again, err := h.Client.Start(t.Context(), "web")
	if err != nil || again.UUID != web.UUID {
		t.Fatalf("web is %+v, %v, want the machine that it was: %+v", again, err, web)
	}
	h.ticks("web", 1)
	if err := h.Shutdown(t.Context(), "web"); err != nil {
		t.Fatal(err)
	}
	h.halted(web, 2)
}

func TestRemoveLeavesNothing(t *testing.T) {
	t.Parallel()
	for _, purge := range []bool{false, true} {
		t.Run(fmt.Sprintf("purge=%t", purge), func(t *testing.T) {
			t.Parallel()
			testRemove(t, newHall(t), purge)
		})
	}
}

func testRemove(t *testing.T, h hall, purge bool) {
	t.Helper()
	web := h.start("web")
	h.refresh("2")
	db := h.start("db")
	h.Tenure("stop", "virt") // Nobody who knows the machines is there any more.
	serial, disk := held(t, h.File("web", virtd.SerialLog)), held(t, h.File("web", virtd.DiskImage))

	args := []string{"remove", "virt"}
	plan := h.plan(args...)
	same(t, "verdicts", map[string]tenure.Verdict{web.unit(): tenure.Stop, db.unit(): tenure.Stop}, verdicts(plan))
	if purge {
		args = append(args, "--purge")
	}
	h.Tenure(args...)
	for _, m := range []machine{web, db} {
		if err := rig.Gone(t.Context(), m.process); err != nil {
			t.Error(err)
		}
	}
	halted(t, serial, disk, 1)

	same(t, "units", 0, len(h.ps()))
	same(t, "processes and control groups", []string(nil), running(h))
	for _, path := range slices.Concat(rig.Mounts(h.Root), rig.Loops(h.Root)) {
		if strings.Contains(path, "virt") {
			t.Errorf("%s is still mounted", path)
		}
	}
	same(t, "files", []string(nil), namedVirt(t, h))
	if result := h.Try("list", "virt"); result.Status == 0 {
		t.Errorf("the removed snap is listed: %+v", result)
	}
	h.Tenure("install", "--dangerous", snap(t, "virt", "1"))
	if list, err := h.List(t.Context()); err != nil || len(list) != 0 {
		t.Errorf("machines after a new installation: %+v, %v, want none", list, err)
	}
}

// held keeps a file open until the test ends, and gives a path that leads to it
// also when it has been deleted.
func held(t *testing.T, path string) string {
	t.Helper()
	file, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { file.Close() }) //nolint:errcheck // Only read.
	return fmt.Sprintf("/proc/self/fd/%d", file.Fd())
}

// namedVirt are the files below the root whose path speaks of virt, but for what
// is inside of mounted snaps.
func namedVirt(t *testing.T, h hall) []string {
	t.Helper()
	var found []string
	err := filepath.WalkDir(h.Root, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name, _ := filepath.Rel(h.Root, path)
		if entry.IsDir() && strings.HasPrefix(name, "snap/debian12/") {
			return fs.SkipDir
		}
		if strings.Contains(name, "virt") {
			found = append(found, name)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

// running are the processes of virt in the control groups of the instance and
// wherever else a command line names the root, and the groups that are named
// after it.
func running(h hall) []string {
	var found []string
	found = append(found, slices.DeleteFunc(rig.Processes(h.Root), func(line string) bool {
		return !strings.Contains(line, "virtd") && !strings.Contains(line, "qemu") && !strings.Contains(line, "vm-shutdown")
	})...)
	for _, group := range rig.Groups(h.Root) {
		if strings.Contains(group, "/virt") {
			found = append(found, group)
		}
	}
	return found
}

func TestARevisionStaysWhileSomebodyStandsInIt(t *testing.T) {
	t.Parallel()
	h := newHall(t)
	stranger := exec.Command("sleep", "600")
	stranger.Dir = h.Path("snap/virt/x1")
	if err := stranger.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		stranger.Process.Kill() //nolint:errcheck // It has usually ended.
		stranger.Wait()         //nolint:errcheck // It was killed.
	})
	info, err := proc.Read(stranger.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	h.Tenure("remove", "virt")
	same(t, "units", 0, len(h.ps()))
	collected(t, h.Instance, "virt", "x1", info.Process, stranger.Process.Kill)
	h.Tenure("install", "--dangerous", snap(t, "virt", "1"))
}
