package test

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"tenure"
	"tenure/internal/hook"
	"tenure/internal/proc"
	"tenure/test/rig"
)

// obedient is a program that carries out what it reads, and answers.
const obedient = `#!/bin/sh
exec 3<>"$SNAP_COMMON/$1.ask"
while read -r line <&3; do
	{ eval "$line"; r=$?; echo; echo "= $r"; } >"$SNAP_COMMON/$1.answer" 2>&1
done
`

// obedientSnap packs a snap whose programs are all obedient, and can stay idle.
func obedientSnap(t *testing.T, i *rig.Instance, yaml string) string {
	t.Helper()
	dir := t.TempDir()
	writeFile(t, filepath.Join(dir, "meta/snap.yaml"), yaml)
	writeFile(t, filepath.Join(dir, "bin/obey"), obedient)
	writeFile(t, filepath.Join(dir, "bin/idle"), "#!/bin/sh\necho \"$0 $*\"\nexec sleep infinity\n")
	file := dir + ".snap"
	i.Tenure("pack", "--compression", "lz4", dir, file)
	return file
}

// servant is an obedient service.
type servant struct {
	t      *testing.T
	ask    *os.File
	answer *bufio.Reader
}

// servant is who obeys under a name in a snap that is installed, or will be.
func newServant(t *testing.T, i *rig.Instance, snap, name string) *servant {
	t.Helper()
	open := func(suffix string) *os.File {
		path := filepath.Join(i.Common(snap), name+suffix)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil { //nolint:gosec // As Tenure makes it.
			t.Fatal(err)
		}
		if err := unix.Mkfifo(path, 0o600); err != nil {
			t.Fatal(err)
		}
		file, err := os.OpenFile(path, os.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = file.Close() })
		return file
	}
	return &servant{t, open(".ask"), bufio.NewReader(open(".answer"))}
}

// try has the servant carry out a line of a shell, and returns what that printed.
func (s *servant) try(line string) (out string, status int) {
	s.t.Helper()
	if _, err := fmt.Fprintln(s.ask, line); err != nil {
		s.t.Fatal(err)
	}
	for {
		text, err := s.answer.ReadString('\n')
		if err != nil {
			s.t.Fatal(err)
		}
		if end, ok := strings.CutPrefix(text, "= "); ok {
			status, err = strconv.Atoi(strings.TrimSpace(end))
			if err != nil {
				s.t.Fatal(err)
			}
			return strings.TrimSpace(out), status
		}
		out += text
	}
}

// do is try for what must succeed.
func (s *servant) do(line string) string {
	s.t.Helper()
	out, status := s.try(line)
	if status != 0 {
		s.t.Fatalf("%s: status %d: %s", line, status, out)
	}
	return out
}

// refused checks that a line fails and says why.
func (s *servant) refused(line, why string) {
	s.t.Helper()
	if out, status := s.try(line); status == 0 || !strings.Contains(out, why) {
		s.t.Errorf("%s: status %d, %q, want an error with %q", line, status, out, why)
	}
}

// workloads are those of the servant's service by their names.
func (s *servant) workloads() map[string]hook.Workload {
	s.t.Helper()
	var list []hook.Workload
	if err := json.Unmarshal([]byte(s.do("snapctl workload list --json")), &list); err != nil {
		s.t.Fatal(err)
	}
	all := map[string]hook.Workload{}
	for _, w := range list {
		all[w.Name] = w
	}
	return all
}

func managerYAML(version string) string {
	return fmt.Sprintf(`
name: named
version: '%s'
base: debian12
apps:
  manager:
    command: bin/obey manager
    daemon: simple
    lifecycle:
      workloads:
        vm: {remove: stop, stop-timeout: 20s}
        job: {refresh: stop}
  say: {command: bin/idle}
`, version)
}

func processOf(t *testing.T, pid int) tenure.Process {
	t.Helper()
	info, err := proc.Read(pid)
	if err != nil {
		t.Fatal(err)
	}
	return info.Process
}

// grandchild starts a process whose parent is a child of the servant.
func (s *servant) grandchild() tenure.Process {
	s.t.Helper()
	pid, err := strconv.Atoi(s.do(`[ -p $SNAP_COMMON/pid ] || mkfifo $SNAP_COMMON/pid; ` +
		`sh -c 'sleep infinity & echo $! >"$SNAP_COMMON/pid"; wait' >/dev/null & read -r pid <"$SNAP_COMMON/pid"; echo $pid`))
	if err != nil {
		s.t.Fatal(err)
	}
	return processOf(s.t, pid)
}

// A service starts workloads by name and adopts processes: they are units from the
// first moment on, live through refreshes of the service on their own revision and
// through the death of the daemon, and end as they are told to.
func TestAServiceNamesItsWorkloads(t *testing.T) {
	t.Parallel()
	i := rig.New(t, rig.Config{})
	s := newServant(t, i, "named", "manager")
	i.Tenure("install", "--dangerous", snap(t, "debian12", "1"), obedientSnap(t, i, managerYAML("1")))

	s.do(`snapctl workload start vm@web1 -- sh -c 'cat /proc/self/cgroup /proc/self/status >$SNAP_COMMON/self; echo "up $SNAP_REVISION"; exec sleep infinity'`)
	web := i.Main("named.manager/vm@web1")
	db := s.grandchild()
	s.do(fmt.Sprintf("snapctl workload adopt vm@db --pid %d", db.PID))
	same(t, "main process of vm@db", db, i.Main("named.manager/vm@db"))
	wrote(t, i, "named.manager/vm@web1", "up x1", 1)
	self, err := os.ReadFile(filepath.Join(i.Common("named"), "self"))
	if err != nil || !strings.Contains(string(self), "vm@web1.1") || !strings.Contains(string(self), "NoNewPrivs:\t1\n") {
		t.Errorf("vm@web1 was not born as what it is: %v\n%s", err, self)
	}
	s.do("snapctl workload start job -- sh -c 'exit 3'")
	job := s.workloads()["job"]
	for begun := time.Now(); job.Exit == nil && time.Since(begun) < rig.Patience; {
		job = s.workloads()["job"]
	}
	if job.State != "failed" || job.Exit == nil || job.Exit.Code != 3 {
		t.Errorf("job is %+v, want it to have failed with 3", job)
	}
	s.do("snapctl workload start job -- sleep infinity")

	i.Kill()
	i.Start()
	for name, want := range map[string]tenure.Process{"vm@web1": web, "vm@db": db} {
		same(t, name+" after the death of the daemon", want, i.Main("named.manager/"+name))
	}
	plan := onePlan(hall{Instance: i, t: t}, "plan", "refresh", "--dangerous", obedientSnap(t, i, managerYAML("2")))
	same(t, "verdicts", map[string]tenure.Verdict{
		"named.manager": tenure.Restart, "named.manager/vm@web1": tenure.Endure, "named.manager/vm@db": tenure.Endure, "named.manager/job": tenure.Stop,
	}, verdicts(plan))
	i.Tenure("refresh", "--dangerous", obedientSnap(t, i, managerYAML("2")))
	now := s.workloads()
	if now["vm@web1"].Revision != "x1" || now["vm@db"].Revision != "x1" || now["job"].State != "inactive" {
		t.Errorf("workloads after the refresh: %+v", now)
	}
	same(t, "vm@web1 after the refresh", web, i.Main("named.manager/vm@web1"))
	if why := i.Tenure("why", "named@x1"); !strings.Contains(why, "named.manager/vm@web1") || !strings.Contains(why, "named.manager/vm@db") {
		t.Errorf("why named@x1: %s", why)
	}
	s.do("snapctl workload stop vm@db")
	if db := s.workloads()["vm@db"]; db.Exit == nil || db.Exit.Signal != "SIGTERM" {
		t.Errorf("vm@db is %+v, want it ended by SIGTERM", db)
	}
	i.Tenure("stop", "named.manager/vm@web1")
	s.do("snapctl workload start vm@web1 -- $SNAP/bin/idle now")
	if unit := i.Units()["named.manager/vm@web1"]; unit.Revision != "x2" {
		t.Errorf("vm@web1 is %+v, want it on x2", unit)
	}
	i.Tenure("remove", "named")
	if left := i.Units(); len(left) > 0 {
		t.Errorf("after remove there are %+v", left)
	}
}

// What a service says of workloads is not to be trusted, and who is none has no say.
func TestWorkloadsThatCannotBe(t *testing.T) {
	t.Parallel()
	i := rig.New(t, rig.Config{})
	s := newServant(t, i, "named", "manager")
	i.Tenure("install", "--dangerous", snap(t, "debian12", "1"), obedientSnap(t, i, managerYAML("1")))
	for _, name := range []string{"''", "../x", "vm@", "vm@../x", "vm/x", "vm.1.2", "vm@a@b", "VM+x", "vm@" + strings.Repeat("a", 41)} {
		s.refused("snapctl workload start "+name+" -- sleep infinity", "invalid name")
		s.refused("snapctl workload adopt "+name+" --pid $$", "invalid name")
	}
	s.refused("snapctl workload start vm.4711 -- sleep infinity", "invalid name")
	s.refused("snapctl workload start leftover -- sleep infinity", "does not declare it")
	s.refused("snapctl workload start other@one -- sleep infinity", "does not declare it")
	s.refused("snapctl workload start vm@one -- /nonexistent", "no such file")
	s.refused("snapctl workload start vm@one", "snapctl workload start NAME -- COMMAND")
	s.refused("snapctl workload adopt vm@one --pid $$", "main process")
	s.refused("snapctl workload adopt vm@one --pid 1", "of no unit")
	s.refused(fmt.Sprintf("snapctl workload adopt vm@one --pid %d", os.Getpid()), "of no unit")
	s.refused(fmt.Sprintf("snapctl workload adopt vm@one --pid %d", 1<<22), "no such process")
	s.refused("snapctl workload adopt vm@one --pid -1", "snapctl workload adopt NAME")
	s.refused("snapctl workload stop vm@one", "there is none")
	s.refused("snapctl workload fly", "there is no command")
	s.do("snapctl workload start vm@one -- sleep infinity")
	s.refused("snapctl workload start vm@one -- sleep infinity", "it runs")
	// Nobody but root makes something that runs as root.
	s.refused("setpriv --reuid 12345 --clear-groups snapctl workload start vm@two -- sleep infinity", "uid 12345")
	if list := s.do("snapctl workload list"); !strings.Contains(list, "vm@one") || strings.Contains(list, "vm@two") {
		t.Errorf("snapctl workload list: %s", list)
	}
	var units []string
	for name := range i.Units() {
		units = append(units, name)
	}
	slices.Sort(units)
	same(t, "units", []string{"named.manager", "named.manager/vm@one"}, units)
}

// However often the daemon dies while a workload is started, there is one process of
// it in its unit, or none at all, and it can be started again.
func TestAWorkloadIsStartedOnceOrNever(t *testing.T) {
	t.Parallel()
	i := rig.New(t, rig.Config{})
	s := newServant(t, i, "named", "manager")
	i.Tenure("install", "--dangerous", snap(t, "debian12", "1"), obedientSnap(t, i, managerYAML("1")))
	started := 0
	for n := range 8 {
		name := fmt.Sprintf("vm@%d", n)
		begun := make(chan struct{})
		go func() {
			defer close(begun)
			_, _ = s.try(`snapctl workload start ` + name + ` -- sh -c 'echo >>$SNAP_COMMON/` + name + `; exec sleep infinity'`)
		}()
		// Each time a little later, by the work of so many others.
		for range n {
			_ = exec.CommandContext(t.Context(), "true").Run()
		}
		i.Kill()
		i.Start()
		<-begun
		unit, lives := i.Units()["named.manager/"+name]
		if lives && len(unit.Processes) != 1 {
			t.Errorf("%s is %+v, want one process", name, unit)
		}
		if lives {
			started++
			continue
		}
		s.do("snapctl workload start " + name + " -- sleep infinity")
	}
	t.Logf("%d of 8 had been started when the daemon died", started)
	list := s.workloads()
	for n := range 8 {
		if w := list[fmt.Sprintf("vm@%d", n)]; w.State != "running" || len(w.PIDs) != 1 {
			t.Errorf("vm@%d is %+v", n, w)
		}
	}
	i.Tenure("remove", "named")
}
