package policy

import (
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"tenure"
)

// finish adds what follows from all items together, and from what the administrator's
// rules have against the change as a whole.
func (p Plan) finish(vetoes []Ruling) Plan {
	var refusing []Item
	for _, item := range p.Items {
		switch item.Verdict {
		case tenure.Refuse:
			refusing = append(refusing, item)
		case tenure.Defer:
			p.Waits = append(p.Waits, item.Unit)
		case tenure.Restart, tenure.Reload, tenure.HandOver, tenure.Endure, tenure.Stop:
		}
	}
	if len(refusing)+len(vetoes) > 0 {
		p.Refusal = p.refusal(refusing, vetoes)
	}
	p.Summary = p.summary()
	return p
}

func (p Plan) refusal(items []Item, vetoes []Ruling) *Refusal {
	refusal := &Refusal{}
	var texts, remedies []string
	for _, veto := range vetoes {
		refusal.Rules = append(refusal.Rules, veto.Rule)
		texts = append(texts, fmt.Sprintf("rule %s of the administrator says: %s", veto.Rule, veto.Value))
		remedies = []string{"change the rule, or use --force"}
	}
	for _, item := range items {
		refusal.Units = append(refusal.Units, item.Unit)
		text := item.Rule.Text
		if item.Wanted == tenure.Defer {
			text += ", and waiting is not supported yet"
		}
		texts = append(texts, fmt.Sprintf("%s (%s): %s", item.Unit, item.processText(), text))
		if item.Remedy != "" && !slices.Contains(remedies, item.Remedy) {
			remedies = append(remedies, item.Remedy)
		}
	}
	refusal.Text = fmt.Sprintf("cannot %s: %s", p.Change, strings.Join(texts, "; "))
	refusal.Remedy = strings.Join(remedies, "; ")
	return refusal
}

func (p Plan) summary() string {
	var counts []string
	for _, verdict := range tenure.Verdicts() {
		n := 0
		for _, item := range p.Items {
			if item.Verdict == verdict {
				n++
			}
		}
		if n > 0 {
			counts = append(counts, fmt.Sprintf("%d %s", n, verdict))
		}
	}
	if n := len(p.Strays); n > 0 {
		counts = append(counts, fmt.Sprintf("%d in no unit", n))
	}
	if len(counts) == 0 {
		return p.Change.String() + ": no unit is touched"
	}
	return p.Change.String() + ": " + strings.Join(counts, ", ")
}

// String is the change in the words of the command line: "refresh virt 12 -> 13".
func (c Change) String() string {
	words := []string{string(c.Reason)}
	if c.Reason == tenure.ReasonRefresh && c.From.IsZero() && !c.To.IsZero() {
		return strings.Join([]string{"install", string(c.Snap), c.To.String()}, " ")
	}
	switch {
	case len(c.Units) > 0:
		for _, unit := range c.Units {
			words = append(words, unit.String())
		}
	case c.Snap != "":
		words = append(words, string(c.Snap))
	}
	if !c.To.IsZero() && c.To != c.From {
		words = append(words, fmt.Sprintf("%s -> %s", c.From, c.To))
	}
	return strings.Join(words, " ")
}

// String is the plan as a person reads it, aligned for a terminal.
func (p Plan) String() string {
	var b strings.Builder
	b.WriteString(p.Change.String() + "\n")
	p.table(&b)
	if p.Evacuate != nil && p.Refusal == nil {
		b.WriteString("before anything stops: " + p.Evacuate.String() + "\n")
	}
	for _, unit := range p.New {
		b.WriteString("new service: " + unit.String() + "\n")
	}
	for _, stray := range p.Strays {
		fmt.Fprintf(&b, "stop, though in no unit: %d %s of %s\n", stray.PID, Program(stray.CommandLine), stray.Revision)
	}
	if p.Base != "" {
		b.WriteString("note: " + p.Base + "\n")
	}
	for _, note := range p.Notes {
		fmt.Fprintf(&b, "note: %s\n", note)
	}
	for _, item := range p.Items {
		for _, note := range item.Notes {
			fmt.Fprintf(&b, "note: %s: %s\n", item.Unit, note)
		}
	}
	for _, warning := range p.Warnings {
		fmt.Fprintf(&b, "warning: %s\n", warning)
	}
	if len(p.Waits) > 0 && p.Refusal == nil {
		var names []string
		for _, unit := range p.Waits {
			names = append(names, unit.String())
		}
		b.WriteString("waits for: " + strings.Join(names, ", ") + "\n")
	}
	if p.Refusal != nil {
		b.WriteString("error: " + p.Refusal.Text + "\n")
		b.WriteString("what to do: " + p.Refusal.Remedy + "\n")
	}
	b.WriteString(p.Summary + "\n")
	return b.String()
}

// WriteTo writes String.
func (p Plan) WriteTo(w io.Writer) (int64, error) {
	n, err := io.WriteString(w, p.String())
	return int64(n), err
}

// WaitText names whom the plan waits for: "db.server (200 203 postgres)".
func (p Plan) WaitText() string {
	var names []string
	for i := range p.Items {
		if item := &p.Items[i]; item.Verdict == tenure.Defer {
			names = append(names, fmt.Sprintf("%s (%s)", item.Unit, processText(item.Awaited())))
		}
	}
	return strings.Join(names, ", ")
}

// Awaited are the processes that a deferral waits for, and the command line of the first.
func (i *Item) Awaited() (processes []tenure.Process, command string) {
	if len(i.Awaits) == 0 {
		return i.Processes, i.Command
	}
	for _, p := range i.Awaits {
		processes = append(processes, p.Process)
	}
	return processes, i.Awaits[0].CommandLine
}

func (p Plan) table(b *strings.Builder) {
	if len(p.Items) == 0 {
		return
	}
	rows := [][]string{{"Unit", "Rev", "Verdict", "Processes", "Stop", "Keeps", "Rule"}}
	for _, item := range p.Items {
		rows = append(rows, []string{
			item.Unit.String(), item.Revision.String(), item.verdictText(), item.processText(),
			protocolText(item.Stop), item.pinText(), item.Rule.String(),
		})
	}
	writeTable(b, rows)
}

// writeTable aligns columns with two spaces between them.
func writeTable(b *strings.Builder, rows [][]string) {
	widths := make([]int, len(rows[0]))
	for _, row := range rows {
		for i, cell := range row {
			widths[i] = max(widths[i], utf8.RuneCountInString(cell))
		}
	}
	for _, row := range rows {
		var line strings.Builder
		for i, cell := range row {
			line.WriteString(cell + strings.Repeat(" ", widths[i]-utf8.RuneCountInString(cell)+2))
		}
		b.WriteString(strings.TrimRight(line.String(), " ") + "\n")
	}
}

func (i *Item) verdictText() string {
	if i.Stale {
		return string(i.Verdict) + " (stale)"
	}
	return string(i.Verdict)
}

func (i *Item) processText() string { return processText(i.Processes, i.Command) }

// processText names processes: the pids, and the program of the first.
func processText(processes []tenure.Process, command string) string {
	if len(processes) == 0 {
		return "not running"
	}
	const most = 3
	var pids []string
	for _, p := range processes {
		pids = append(pids, strconv.Itoa(p.PID))
	}
	if more := len(pids) - most; more > 0 {
		pids = append(pids[:most], fmt.Sprintf("+%d", more))
	}
	return strings.Join(pids, " ") + " " + Program(command)
}

// Program is the name of the program in a command line, fit for a terminal.
func Program(commandLine string) string {
	name, _, _ := strings.Cut(commandLine, " ")
	if strings.HasPrefix(commandLine, "[") {
		if end := strings.IndexByte(commandLine, ']'); end > 0 {
			name = commandLine[:end+1]
		}
	} else if slash := strings.LastIndexByte(name, '/'); slash >= 0 {
		name = name[slash+1:]
	}
	return strings.Map(printable, strings.TrimSuffix(name, ":")) // As "postgres: writer" calls itself.
}

func printable(r rune) rune {
	if !strconv.IsPrint(r) {
		return '?'
	}
	return r
}

func protocolText(p *Protocol) string {
	if p == nil {
		return "-"
	}
	text := fmt.Sprintf("%s to %s, %s", p.Signal, p.Target, formatDuration(p.Timeout))
	if p.Command {
		text = "command, " + text
	}
	if p.Kill == KillNever {
		return text + ", no kill"
	}
	return text
}

func (i *Item) pinText() string {
	if len(i.Pins) == 0 {
		return "-"
	}
	var refs []string
	for _, ref := range i.Pins {
		refs = append(refs, ref.String())
	}
	return strings.Join(refs, " ")
}

// String is the rule with who made it: "package: apps.virtd.refresh-mode". The name of
// a default says that it is one.
func (r Rule) String() string {
	if r.Source == Default {
		return r.Name
	}
	return string(r.Source) + ": " + r.Name
}

// formatDuration is a duration without the zeros that its String has at the end.
func formatDuration(d time.Duration) string {
	const day = 24 * time.Hour
	if d >= day && d%day == 0 {
		return fmt.Sprintf("%dd", d/day)
	}
	text := d.String()
	if strings.HasSuffix(text, "m0s") {
		text = strings.TrimSuffix(text, "0s")
	}
	if strings.HasSuffix(text, "h0m") {
		text = strings.TrimSuffix(text, "0m")
	}
	return text
}
