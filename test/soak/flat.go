package soak

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
)

// flatness is what the daemon and the holder have needed, in samples.
type flatness struct {
	samples []sample
}

// sample is what they need after a step.
type sample struct {
	step int
	// life is the process of the daemon, holder that of its holder.
	life, holder int
	// size is how many units are alive or armed, and changes how many changes are kept: what a daemon
	// needs depends on both.
	size, changes int
	// apps are how many runs of apps are alive, and staged how many snaps have a revision that waits.
	apps, staged int
	values       map[string]float64
	// open are how many descriptors of each kind the daemon has.
	open map[string]int
}

func killHolder(pid int) error { return syscall.Kill(pid, syscall.SIGKILL) }

// sample notes what daemon and holder need now.
func (r *run) sample(ctx context.Context, n int) error {
	daemon, err := r.client.Daemon(ctx)
	if err != nil {
		return fmt.Errorf("what the daemon needs: %w", err)
	}
	values := map[string]float64{
		"daemon goroutines": float64(daemon.Needs.Goroutines), "daemon heap KiB": float64(daemon.Needs.Heap >> 10),
	}
	pids, open := map[string]int{"daemon": r.PID(), "holder": r.Holder()}, map[string]map[string]int{}
	for who, pid := range pids {
		status, err := readStatus(pid)
		if err != nil {
			return fmt.Errorf("what the %s needs: %w", who, err)
		}
		var all int
		if all, open[who], err = openOf(pid); err != nil {
			return fmt.Errorf("what the %s needs: %w", who, err)
		}
		values[who+" own KiB"] = status["RssAnon"]
		values[who+" KiB"] = status["VmRSS"]
		values[who+" threads"] = status["Threads"]
		values[who+" descriptors"] = float64(all)
	}
	if err := r.sampleFiles(values); err != nil {
		return err
	}
	r.flat.samples = append(r.flat.samples, sample{
		step: n, life: pids["daemon"], holder: pids["holder"], size: r.units, changes: r.kept, apps: r.apps, staged: r.waiting,
		values: values, open: open["daemon"],
	})
	return nil
}

// numbers are what distinguishes two descriptors of one kind.
var numbers = regexp.MustCompile(`\d+`)

// openOf is how many descriptors a process has, and how many of them are what.
func openOf(pid int) (all int, count map[string]int, err error) {
	dir := fmt.Sprintf("/proc/%d/fd", pid)
	fds, err := os.ReadDir(dir)
	count = map[string]int{}
	for _, fd := range fds {
		if what, err := os.Readlink(filepath.Join(dir, fd.Name())); err == nil { // Or it has been closed since.
			count[numbers.ReplaceAllString(what, "N")]++
		}
	}
	return len(fds), count, err
}

// sampleFiles notes what is kept of the past, and what of units.
func (r *run) sampleFiles(values map[string]float64) error {
	state := r.Path("var/lib/tenure")
	for name, of := range map[string]struct {
		dir string
		is  func(name string) bool
	}{
		"journal":    {state, func(name string) bool { return name == "state.db" }},
		"backups":    {state, func(name string) bool { return strings.HasPrefix(name, "state.db.") }},
		"history":    {filepath.Join(state, "history"), func(string) bool { return true }},
		"unit files": {r.Path("run/tenure"), ofALaunch},
	} {
		count, size, err := files(of.dir, of.is)
		if err != nil {
			return err
		}
		values[name+" KiB"] = float64(size >> 10)
		if name == "unit files" {
			values[name] = float64(count)
		}
	}
	count, _, err := files(state, func(string) bool { return true })
	if err != nil {
		return err
	}
	values["state files"] = float64(count)
	values["workload files of a snap"], err = mostWorkloads(r.Path("run/tenure"))
	return err
}

// mostWorkloads is how many workloads are known of the snap that has most of them, by their records below a directory.
func mostWorkloads(dir string) (most float64, err error) {
	count := map[string]float64{}
	_, _, err = files(dir, func(name string) bool {
		if ofAWorkload(name) {
			snap, _, _ := strings.Cut(name, ".")
			count[snap]++
			most = max(most, count[snap])
		}
		return false
	})
	return most, err
}

// ofAWorkload reports whether a file is the record of a workload. Those that have ended are kept, but for the oldest of a snap.
func ofAWorkload(name string) bool {
	return filepath.Ext(name) == ".json" && strings.Contains(name, "+")
}

// ofALaunch reports whether a file is not one of those of which each unit has one for as long as it is known: its record, and the reason that
// it was told last. Of those there are the more, the more units have ever been started, or stopped.
func ofALaunch(name string) bool {
	return name != "reason" && !ofAWorkload(name) && (filepath.Ext(name) != ".json" || strings.Contains(name, "~"))
}

// files are how many files there are below a directory, by their names, and how much is in
// them. What units have for themselves in tmp/ is theirs.
func files(dir string, is func(name string) bool) (count int, size int64, err error) {
	err = filepath.WalkDir(dir, func(_ string, entry fs.DirEntry, err error) error {
		switch {
		case errors.Is(err, fs.ErrNotExist):
			return nil
		case err != nil:
			return err
		case entry.IsDir() && entry.Name() == "tmp":
			return fs.SkipDir
		case entry.Type().IsRegular() && is(entry.Name()):
			if info, err := entry.Info(); err == nil {
				count, size = count+1, size+info.Size()
			}
		}
		return nil
	})
	return count, size, err
}

// readStatus are the numbers in /proc/PID/status.
func readStatus(pid int) (map[string]float64, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return nil, err
	}
	numbers := map[string]float64{}
	for line := range strings.Lines(string(text)) {
		key, value, _ := strings.Cut(line, ":")
		number, _, _ := strings.Cut(strings.TrimSpace(value), " ")
		if n, err := strconv.ParseFloat(number, 64); err == nil {
			numbers[key] = n
		}
	}
	return numbers, nil
}

// bounds are how much more of each may be needed at the end of half a life of the daemon
// than at its beginning: what grows with every step comes to more.
func bounds() map[string]float64 {
	return map[string]float64{
		"daemon own KiB": 4 << 10, "holder own KiB": 1 << 10, "daemon heap KiB": 1 << 10,
		"daemon threads": 6, "holder threads": 6,
		"holder descriptors": 8, "unit files": 8, "unit files KiB": 64, "state files": 40,
	}
}

// mix is by what part of it something may grow since other units run than at first: some have a socket, and some keep more.
func mix(name string) float64 {
	switch name {
	case "holder descriptors", "unit files", "unit files KiB":
		return 0.1
	}
	return 0
}

// lived is for how many steps a daemon must have lived for what it has lost track of to show.
const lived = 20

// shed says what a daemon had that the next one does not need for the same units: what it had lost track of. How much each unit
// needs differs, by its sockets and what it keeps, and which ones there are changes all the time; but hardly in the step in which one takes
// the place of the other, unless the holder ends as well, or the machine.
func (f *flatness) shed() (lost []string) {
	const bound = 16
	lives := f.lives()
	for i := 1; i < len(lives); i++ {
		before, after := lives[i-1][len(lives[i-1])-1], lives[i][0]
		if len(lives[i-1]) < lived || before.size == 0 || before.holder != after.holder {
			continue
		}
		for _, name := range []string{"daemon goroutines", "daemon descriptors"} {
			same := before.values[name]*float64(after.size)/float64(before.size) - float64(before.givenUp(name))
			if more := same - after.values[name]; more > bound {
				lost = append(lost, fmt.Sprintf("%s were %.0f too many in step %d, after %d of one daemon: %.0f with %d units, and %.0f with %d of the next one; descriptors:%s",
					name, more, before.step, len(lives[i-1]), before.values[name], before.size, after.values[name], after.size, apart(before.open, after.open)))
			}
		}
	}
	return lost
}

// givenUp is how much a daemon may need of what the next one does without: for each app that runs its namespace, a handle of its
// process, and who waits for its end; and for a staged revision the user's directory that it was copied to.
func (s *sample) givenUp(name string) int {
	if name == "daemon goroutines" {
		return s.apps
	}
	return 2*s.apps + s.staged
}

// apart says of what there were more before than after.
func apart(before, after map[string]int) string {
	var text strings.Builder
	for _, kind := range sortedNames(before) {
		if before[kind] > after[kind] {
			fmt.Fprintf(&text, " %s %d, %d", kind, before[kind], after[kind])
		}
	}
	return text.String()
}

// mostOf are what there may ever be of what is kept of the past: the changes that have ended,
// the history, and the workloads of a snap that have ended are bounded, and the journal grows by doubling.
func mostOf() map[string]float64 {
	const ended, alive = 32, 16 // Workloads of a snap.
	return map[string]float64{
		"journal KiB": 16 << 10, "backups KiB": 32 << 10, "history KiB": 9 << 10, "workload files of a snap": ended + alive,
	}
}

// perChange is what one more change that is kept may cost, in KiB: as many are kept as the
// journal keeps, and a list of them is made in memory whole.
func perChange(name string) float64 {
	switch name {
	case "daemon own KiB", "daemon heap KiB":
		return 16
	}
	return 0
}

// enough is how many steps a daemon must have lived for before it is judged.
const enough = 60

// lives are the samples of each daemon.
func (f *flatness) lives() [][]sample {
	var lives [][]sample
	for _, s := range f.samples {
		if last := len(lives) - 1; last >= 0 && lives[last][0].life == s.life {
			lives[last] = append(lives[last], s)
			continue
		}
		lives = append(lives, []sample{s})
	}
	return lives
}

// growth says what has grown beyond its bound over the second half of the life of a daemon,
// apart from what more units need, and what there was ever too much of.
func (f *flatness) growth() []string {
	var grown []string
	for _, life := range f.lives() {
		if len(life) < enough {
			continue
		}
		half := life[len(life)/2:]
		changes := half[len(half)-1].changes - half[0].changes
		for name, bound := range bounds() {
			bound += perChange(name)*float64(max(0, changes)) + mix(name)*half[0].values[name]
			if more := trend(half, name) * float64(half[len(half)-1].step-half[0].step); more > bound {
				grown = append(grown, fmt.Sprintf("%s grew by %.0f in the steps %d to %d, more than %.0f",
					name, more, half[0].step, half[len(half)-1].step, bound))
			}
		}
	}
	for name, most := range mostOf() {
		for _, s := range f.samples {
			if s.values[name] > most {
				grown = append(grown, fmt.Sprintf("%s are %.0f after step %d, more than %.0f", name, s.values[name], s.step, most))
				break
			}
		}
	}
	grown = append(grown, f.shed()...)
	slices.Sort(grown)
	return grown
}

// trend is how much a value grows with each step, by least squares over steps and the
// number of units.
func trend(samples []sample, name string) float64 {
	var n, step, size, value float64
	for _, s := range samples {
		n, step, size, value = n+1, step+float64(s.step), size+float64(s.size), value+s.values[name]
	}
	step, size, value = step/n, size/n, value/n
	var ss, sz, zz, sv, zv float64
	for _, s := range samples {
		a, b, c := float64(s.step)-step, float64(s.size)-size, s.values[name]-value
		ss, sz, zz, sv, zv = ss+a*a, sz+a*b, zz+b*b, sv+a*c, zv+b*c
	}
	if det := ss*zz - sz*sz; det > 1e-9 {
		return (sv*zz - zv*sz) / det
	}
	return sv / ss
}

// String is the curve: what was needed in the first, the middle and the last step.
func (f *flatness) String() string {
	if len(f.samples) == 0 {
		return "no samples"
	}
	var b strings.Builder
	last := len(f.samples) - 1
	for _, name := range sortedNames(f.samples[last].values) {
		fmt.Fprintf(&b, "%-20s", name)
		for part := range 5 {
			s := f.samples[last*part/4]
			fmt.Fprintf(&b, "  %8.0f", s.values[name])
		}
		b.WriteString("\n")
	}
	return b.String()
}
