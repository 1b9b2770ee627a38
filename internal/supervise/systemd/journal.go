package systemd

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"net"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"tenure"
	"tenure/internal/supervise"
	"tenure/internal/supervise/native"
)

// The fields by which the lines of a unit are found.
const (
	unitField = "TENURE_UNIT"
	rootField = "TENURE_ROOT"
)

// journal reads what units wrote from systemd's journal, by journalctl(1): its files are compressed
// and change from version to version, and the library that reads them is C.
type journal struct {
	names  names
	floors floors
}

var _ supervise.LogReader = (*journal)(nil)

// Logs implements supervise.LogReader.
func (j *journal) Logs(ctx context.Context, units []tenure.UnitID, n int, follow bool) iter.Seq2[supervise.LogLine, error] {
	return func(yield func(supervise.LogLine, error) bool) {
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		if err := synchronizeSoon(ctx); err != nil {
			yield(supervise.LogLine{}, err)
			return
		}
		cmd := exec.CommandContext(ctx, "journalctl", j.arguments(units, n, follow)...)
		cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
		cmd.Env = []string{"PATH=/usr/bin:/bin", "LC_ALL=C.UTF-8"}
		out, err := cmd.StdoutPipe()
		if err == nil {
			err = cmd.Start()
		}
		if err != nil {
			yield(supervise.LogLine{}, fmt.Errorf("read the journal: %w", err))
			return
		}
		ended := j.read(out, units, yield)
		cancel()
		if err := cmd.Wait(); err != nil && !ended && ctx.Err() == nil {
			yield(supervise.LogLine{}, fmt.Errorf("read the journal: %w", err))
		}
	}
}

// journalSocket is where the journal is spoken to (io.systemd.Journal, by varlink).
const journalSocket = "/run/systemd/journal/io.systemd.journal"

// syncPatience is how long the journal may take to have all that was written. It answers only
// when nobody writes any more: not at all while somebody writes as fast as it reads.
const syncPatience = 2 * time.Second

// synchronizeSoon is synchronize for who would rather have what there is than wait; who has little time has half of it left then.
func synchronizeSoon(ctx context.Context) error {
	patience := syncPatience
	if deadline, bounded := ctx.Deadline(); bounded {
		patience = min(patience, time.Until(deadline)/2)
	}
	soon, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	err := synchronize(soon)
	if soon.Err() != nil && ctx.Err() == nil {
		return nil
	}
	return err
}

// synchronize returns when the journal has all that was written so far.
func synchronize(ctx context.Context) error {
	var dialer net.Dialer
	conn, err := dialer.DialContext(ctx, "unix", journalSocket)
	if err != nil {
		return fmt.Errorf("ask the journal: %w", err)
	}
	defer conn.Close() //nolint:errcheck // The answer is what counts.
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Now()) })
	defer stop()
	if _, err := conn.Write([]byte(`{"method":"io.systemd.Journal.Synchronize","parameters":{}}` + "\x00")); err != nil {
		return fmt.Errorf("ask the journal: %w", err)
	}
	if _, err := bufio.NewReader(conn).ReadBytes(0); err != nil {
		return fmt.Errorf("ask the journal: %w", err)
	}
	return nil
}

// read yields lines until there are no more, or nobody wants more.
func (j *journal) read(out io.Reader, units []tenure.UnitID, yield func(supervise.LogLine, error) bool) (ended bool) {
	lines := bufio.NewReader(out)
	for {
		text, err := lines.ReadBytes('\n')
		if err != nil {
			return false
		}
		line, ok := j.parse(text, units)
		if ok && !yield(line, nil) {
			return true
		}
	}
}

// arguments are those of journalctl. Lines are found by the fields that the units of services give
// them, and those of who was moved to a scope by its name.
func (j *journal) arguments(units []tenure.UnitID, n int, follow bool) []string {
	count := "all"
	if n >= 0 {
		count = strconv.Itoa(n)
	}
	args := []string{"--output=json", "--no-pager", "--quiet", "--all", "--lines=" + count, "--output-fields=MESSAGE,_PID," + unitField + ",_SYSTEMD_UNIT"}
	if follow {
		args = append(args, "--follow")
	}
	if floor := j.floors.of(units); !floor.IsZero() {
		args = append(args, "--since=@"+strconv.FormatFloat(float64(floor.UnixMicro())/1e6, 'f', 6, 64))
	}
	args = append(args, rootField+"="+j.names.prefix)
	for _, unit := range units {
		args = append(args, unitField+"="+unit.String())
	}
	for _, unit := range units {
		if unit.Kind == tenure.Workload || unit.Kind == tenure.AppRun {
			args = append(args, "+", "_SYSTEMD_UNIT="+j.names.numbered(unit, 1, scope))
		}
	}
	return args
}

// entry is a line of journalctl's.
type entry struct {
	Cursor  string          `json:"__CURSOR"`
	Time    string          `json:"__REALTIME_TIMESTAMP"`
	PID     string          `json:"_PID"`
	Unit    string          `json:"TENURE_UNIT"`
	In      string          `json:"_SYSTEMD_UNIT"`
	Message json.RawMessage `json:"MESSAGE"`
}

func (j *journal) parse(text []byte, units []tenure.UnitID) (line supervise.LogLine, ok bool) {
	var e entry
	if json.Unmarshal(text, &e) != nil {
		return line, false
	}
	unit, err := tenure.ParseUnit(e.Unit)
	if err != nil || !slices.Contains(units, unit) {
		var owned bool
		if unit, _, owned = j.names.parse(e.In); !owned {
			return line, false
		}
	}
	micros, err := strconv.ParseInt(e.Time, 10, 64)
	if err != nil {
		return line, false
	}
	at := time.UnixMicro(micros)
	if at.Before(j.floors.of([]tenure.UnitID{unit})) {
		return line, false
	}
	pid, _ := strconv.Atoi(e.PID) // 0 where nobody knows.
	return supervise.LogLine{Time: at, Unit: unit, PID: pid, Text: message(e.Message), Place: placeOf(e.Cursor)}, true
}

// message is a text, which is an array of bytes where it is not printable.
func message(raw json.RawMessage) string {
	var text string
	if json.Unmarshal(raw, &text) == nil {
		return text
	}
	var numbers []uint16
	if json.Unmarshal(raw, &numbers) != nil {
		return ""
	}
	bytes := make([]byte, len(numbers))
	for i, number := range numbers {
		bytes[i] = byte(number) //nolint:gosec // They are bytes.
	}
	return string(bytes)
}

// placeOf is the sequence number in a cursor.
func placeOf(cursor string) supervise.LogPlace {
	for field := range strings.SplitSeq(cursor, ";") {
		if number, ok := strings.CutPrefix(field, "i="); ok {
			if n, err := strconv.ParseInt(number, 16, 64); err == nil {
				return supervise.LogPlace{End: n}
			}
		}
	}
	return supervise.LogPlace{}
}

// keeper is a holder that has no logs: they are in the journal.
type keeper struct {
	native.Holder

	journal *journal
}

// Log implements native.Holder. What units write goes to the journal by itself.
func (keeper) Log(context.Context, tenure.UnitID) (*os.File, error) {
	return nil, fmt.Errorf("log: %w", errors.ErrUnsupported)
}

// DropLogs implements native.Holder: what is written so far is not shown any more.
func (k keeper) DropLogs(_ context.Context, snap tenure.Instance) error {
	return k.journal.floors.raise(string(snap), time.Now())
}

// DropLog implements native.Holder.
func (k keeper) DropLog(_ context.Context, unit tenure.UnitID) error {
	return k.journal.floors.raise(unit.String(), time.Now())
}

var _ native.Holder = keeper{}

// runsShown is for how long the name of a run can be given again.
const runsShown = 24 * time.Hour

// floors are the times before which nothing is shown of a snap or a unit. The journal itself
// is the administrator's.
type floors struct {
	path string

	mu sync.Mutex
	// times are nil before they are read.
	times map[string]time.Time
}

// of is the earliest time from which on anything is shown of any of the units.
func (f *floors) of(units []tenure.UnitID) time.Time {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.load()
	var least time.Time
	for i, unit := range units {
		floor := f.times[unit.String()]
		if whole := f.times[string(unit.Snap)]; whole.After(floor) {
			floor = whole
		}
		if i == 0 || floor.Before(least) {
			least = floor
		}
	}
	return least
}

func (f *floors) load() {
	if f.times != nil {
		return
	}
	f.times = make(map[string]time.Time)
	if text, err := os.ReadFile(f.path); err == nil {
		_ = json.Unmarshal(text, &f.times) // What is half written hides nothing.
	}
}

func (f *floors) raise(name string, to time.Time) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.load()
	f.times[name] = to
	for old, at := range f.times {
		if strings.Contains(old, "~") && to.Sub(at) > runsShown {
			delete(f.times, old) // Nobody gives that name again.
		}
	}
	text, err := json.Marshal(f.times)
	if err == nil {
		err = replace(f.path, text, 0o600)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("drop logs of %s: %w", name, err)
	}
	return nil
}
