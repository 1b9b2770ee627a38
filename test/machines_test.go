package test

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"tenure"
	"tenure/test/rig"
)

// machines is how many a manager has.
const machines = 10

// managerOfShells packs a snap that starts machines which cost nothing: each is a shell
// that says, in a file of its own in "machines", that it lives, and in "log" that it has
// been ended.
func managerOfShells(t *testing.T, i *rig.Instance) string {
	t.Helper()
	dir := t.TempDir()
	writeFile(t, filepath.Join(dir, "meta/snap.yaml"), `
name: manager
version: '1'
base: debian12
apps:
  virtd:
    command: bin/virtd
    daemon: forking
    stop-mode: sigterm
    lifecycle:
      workloads:
        vm: {match: '/bin/machine '}
`)
	writeFile(t, filepath.Join(dir, "bin/virtd"), fmt.Sprintf(`#!/bin/sh
mkdir -p "$SNAP_COMMON/machines"
sleep infinity & # The oldest that is left is the main process.
n=0
while [ $n -lt %d ]; do
	if [ ! -e "$SNAP_COMMON/machines/$n" ]; then setsid "$SNAP/bin/machine" $n </dev/null >/dev/null 2>&1 & fi
	n=$((n+1))
done
while [ $n -gt 0 ]; do
	n=$((n-1))
	until [ -e "$SNAP_COMMON/machines/$n" ]; do sleep 0.05; done # Now it hears signals.
done
`, machines))
	writeFile(t, filepath.Join(dir, "bin/machine"), `#!/bin/sh
n=$1
trap 'echo "shut down" >>"$SNAP_COMMON/log"; kill $sleeper; rm "$SNAP_COMMON/machines/$n"; exit 0' TERM
sleep infinity &
sleeper=$!
echo $$ >"$SNAP_COMMON/$n.new"
mv "$SNAP_COMMON/$n.new" "$SNAP_COMMON/machines/$n"
while :; do wait $sleeper; done
`)
	file := dir + ".snap"
	i.Tenure("pack", "--compression", "lz4", dir, file)
	return file
}

// livingMachines are the machines of a manager, by their command lines: as many as it
// has, each a unit of its own.
func livingMachines(t *testing.T, i *rig.Instance) map[string]tenure.Process {
	t.Helper()
	again := time.NewTicker(20 * time.Millisecond)
	defer again.Stop()
	for timeout := time.After(rig.Patience); ; {
		found := map[string]tenure.Process{}
		for _, unit := range i.Units() {
			for _, p := range unit.Processes {
				if unit.Kind == string(tenure.Workload) && strings.Contains(p.Command, "/bin/machine ") {
					found[p.Command] = tenure.Process{PID: p.PID, Start: p.Start}
				}
			}
		}
		if len(found) == machines {
			return found
		}
		select {
		case <-again.C:
		case <-timeout:
			t.Fatalf("there are %d machines: %v", len(found), found)
		}
	}
}
