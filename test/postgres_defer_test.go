package test

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"tenure/client"
	"tenure/test/rig"
)

// atWork is what PostgreSQL calls a process that is in a transaction.
const atWork = `'^postgres: \S+ \S+ \S+ (idle in transaction|[A-Z])'`

// patient is a version of PostgreSQL whose refreshes wait for transactions.
func patient(t *testing.T, i *rig.Instance, version string) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), version)
	if out, err := exec.CommandContext(t.Context(), "unsquashfs", "-no-progress", "-d", dir, snap(t, "postgres", version)).CombinedOutput(); err != nil {
		t.Fatalf("unsquashfs: %v: %s", err, out)
	}
	yaml := filepath.Join(dir, "meta", "snap.yaml")
	text, err := os.ReadFile(yaml) //nolint:gosec // The test's own.
	if err != nil {
		t.Fatal(err)
	}
	patient := bytes.Replace(text, []byte("refresh: restart"), []byte("refresh: defer\n      defer-while: "+atWork), 1)
	if bytes.Equal(text, patient) {
		t.Fatalf("the example is not restarted any more:\n%s", text)
	}
	if err := os.WriteFile(yaml, patient, 0o600); err != nil {
		t.Fatal(err)
	}
	i.Tenure("pack", "--compression=lz4", dir, dir+".snap")
	return dir + ".snap"
}

// A refresh of a database that waits for its transactions (case 4): it says for whom
// it waits, sends no signal, and goes on when the last transaction is over, with
// everybody still connected. What waits when the machine ends is applied when it starts.
func TestPostgresIsNotInterruptedInATransaction(t *testing.T) {
	t.Parallel()
	i := rig.New(t, rig.Config{})
	i.Tenure("install", "--dangerous", snap(t, "debian12", "1"), patient(t, i, "1"))
	dir := filepath.Join(i.Common("postgres"), "run")
	next := patient(t, i, "2")
	first, second := openSession(t, dir), openSession(t, dir)
	query(t, first, "create table t (n int)")
	query(t, first, "begin; insert into t values (1)")
	before := i.Main(server)
	words := i.Tenure("logs", "-n", "all", server)

	id := waiting(t, i, i.Tenure("refresh", "--dangerous", next), first.PID())
	// Another begins, and the first is over: the change waits for the other.
	query(t, second, "begin; insert into t values (2)")
	query(t, first, "commit")
	waitingFor(t, i, id, second.PID())
	if out := i.Tenure("changes", "postgres"); !regexp.MustCompile(fmt.Sprintf(`(?m)^%s +Wait .* waiting for postgres\.server \(%d postgres\) to finish$`, id, second.PID())).MatchString(out) {
		t.Errorf("changes do not say for whom change %s waits:\n%s", id, out)
	}
	if now := i.Main(server); now != before {
		t.Errorf("the server is %v, and was %v", now, before)
	}
	if now := i.Tenure("logs", "-n", "all", server); now != words {
		t.Errorf("the server has noticed something:\n%s", strings.TrimPrefix(now, words))
	}
	untouched(t, i)
	closed := time.Now()
	query(t, second, "insert into t values (3); commit")
	if status := endOf(t, i, id); status != "Done" {
		t.Fatalf("the change is %s", status)
	}
	if unit := i.Units()[server]; unit.Revision != "x2" {
		t.Errorf("after the transactions: %+v", unit)
	}
	toldAfter(t, i, id, closed)

	last := openSession(t, dir)
	query(t, last, "begin; insert into t values (4)")
	id = waiting(t, i, i.Tenure("refresh", "--dangerous", next), last.PID())
	i.Stop()
	if r := i.Exec(filepath.Join(i.Bin, "tenured"), "shutdown", "--root", i.Root); r.Status != 0 {
		t.Fatalf("tenured shutdown: %+v", r)
	}
	i.Start()
	if status := endOf(t, i, id); status != "Done" {
		t.Errorf("the change is %s after the boot", status)
	}
	if unit := i.Units()[server]; unit.Revision != "x3" || unit.Stale || unit.Staged != "" {
		t.Errorf("after the boot: %+v", unit)
	}
	if rows := query(t, openSession(t, dir), "select n from t order by n"); strings.Join(rows, " ") != "1 2 3" {
		t.Errorf("committed were 1, 2 and 3; there are %v", rows)
	}
	log := i.Tenure("logs", "-n", "all", server)
	for _, bad := range []string{wordsUnclean, wordsRecovery, wordsKilled} {
		if strings.Contains(log, bad) {
			t.Errorf("the server wrote %q", bad)
		}
	}
}

// untouched checks that nothing of PostgreSQL has been sent a signal, ever.
func untouched(t *testing.T, i *rig.Instance) {
	t.Helper()
	units, _ := historyOf(t, i, "postgres")
	if bars := bars(units[server]); len(bars) != 1 || bars[0] != "x1 lives" {
		t.Errorf("bars of the server: %v", bars)
	}
	for name, unit := range units {
		if sent := signals(unit); len(sent) > 0 {
			t.Errorf("%s was sent %v, though a transaction was open", name, sent)
		}
	}
}

// toldAfter checks that the first signal to the server is that of a change, and that it
// was not sent before a time.
func toldAfter(t *testing.T, i *rig.Instance, change string, after time.Time) {
	t.Helper()
	units, _ := historyOf(t, i, "postgres")
	events := units[server].Events
	first := slices.IndexFunc(events, func(e client.TimelineEvent) bool { return e.Kind == "signal" })
	if first < 0 || events[first].Change != change || events[first].Time.Before(after) {
		t.Errorf("the last transaction was closed after %s, and change %s told the server: %+v", after, change, events)
	}
}

// waiting gives the change that a refresh said it left waiting for a process.
func waiting(t *testing.T, i *rig.Instance, said string, pid uint32) string {
	t.Helper()
	found := regexp.MustCompile(fmt.Sprintf(`^Change (\d+) waits for postgres\.server \(%d postgres\) to finish`, pid)).FindStringSubmatch(said)
	if found == nil {
		t.Fatalf("the refresh does not say that it waits for %d:\n%s\n%s", pid, said, i.Tenure("plan", "stop", "postgres"))
	}
	return found[1]
}

// waitingFor waits until a change waits for a process.
func waitingFor(t *testing.T, i *rig.Instance, id string, pid uint32) {
	t.Helper()
	wanted := fmt.Sprintf("(%d postgres)", pid)
	awaitTurn(t, i, id, func(c client.Change) bool { return c.Status == "Wait" && strings.Contains(c.Waiting, wanted) })
}
