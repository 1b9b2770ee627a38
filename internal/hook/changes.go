package hook

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"
	"unicode"

	"tenure/internal/change"
)

// statusError is an exit status that says all there is to say.
type statusError int

func (s statusError) Error() string { return fmt.Sprintf("exit status %d", int(s)) }

// The exit statuses of is-ready beside 0, which is that all was done, and 1, which
// is any error; they are snapd's.
const (
	errNotDone  statusError = 2
	errNotReady statusError = 3
)

// isReady says by its exit status how a change stands.
func isReady(host Host, caller Caller, args []string) error {
	if len(args) != 1 {
		return usage("snapctl is-ready CHANGE")
	}
	c, err := changeOf(host, caller, args)
	switch {
	case err != nil:
		return err
	case !c.Status.Ready():
		return errNotReady
	case c.Status != change.Done:
		return errNotDone
	}
	return nil
}

func changeOf(host Host, caller Caller, args []string) (change.Change, error) {
	if len(args) == 0 {
		return host.Change(caller, 0)
	}
	id, err := change.ParseID(args[0])
	if err != nil {
		return change.Change{}, err
	}
	return host.Change(caller, id)
}

// tasks shows a change with its tasks, as a table or as the API would.
func tasks(host Host, caller Caller, command string, args []string, w io.Writer) error {
	fs := flag.NewFlagSet(command, flag.ContinueOnError)
	format := fs.String("format", "", "")
	rest, err := flags(fs, args)
	if err != nil {
		return err
	}
	if len(rest) > 1 || *format != "" && *format != "json" {
		return usage("snapctl " + command + " [--format=json] [CHANGE]")
	}
	c, err := changeOf(host, caller, rest)
	if err != nil {
		return err
	}
	if *format == "json" {
		return json.NewEncoder(w).Encode(shapeOf(&c))
	}
	table := tabwriter.NewWriter(w, 2, 2, 2, ' ', 0)
	fmt.Fprintln(table, "Status\tSpawn\tReady\tSummary") //nolint:errcheck // Flush tells.
	for i := range c.Tasks {
		t := &c.Tasks[i]
		fmt.Fprintf(table, "%s\t%s\t%s\t%s\n", t.Status, moment(t.Spawned), moment(t.Ready), t.Summary) //nolint:errcheck // Flush tells.
	}
	return table.Flush()
}

func moment(t time.Time) string {
	if t.IsZero() {
		return "-"
	}
	return t.UTC().Format(time.RFC3339)
}

// changeShape is a change in the shape of snapd's REST API, which is that of
// its snapctl too.
type changeShape struct {
	ID      string      `json:"id"`
	Kind    string      `json:"kind"`
	Summary string      `json:"summary"`
	Status  string      `json:"status"`
	Tasks   []taskShape `json:"tasks"`
	Ready   bool        `json:"ready"`
	Err     string      `json:"err,omitempty"`
	Spawned time.Time   `json:"spawn-time"`
	ReadyAt time.Time   `json:"ready-time,omitzero"`
}

type taskShape struct {
	ID       string        `json:"id"`
	Kind     string        `json:"kind"`
	Summary  string        `json:"summary"`
	Status   string        `json:"status"`
	Log      []string      `json:"log,omitempty"`
	Progress progressShape `json:"progress"`
	Spawned  time.Time     `json:"spawn-time"`
	ReadyAt  time.Time     `json:"ready-time,omitzero"`
}

type progressShape struct {
	Label string `json:"label"`
	Done  int64  `json:"done"`
	Total int64  `json:"total"`
}

func shapeOf(c *change.Change) changeShape {
	shape := changeShape{
		ID: c.ID.String(), Kind: c.Kind, Summary: c.Summary, Status: string(c.Status), Tasks: []taskShape{},
		Ready: c.Status.Ready(), Err: c.Err, Spawned: c.Spawned, ReadyAt: c.Ready,
	}
	for i := range c.Tasks {
		t := &c.Tasks[i]
		shape.Tasks = append(shape.Tasks, taskShape{
			ID: t.ID, Kind: t.Kind, Summary: t.Summary, Status: string(t.Status), Log: t.Log,
			Progress: progressShape{Label: t.Progress.Label, Done: t.Progress.Done, Total: max(t.Progress.Total, 1)},
			Spawned:  t.Spawned, ReadyAt: t.Ready,
		})
	}
	return shape
}

// fail makes the change of a hook fail.
func fail(host Host, caller Caller, args []string) error {
	message := oneLine(strings.Join(args, " "))
	if message == "" {
		return usage("snapctl fail MESSAGE")
	}
	return host.Fail(caller, message)
}

// progress says how far a hook has come.
func progress(host Host, caller Caller, args []string) error {
	const want = "snapctl progress [DONE TOTAL] MESSAGE"
	var p change.Progress
	if len(args) >= 2 {
		done, notDone := strconv.ParseInt(args[0], 10, 64)
		total, noTotal := strconv.ParseInt(args[1], 10, 64)
		if notDone == nil && noTotal == nil {
			if done < 0 || total < 1 || done > total {
				return errors.New("progress is between 0 and the total, which is 1 at least")
			}
			p.Done, p.Total, args = done, total, args[2:]
		}
	}
	if p.Label = oneLine(strings.Join(args, " ")); p.Label == "" {
		return usage(want)
	}
	return host.Progress(caller, p)
}

// maxMessage bounds what a package has people read in one line, in characters.
const maxMessage = 400

// oneLine is text as it may be printed on anybody's terminal.
func oneLine(text string) string {
	text = strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return ' '
		}
		return r
	}, strings.TrimSpace(text))
	if runes := []rune(text); len(runes) > maxMessage {
		text = string(runes[:maxMessage-1]) + "…"
	}
	return text
}
