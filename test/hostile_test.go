package test

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
	"unicode"

	"github.com/google/go-cmp/cmp"

	"tenure"
	"tenure/client"
	"tenure/examples/clients/hello"
	"tenure/test/hostile"
	"tenure/test/rig"
)

const (
	hostileWorkers = 4
	hostileSeed    = 20261126
	// hostileMemory is what the daemon, and each process that reads for it, may
	// have resident, in bytes.
	hostileMemory = 256 << 20
	// memoryPause is the time between two looks at the readers. Most live for less,
	// but not those that have much to do.
	memoryPause = 40 * time.Millisecond
)

// TestHostileSnaps gives hundreds of damaged, wrong and misleading snap files (others
// under systemd, and as many as HOSTILE says in make hostile) to a daemon on which something runs. Each is refused
// with an error that people can read and that nobody's terminal minds, or is installed,
// contained, and removed without a trace.
func TestHostileSnaps(t *testing.T) {
	t.Parallel()
	around := newSurroundings(t)
	i := rig.New(t, rig.Config{Dir: around.dir})
	i.Tenure("install", "--dangerous", snap(t, "hello", "1"))
	before, outside, inside := bystander(t, i), around.files(t, i.Root), pathsBelow(t, i.Root)
	memory := watchMemory(i.PID())

	began := time.Now()
	run := &hostileRun{t: t, i: i, canary: around.canary, cases: hostileCases(t), seed: hostileSeed, outcomes: map[string]int{}}
	if underSystemd() {
		run.seed++
	}
	t.Logf("seed %d, %d cases", run.seed, run.cases)
	var workers sync.WaitGroup
	for worker := range hostileWorkers {
		workers.Go(func() { run.work(worker) })
	}
	workers.Wait()
	run.report(time.Since(began))

	select {
	case <-i.Ended():
		t.Fatal("the daemon has ended")
	default:
	}
	memory.check(t)
	if diff := cmp.Diff(before, bystander(t, i)); diff != "" {
		t.Errorf("what was installed before has changed (-before +after):\n%s", diff)
	}
	if diff := cmp.Diff(outside, around.files(t, i.Root)); diff != "" {
		t.Errorf("files outside the root have changed (-before +after):\n%s", diff)
	}
	if diff := cmp.Diff(inside, pathsBelow(t, i.Root)); diff != "" {
		t.Errorf("something is left in the root (-before +after):\n%s", diff)
	}
}

// hostileCases is how many there are.
func hostileCases(t *testing.T) int {
	t.Helper()
	asked := os.Getenv("HOSTILE")
	if asked == "" {
		return often(150, 30)
	}
	n, err := strconv.Atoi(asked)
	if err != nil {
		t.Fatalf("HOSTILE: %v", err)
	}
	return n
}

// hostileRun is what the workers share.
type hostileRun struct {
	t      *testing.T
	i      *rig.Instance
	canary string
	cases  int
	seed   uint64
	// renamed is held for cases whose name another worker's may have as well.
	renamed sync.Mutex

	mu       sync.Mutex
	outcomes map[string]int
}

// work does every hostileWorkers-th case.
func (r *hostileRun) work(worker int) {
	ctx := r.t.Context()
	dir := r.t.TempDir()
	maker, err := hostile.New(ctx, hostile.Config{Dir: dir, Canary: r.canary, Prefix: fmt.Sprintf("h%d", worker), Seed: r.seed})
	if err != nil {
		r.t.Error(err)
		return
	}
	daemon := r.i.Client()
	for n := worker; n < r.cases && ctx.Err() == nil; n += hostileWorkers {
		made, err := maker.Make(ctx, n)
		if err != nil {
			r.t.Error(err)
			return
		}
		if made.Renamed {
			r.renamed.Lock()
		}
		outcome, err := r.try(ctx, daemon, made)
		if made.Renamed {
			r.renamed.Unlock()
		}
		if err != nil {
			r.t.Errorf("case %d (%s: %s): %v", n, made.Kind, made.What, err)
		}
		r.mu.Lock()
		r.outcomes[made.Kind+": "+outcome]++
		r.mu.Unlock()
	}
}

// try installs one file, and removes what was installed.
func (r *hostileRun) try(ctx context.Context, daemon *client.Client, made hostile.Case) (outcome string, err error) {
	ctx, cancel := context.WithTimeout(ctx, 2*rig.Patience)
	defer cancel()
	id, err := daemon.Do(ctx, client.Action{Action: "install", Files: []string{made.File}, Dangerous: true})
	if err != nil {
		return "refused", r.clear(err, made)
	}
	change, aborted, err := awaitOrAbort(ctx, daemon, id)
	switch {
	case err != nil:
		return "lost", err
	case aborted && change.Status != "Done":
		return "aborted", nil
	case change.Status != "Done":
		return "undone", clearText(change.Err)
	}
	err = r.contained(ctx, daemon, change.Snaps())
	id, removeErr := daemon.Do(ctx, client.Action{Action: "remove", Snaps: change.Snaps(), Purge: true})
	if removeErr == nil {
		change, removeErr = awaitChange(ctx, daemon, id)
	}
	if removeErr == nil && change.Status != "Done" {
		removeErr = fmt.Errorf("remove ends in status %s: %s", change.Status, change.Err)
	}
	return "installed", errors.Join(err, removeErr)
}

// hookPatience is how long an administrator of the test waits for a hook that may
// take five minutes by right, since its program was mutated into one that waits.
const hookPatience = 10 * time.Second

// awaitOrAbort waits for a change, and gives up on one that takes too long.
func awaitOrAbort(ctx context.Context, daemon *client.Client, id string) (change client.Change, aborted bool, err error) {
	patient, cancel := context.WithTimeout(ctx, hookPatience)
	defer cancel()
	change, err = awaitChange(patient, daemon, id)
	if patient.Err() == nil || ctx.Err() != nil {
		return change, false, err
	}
	_, refused := daemon.Abort(ctx, id)
	change, err = awaitChange(ctx, daemon, id)
	if refused != nil && change.Status == "Done" {
		refused = nil // It was over before it could be aborted.
	}
	return change, true, errors.Join(refused, err)
}

func awaitChange(ctx context.Context, daemon *client.Client, id string) (client.Change, error) {
	var seen uint64
	for {
		change, err := daemon.Follow(ctx, id, seen)
		if err != nil || change.Ready {
			return change, err
		}
		seen = change.Revision
	}
}

// aboutYAML is what an error about a description names: the file, the line and
// the key, what was found, and what is accepted.
var aboutYAML = regexp.MustCompile(`meta/(snap\.yaml|hooks)(:\d+)?(: [^ ]+)?: found .+; accepted: .+`)

// clear checks an answer that refuses.
func (r *hostileRun) clear(err error, made hostile.Case) error {
	refused, ok := errors.AsType[*client.Error](err)
	if !ok {
		return fmt.Errorf("no answer: %w", err)
	}
	text := refused.Message
	switch {
	case refused.Status < 400 || refused.Status >= 500:
		return fmt.Errorf("status %d, as if it were not the file's fault: %q", refused.Status, text)
	case refused.Kind == "":
		return fmt.Errorf("the error has no kind: %q", text)
	case !strings.HasPrefix(text, "cannot "):
		return fmt.Errorf("not in the words of errors: %q", text)
	case !made.Renamed && !strings.Contains(text, made.File) && !strings.Contains(text, made.Name):
		return fmt.Errorf("it names neither the file nor the snap: %q", text)
	case strings.Contains(text, "meta/snap.yaml:") && !aboutYAML.MatchString(text):
		return fmt.Errorf("it does not say what is wrong where: %q", text)
	}
	return clearText(text)
}

// clearText refuses what is no sentence, or not fit for a terminal.
func clearText(text string) error {
	switch {
	case text == "":
		return errors.New("there is no error text")
	case strings.ContainsFunc(text, func(c rune) bool {
		return unicode.IsControl(c) || unicode.Is(unicode.Cf, c) || c == unicode.ReplacementChar
	}):
		return fmt.Errorf("it is more than a line, or has control characters: %q", text)
	case len(text) > 2000:
		return fmt.Errorf("it has %d bytes: %.200q", len(text), text)
	}
	return nil
}

// contained checks what runs of snaps that were installed.
func (r *hostileRun) contained(ctx context.Context, daemon *client.Client, snaps []string) error {
	units, err := daemon.Units(ctx)
	if err != nil {
		return err
	}
	var failures []error
	for _, unit := range units {
		if !slices.Contains(snaps, unit.Snap) {
			continue
		}
		for _, p := range unit.Processes {
			failures = append(failures, r.confined(p.PID))
		}
	}
	return errors.Join(failures...)
}

// confined checks that a process sees nothing of the machine's files and cannot
// become more than it is.
func (r *hostileRun) confined(pid int) error {
	root := fmt.Sprintf("/proc/%d/root", pid)
	for _, path := range []string{r.canary, "/etc/shadow", "/bin/sh", "/usr/bin"} {
		_, err := os.Lstat(filepath.Join(root, path))
		if err == nil {
			return fmt.Errorf("process %d sees %s", pid, path)
		}
		if _, gone := os.Stat(filepath.Dir(root)); gone != nil {
			return nil //nolint:nilerr // It has ended, as it may.
		}
	}
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ESRCH) {
		return nil
	}
	if err != nil {
		return err
	}
	const admin = 1 << 21 // CAP_SYS_ADMIN
	bounding, err := strconv.ParseUint(statusField(status, "CapBnd"), 16, 64)
	if err != nil || bounding&admin != 0 || statusField(status, "NoNewPrivs") != "1" {
		return fmt.Errorf("process %d is not confined (%w):\n%s", pid, err, status)
	}
	return nil
}

func statusField(status []byte, name string) string {
	for line := range strings.Lines(string(status)) {
		if value, found := strings.CutPrefix(line, name+":"); found {
			return strings.TrimSpace(value)
		}
	}
	return ""
}

// report prints how many cases ended how, and checks that the cases were worth
// their name: some of most kinds are sound, most are not.
func (r *hostileRun) report(took time.Duration) {
	total, installed := 0, 0
	for _, outcome := range slices.Sorted(maps.Keys(r.outcomes)) {
		r.t.Logf("%5d %s", r.outcomes[outcome], outcome)
		total += r.outcomes[outcome]
		if strings.HasSuffix(outcome, ": installed") {
			installed += r.outcomes[outcome]
		}
	}
	r.t.Logf("%d cases in %s", total, took.Round(time.Second/10))
	if total != r.cases || installed < r.cases/20 || installed > r.cases/2 {
		r.t.Errorf("%d cases of %d, %d installed", total, r.cases, installed)
	}
}

// bystanderState is what must not change of what was installed before.
type bystanderState struct {
	List    string
	Files   map[string]string
	Service tenure.Process
	Answer  hello.Answer
}

func bystander(t *testing.T, i *rig.Instance) bystanderState {
	t.Helper()
	answer, err := hello.Ask(t.Context(), i.Path("var/snap/hello/common/hello.sock"))
	if err != nil {
		t.Fatal(err)
	}
	s := bystanderState{List: i.Tenure("list", "--all", "--json"), Service: i.Main("hello.hellod"), Answer: answer, Files: map[string]string{}}
	for _, dir := range []string{"snap/hello", "var/snap/hello", "var/lib/tenure/snaps"} {
		maps.Copy(s.Files, digests(t, i.Path(dir), ""))
	}
	return s
}

// digests are the files below dir with their modes, owners, times and contents;
// what is in without is left out.
func digests(t *testing.T, dir, without string) map[string]string {
	t.Helper()
	found := map[string]string{}
	err := filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if path == without && without != "" {
			return fs.SkipDir
		}
		if err != nil {
			return err
		}
		info, err := entry.Info()
		if err != nil {
			return err
		}
		stat, _ := info.Sys().(*syscall.Stat_t)
		line := fmt.Sprintf("%s %d:%d inode %d", info.Mode(), stat.Uid, stat.Gid, stat.Ino)
		if !info.IsDir() { // What is made in a directory and removed again changes its time and size.
			line += fmt.Sprintf(" %d bytes, changed %d", info.Size(), stat.Ctim.Nano())
		}
		switch {
		case info.Mode().IsRegular():
			content, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			line += fmt.Sprintf(" %x", sha256.Sum256(content))
		case info.Mode()&fs.ModeSymlink != 0:
			target, err := os.Readlink(path)
			if err != nil {
				return err
			}
			line += " -> " + target
		}
		found[path] = line
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

// pathsBelow are the paths below root, but for what a daemon that works writes.
func pathsBelow(t *testing.T, root string) []string {
	t.Helper()
	var found []string
	// Copies of the state, and since when there are lines of removed snaps in systemd's journal,
	// which is not the daemon's to clear.
	own := []string{"/var/lib/tenure/state.db.bak", "/var/lib/tenure/state.db.bak.1", "/var/lib/tenure/units/dropped"}
	for path := range digests(t, root, "") {
		path = strings.TrimPrefix(path, root)
		beingMade := strings.HasPrefix(path, "/var/lib/tenure/.state.db.bak-")
		if !beingMade && !slices.Contains(own, path) {
			found = append(found, path)
		}
	}
	slices.Sort(found)
	return found
}

// surroundings are the directory that the root is in, with what links in snaps
// point to.
type surroundings struct{ dir, canary string }

func newSurroundings(t *testing.T) surroundings {
	t.Helper()
	dir, err := os.MkdirTemp("", "tn-around-") //nolint:usetesting // Sockets need a short path.
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	s := surroundings{dir: dir, canary: filepath.Join(dir, "canary")}
	for name, content := range map[string]string{
		"canary/snap.yaml":     "name: canary\nversion: 1\nbase: bare\n",
		"canary/probe":         "#!/bin/sh\ntouch " + s.canary + "/ran\n",
		"canary/meta/sentinel": "untouched\n",
		"sibling/sentinel":     "untouched\n",
	} {
		path := filepath.Join(dir, name)
		// Everybody may write there, so that only containment keeps them out.
		err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o777), os.WriteFile(path, []byte(content), 0o777), //nolint:gosec // See above.
			os.Chmod(filepath.Dir(path), 0o777), os.Chmod(path, 0o777)) //nolint:gosec // See above.
		if err != nil {
			t.Fatal(err)
		}
	}
	return s
}

// files are those around root, and those of the machine that a process which is
// not contained would write to first.
func (s surroundings) files(t *testing.T, root string) map[string]string {
	t.Helper()
	found := digests(t, s.dir, root)
	maps.Copy(found, digests(t, "/etc", ""))
	return found
}

// memoryWatch looks again and again at the processes that read for the daemon.
type memoryWatch struct {
	daemon int
	stop   chan struct{}
	done   chan struct{}
	// seen are how many children were seen, peak what the largest had resident.
	seen int
	peak uint64
	// unlimited are children that may have more than they should.
	unlimited []string
}

func watchMemory(daemon int) *memoryWatch {
	w := &memoryWatch{daemon: daemon, stop: make(chan struct{}), done: make(chan struct{})}
	go func() {
		defer close(w.done)
		ticker := time.NewTicker(memoryPause)
		defer ticker.Stop()
		for {
			select {
			case <-ticker.C:
				w.look()
			case <-w.stop:
				return
			}
		}
	}()
	return w
}

func (w *memoryWatch) look() {
	lists, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", w.daemon))
	for _, list := range lists {
		children, err := os.ReadFile(list)
		if err != nil {
			continue // The thread has ended.
		}
		for _, pid := range strings.Fields(string(children)) {
			w.child(pid)
		}
	}
}

// ownUser is a user that only a reader is.
var ownUser = regexp.MustCompile(`^21\d{8}\t`)

func (w *memoryWatch) child(pid string) {
	status, err := os.ReadFile("/proc/" + pid + "/status")
	limits, limitsErr := os.ReadFile("/proc/" + pid + "/limits")
	if err != nil || limitsErr != nil || statusField(status, "Name") != "unsquashfs" {
		return
	}
	w.seen++
	w.peak = max(w.peak, kilobytes(status, "VmHWM"))
	line := regexp.MustCompile(`Max address space +(\S+)`).FindSubmatch(limits)
	if line == nil || string(line[1]) != strconv.Itoa(hostileMemory) || !ownUser.MatchString(statusField(status, "Uid")) {
		w.unlimited = append(w.unlimited, fmt.Sprintf("uid %s, %s", statusField(status, "Uid"), line))
	}
}

// kilobytes is a field of a status in bytes.
func kilobytes(status []byte, name string) uint64 {
	n, _ := strconv.ParseUint(strings.TrimSuffix(statusField(status, name), " kB"), 10, 64) // Zero for a process that has ended.
	return n << 10
}

func (w *memoryWatch) check(t *testing.T) {
	t.Helper()
	close(w.stop)
	<-w.done
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", w.daemon))
	if err != nil {
		t.Fatal(err)
	}
	daemon := kilobytes(status, "VmHWM")
	t.Logf("at most resident: the daemon %d MiB, the largest of %d readers that were seen %d MiB", daemon>>20, w.seen, w.peak>>20)
	if daemon == 0 || daemon > hostileMemory || w.peak > hostileMemory || w.seen == 0 {
		t.Errorf("at most resident: the daemon %d bytes, a reader %d bytes, want at most %d", daemon, w.peak, hostileMemory)
	}
	if len(w.unlimited) > 0 {
		t.Errorf("%d readers are not limited, such as: %s", len(w.unlimited), w.unlimited[0])
	}
}
