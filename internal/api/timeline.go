package api

import (
	"fmt"
	"net/http"
	"time"

	"tenure"
	"tenure/client"
	"tenure/internal/change"
	"tenure/internal/policy"
	"tenure/internal/proc"
	"tenure/internal/refresh"
)

func (s *server) timeline(r *http.Request) (*reply, error) {
	var snap tenure.Instance
	var since time.Time
	var err error
	if name := r.FormValue("for"); name != "" {
		if snap, err = tenure.ParseInstance(name); err != nil {
			return nil, err
		}
	}
	if text := r.FormValue("since"); text != "" {
		if since, err = time.Parse(time.RFC3339Nano, text); err != nil {
			return nil, bad(fmt.Sprintf("since should be a time in RFC 3339 format; it is %q", text))
		}
	}
	found, err := s.cfg.Manager.Timeline(r.Context(), snap, since)
	if err != nil {
		return nil, err
	}
	answer := client.Timeline{Since: found.Since, Until: found.Until, Units: []client.TimelineUnit{}, Changes: []client.TimelineChange{}}
	for i := range found.Units {
		answer.Units = append(answer.Units, lineOf(&found.Units[i]))
	}
	for i := range found.Changes {
		answer.Changes = append(answer.Changes, changeLineOf(&found.Changes[i]))
	}
	return &reply{result: answer}, nil
}

func lineOf(line *refresh.Line) client.TimelineUnit {
	unit := client.TimelineUnit{
		Snap: string(line.Snap), Kind: "stray", Bars: []client.TimelineBar{}, Events: []client.TimelineEvent{},
	}
	if !line.Unit.IsZero() {
		unit.Unit, unit.Kind = line.Unit.String(), string(line.Unit.Kind)
	}
	for i := range line.Bars {
		unit.Bars = append(unit.Bars, barOf(&line.Bars[i]))
	}
	for i := range line.Happenings {
		unit.Events = append(unit.Events, eventOf(&line.Happenings[i]))
	}
	return unit
}

func barOf(bar *refresh.Bar) client.TimelineBar {
	result := client.TimelineBar{
		Revision: bar.Revision.String(), From: bar.From, Ready: bar.Ready, To: bar.To, Change: changeID(bar.Change), EndedBy: changeID(bar.EndedBy),
		Reason: string(bar.Reason), Cause: string(bar.Cause), Parent: unitName(bar.Parent), Became: unitName(bar.Became),
		Reloaded: bar.Reloaded, Unseen: bar.Unseen, Command: bar.Command, Exit: exitOf(bar.Exit),
	}
	if bar.Main.PID != 0 {
		result.Main = &client.TimelineProcess{PID: bar.Main.PID, Start: bar.Main.Start}
	}
	return result
}

func exitOf(exit *proc.Exit) *client.TimelineExit {
	if exit == nil {
		return nil
	}
	return &client.TimelineExit{Known: exit.Known, Code: exit.Code, Signal: exit.Signal, Text: exit.String()}
}

func unitName(unit tenure.UnitID) string {
	if unit.IsZero() {
		return ""
	}
	return unit.String()
}

func changeID(id change.ID) string {
	if id == 0 {
		return ""
	}
	return id.String()
}

func eventOf(h *refresh.Happening) client.TimelineEvent {
	event := client.TimelineEvent{
		Time: h.Time, Kind: h.Kind, Signal: h.Signal, Late: h.Late, Whole: h.Whole, Helper: h.Helper, Command: h.Command, Others: h.Others,
		Reason: string(h.Reason), Change: changeID(h.Change), Cause: string(h.Cause), Verdict: string(h.Verdict),
	}
	if !h.Revision.IsZero() {
		event.Revision = h.Revision.String()
	}
	if h.Rule.Name != "" {
		rule := ruleOf(h.Rule)
		event.Rule = &rule
	}
	for _, process := range h.Process {
		event.Processes = append(event.Processes, client.TimelineProcess{PID: process.PID, Start: process.Start})
	}
	return event
}

func ruleOf(rule policy.Rule) client.TimelineRule {
	return client.TimelineRule{Source: string(rule.Source), Name: rule.Name, Text: rule.Text}
}

func changeLineOf(line *refresh.ChangeLine) client.TimelineChange {
	c := &line.Change
	result := client.TimelineChange{
		ID: c.ID.String(), Kind: c.Kind, Summary: c.Summary, Status: string(c.Status), Err: c.Err, Spawned: c.Spawned, ReadyAt: c.Ready,
	}
	if c.WaitingFor != nil {
		result.Waiting = c.WaitingFor.For
	}
	for _, snap := range c.Snaps {
		result.Snaps = append(result.Snaps, string(snap))
	}
	for _, plan := range line.Plans {
		for i := range plan.Items {
			item := &plan.Items[i]
			result.Verdicts = append(result.Verdicts, client.TimelineVerdict{
				Unit: item.Unit.String(), Revision: item.Revision.String(), Verdict: string(item.Verdict), Rule: ruleOf(item.Rule),
			})
		}
	}
	return result
}
