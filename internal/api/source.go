package api

import (
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"tenure"
	"tenure/client"
	"tenure/internal/change"
	"tenure/internal/refresh"
	"tenure/internal/schedule"
	"tenure/internal/source"
)

func (s *server) sources(r *http.Request) (*reply, error) {
	found, err := s.cfg.Manager.Sources(r.Context())
	if err != nil {
		return nil, err
	}
	list := []client.Source{}
	for i := range found {
		one := client.Source{
			Name: found[i].Name, Kind: found[i].Kind, Location: found[i].Location, Added: found[i].Added,
			Snaps: found[i].Snaps, Releases: found[i].Releases,
		}
		for _, snap := range found[i].Used {
			one.UsedBy = append(one.UsedBy, string(snap))
		}
		for _, problem := range found[i].Problems {
			one.Problems = append(one.Problems, problem.Error())
		}
		list = append(list, one)
	}
	return &reply{result: list}, nil
}

func (s *server) sourcesAction(r *http.Request) (*reply, error) {
	var body client.SourceAction
	if err := readJSON(r, &body); err != nil {
		return nil, err
	}
	switch body.Action {
	case "add":
		added, err := s.cfg.Manager.AddSource(r.Context(), refresh.SourceConfig{Name: body.Name, Kind: body.Kind, Location: body.Location})
		if err != nil {
			return nil, err
		}
		return &reply{result: client.Source{Name: added.Name, Kind: added.Kind, Location: added.Location, Added: added.Added}}, nil
	case "remove":
		used, err := s.cfg.Manager.RemoveSource(r.Context(), body.Name)
		if err != nil {
			return nil, err
		}
		removed := client.Source{Name: body.Name}
		for _, snap := range used {
			removed.UsedBy = append(removed.UsedBy, string(snap))
		}
		return &reply{result: removed}, nil
	}
	return nil, bad(fmt.Sprintf("unsupported action %q; there are add and remove", body.Action))
}

// find answers with what sources have: updates of what is installed (select=refresh),
// one snap by its name (name), or what has a text in its name or summary (q).
func (s *server) find(r *http.Request) (*reply, error) {
	switch selected := r.FormValue("select"); selected {
	case "refresh":
		return s.updates(r)
	case "":
	default:
		return nil, bad(fmt.Sprintf("select should be refresh, or nothing; it is %q", selected))
	}
	name, text := r.FormValue("name"), r.FormValue("q")
	if name != "" {
		text = name
	}
	found, err := s.cfg.Manager.Find(r.Context(), text)
	if err != nil {
		return nil, err
	}
	snaps := []client.Offer{}
	for i := range found {
		if name == "" || found[i].Snap == name {
			snaps = append(snaps, offerOf(&found[i]))
		}
	}
	if name != "" && len(snaps) == 0 {
		return nil, &requestError{status: http.StatusNotFound, kind: "snap-not-found", message: fmt.Sprintf("no source has a snap %q", name)}
	}
	return &reply{result: snaps}, nil
}

// offerOf is what a source has of a snap: the newest release to the default channel in
// front, or to the first of its channels.
func offerOf(found *refresh.Offered) client.Offer {
	offer := client.Offer{Channels: map[string]client.Release{}}
	for _, channel := range source.Channels(found.Releases) {
		line := source.Follow(found.Releases, channel)
		last := releaseOf(found.Source, channel, &line[len(line)-1])
		offer.Channels[string(channel)] = last
		offer.Order = append(offer.Order, string(channel))
		if track, _, _ := strings.Cut(string(channel), "/"); !slices.Contains(offer.Tracks, track) {
			offer.Tracks = append(offer.Tracks, track)
		}
		if offer.Name == "" || channel == "latest/stable" {
			offer.Release = last
		}
	}
	return offer
}

func releaseOf(from string, channel source.Channel, r *source.Release) client.Release {
	return client.Release{
		Name: r.Snap, Version: r.Version, Revision: r.Revision.String(), Summary: r.Summary, Source: from, Channel: string(channel),
		Released: r.Released, Urgency: string(r.Urgency), Size: r.Size, Digest: r.Digest,
	}
}

// updates are those of installed snaps, with when they come by themselves.
func (s *server) updates(r *http.Request) (*reply, error) {
	// What is wrong with a source is told by sources, and by the log once it matters.
	found, _, err := s.cfg.Manager.Updates(r.Context())
	if err != nil {
		return nil, err
	}
	updates := []client.Update{}
	for i := range found {
		u := &found[i]
		update := client.Update{Candidate: candidateOf(u.Snap, &u.Newest), Current: u.Current.String(), Type: string(u.Info.Type)}
		if u.Next.Origin.Release.Digest != u.Newest.Origin.Release.Digest {
			earlier := candidateOf(u.Snap, &u.Next)
			update.Next = &earlier
		}
		if u.Held != nil {
			update.Held = holdText(u.Held)
		}
		updates = append(updates, update)
	}
	return &reply{result: updates}, nil
}

func candidateOf(snap tenure.Instance, c *refresh.Candidate) client.Candidate {
	candidate := client.Candidate{
		Release: releaseOf(c.Origin.Source, c.Origin.Channel, &c.Origin.Release), Due: c.Due.At, Why: c.Due.Why,
	}
	candidate.Name = string(snap)
	if c.Staged != 0 {
		candidate.StagedBy = c.Staged.String()
	}
	return candidate
}

// A hold without an end is written so. Snapd's clients read its end as a time, and call what is
// more than a hundred years away forever.
const (
	forever = "forever"
	farAway = "9999-12-31T00:00:00Z"
)

// holdText is until when a hold lasts.
func holdText(hold *schedule.Hold) string {
	if hold.Until.IsZero() {
		return forever
	}
	return hold.Until.Format(time.RFC3339)
}

// refreshAll begins a change for each snap with an update.
func (s *server) refreshAll(r *http.Request, request refresh.Request) (*reply, error) {
	begun, err := s.cfg.Manager.RefreshAll(r.Context(), request)
	if err != nil {
		return nil, err
	}
	answer := &reply{}
	results := []client.Begun{}
	var ids []change.ID
	for _, b := range begun {
		result := client.Begun{Snap: string(b.Snap)}
		if b.Change != 0 {
			result.Change, ids = b.Change.String(), append(ids, b.Change)
		}
		if b.Err != nil {
			result.Message = b.Err.Error()
		}
		results = append(results, result)
	}
	answer.result = results
	switch {
	case forSnapd(r):
		answer.joint = jointID(ids)
	case len(ids) > 0:
		answer.change = ids[0]
	}
	return answer, nil
}

// holdOf reads a request to hold refreshes, or to end that. As with snapd, those of named
// snaps are held on the level "general", the automatic ones of all on "auto-refresh".
func holdOf(action *client.Action, snaps []tenure.Instance) (*refresh.HoldRequest, error) {
	req := &refresh.HoldRequest{Snaps: snaps, End: action.Action == "unhold"}
	level := "general"
	if len(snaps) == 0 {
		level = "auto-refresh"
	}
	if action.HoldLevel != "" && action.HoldLevel != level {
		return nil, bad(fmt.Sprintf("hold-level should be %q here; it is %q", level, action.HoldLevel))
	}
	if req.End || action.Time == forever {
		return req, nil
	}
	var err error
	if req.Until, err = time.Parse(time.RFC3339, action.Time); err != nil {
		return nil, bad(fmt.Sprintf("time should be \"forever\" or a time like 2030-01-02T15:04:05Z; it is %s", strconv.Quote(action.Time)))
	}
	return req, nil
}

// refreshInfo is when automatic refreshes are, in the words of snapd's system-info.
func (s *server) refreshInfo() (map[string]string, error) {
	when, err := s.cfg.Manager.Schedule()
	if err != nil {
		return nil, err
	}
	info := map[string]string{"timer": when.Timer}
	for name, at := range map[string]time.Time{"last": when.Last, "next": when.Next, "hold": when.Hold} {
		if !at.IsZero() {
			info[name] = at.Format(time.RFC3339)
		}
	}
	if when.Held && when.Hold.IsZero() {
		info["hold"] = forever
	}
	return info, nil
}
