package api

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"tenure"
	"tenure/client"
	"tenure/internal/change"
	"tenure/internal/refresh"
)

// Programs made for snapd know fewer states of a change than there are. At the socket
// that is for them (Config.SnapdSocket) a change looks as follows; all else is the same
// at both sockets.
//
//   - One that has done what was asked, and is only observed, is Done: nobody is kept
//     waiting for that. If it is undone later, it is Undone then.
//   - One that waits is Doing, and says in its task what for: in snapd's API, Wait is
//     for the administrator who has to reboot.
//   - The refresh of all snaps is one change, whose id is those of its parts: "12,13".

// forSnapd reports whether r came in at the socket for snapd's clients.
func forSnapd(r *http.Request) bool {
	p, ok := r.Context().Value(peerKey{}).(peer)
	return ok && p.snapd
}

const (
	statusDone  = string(change.Done)
	statusDoing = string(change.Doing)
	statusWait  = string(change.Wait)
)

// asSnapd makes of a change what snapd's clients know.
func asSnapd(c *client.Change) {
	switch {
	case c.Observed():
		c.Status, c.Ready = statusDone, true
	case c.Status == statusWait:
		c.Status = statusDoing
		for i := range c.Tasks {
			if c.Tasks[i].Status == statusWait {
				c.Tasks[i].Status, c.Tasks[i].Summary = statusDoing, c.Tasks[i].Summary+": waits for "+c.Waiting
			}
		}
	}
	for i := range c.Tasks {
		c.Tasks[i].Data = map[string]json.RawMessage{"affected-snaps": c.Data["snap-names"]}
	}
	if c.Err != "" {
		c.Err = "cannot perform the following tasks:\n- " + strings.ReplaceAll(c.Err, "\n", "\n- ")
	}
}

// noChange is the id of the change that is asked for when nothing is to be done: a refresh
// of snaps that have no update, an install of such as are installed, a removal of such as
// are not.
const noChange = "0"

// isNoChange reports whether this client knows what err says as a change that does nothing,
// and not as an error. With several snaps all do; for one that is installed already those do
// that came after it became so in snapd, and older ones read the kind of the error.
func isNoChange(r *http.Request, request *refresh.Request, err error) bool {
	kind, several := refresh.KindOf(err), len(request.Snaps) > 1
	return kind == refresh.KindNoUpdate && several ||
		kind == refresh.KindInstalled && (several || snapdOf(r.UserAgent()) >= installsAgain)
}

// installed are those of several snaps that are: for snapd's clients, one that is not does not
// keep the others from being removed.
func (s *server) installed(ctx context.Context, snaps []tenure.Instance) ([]tenure.Instance, error) {
	all, err := s.cfg.Manager.Snaps(ctx, false)
	if err != nil {
		return nil, err
	}
	return slices.DeleteFunc(snaps, func(snap tenure.Instance) bool {
		return !slices.ContainsFunc(all, func(found refresh.Snap) bool { return found.Ref.Snap == snap })
	}), nil
}

// snapdVersion is a version of snapd: 2077 is 2.77.
type snapdVersion int

// installsAgain is the first version known to install what is installed as a change that
// does nothing; 2.68 is the last one known to want an error.
const installsAgain snapdVersion = 2077

// snapdOf is the version in the name that a client gives itself, "snapd/2.77.1-2 (…", and 0
// if there is none.
func snapdOf(agent string) snapdVersion {
	var major, minor snapdVersion
	if _, err := fmt.Sscanf(agent, "snapd/%d.%d", &major, &minor); err != nil {
		return 0
	}
	return 1000*major + minor
}

// jointID is the id of several changes that are one for snapd's clients.
func jointID(ids []change.ID) string {
	if len(ids) == 0 {
		return noChange
	}
	texts := make([]string, 0, len(ids))
	for _, id := range ids {
		texts = append(texts, id.String())
	}
	return strings.Join(texts, ",")
}

// parts are the ids that a joint one is made of; one alone is that of a single change. Each is
// there once: an answer is no longer than what there is to say.
func parts(joint string) ([]change.ID, error) {
	if joint == noChange {
		return nil, nil
	}
	var ids []change.ID
	seen := map[change.ID]bool{}
	for text := range strings.SplitSeq(joint, ",") {
		id, err := change.ParseID(text)
		if err != nil {
			return nil, err
		}
		if !seen[id] {
			ids = append(ids, id)
		}
		seen[id] = true
	}
	return ids, nil
}

// changeNamed is the change with an id, which may be a joint one.
func (s *server) changeNamed(r *http.Request, id string) (client.Change, error) {
	ids, err := parts(id)
	if err != nil {
		return client.Change{}, err
	}
	var all []client.Change
	for _, id := range ids {
		c, err := s.cfg.Manager.Engine().Get(id)
		if err != nil {
			return client.Change{}, aboutChange("show", id, err)
		}
		all = append(all, s.changeOf(r, c))
	}
	if len(all) == 1 {
		return all[0], nil
	}
	return joined(id, all), nil
}

// joined is one change made of several.
func joined(id string, all []client.Change) client.Change {
	whole := client.Change{
		ID: id, Kind: "refresh-snap", Summary: "Refresh all snaps: no updates", Status: statusDone, Ready: true,
		Spawned: time.Unix(0, 0).UTC(), ReadyAt: time.Unix(0, 0).UTC(), Data: map[string]json.RawMessage{},
	}
	names := []string{}
	var failures []string
	for i := range all {
		part := &all[i]
		if i == 0 || part.Spawned.Before(whole.Spawned) {
			whole.Spawned = part.Spawned
		}
		if part.ReadyAt.After(whole.ReadyAt) {
			whole.ReadyAt = part.ReadyAt
		}
		whole.Ready = whole.Ready && part.Ready
		whole.Tasks = append(whole.Tasks, part.Tasks...)
		if part.Status == statusDone {
			names = append(names, part.Snaps()...)
		} else if whole.Status == statusDone || !part.Ready {
			whole.Status = part.Status
		}
		if part.Err != "" {
			failures = append(failures, part.Err)
		}
	}
	if len(all) > 0 {
		whole.Summary = fmt.Sprintf("Refresh %d snaps", len(all))
	}
	if !whole.Ready {
		whole.ReadyAt = time.Time{}
	}
	whole.Err = strings.Join(failures, "\n")
	if raw, err := json.Marshal(names); err == nil {
		whole.Data["snap-names"] = raw
	}
	return whole
}

// abort turns a change round, or those parts of a joint one that have not ended.
func (s *server) abort(r *http.Request, joint string) error {
	ids, err := parts(joint)
	if err != nil {
		return err
	}
	var ended error
	aborted := 0
	for _, id := range ids {
		switch err := s.cfg.Manager.Engine().Abort(r.Context(), id); {
		case err == nil:
			aborted++
		case isFinished(err):
			ended = aboutChange("abort", id, err)
		default:
			return aboutChange("abort", id, err)
		}
	}
	switch {
	case aborted > 0:
		return nil
	case ended != nil:
		return ended
	}
	return bad(fmt.Sprintf("cannot abort change %s: it has ended (%s)", joint, change.Done))
}

func isFinished(err error) bool {
	_, finished := errors.AsType[*change.FinishedError](err)
	return finished
}

// seeded is an option that snapd's system has and Tenure's is always at: a machine is
// ready for snaps as soon as the daemon answers. Programs wait for it (snap wait system
// seed.loaded).
const seeded = "seed.loaded"

// withSeeded answers a question for seeded alone.
func withSeeded(snap string, keys []string) (map[string]any, bool) {
	if snap == refresh.System && slices.Equal(keys, []string{seeded}) {
		return map[string]any{seeded: true}, true
	}
	return nil, false
}

// absence is a part of snapd's API that there is nothing for here, and the sentence
// that says so.
type absence struct{ pattern, sentence string }

func absences() []absence {
	const (
		assertions = "Tenure has no assertions: what a snap is trusted for comes from the source that it is from, or from --dangerous"
		model      = "Tenure has no device model: a machine is whatever it is"
		interfaces = "Tenure has no interfaces to connect: what a snap may do follows from its confinement"
		sets       = "Tenure has no validation sets"
		users      = "Tenure has no accounts: what anybody may do follows from their user and groups"
	)
	return []absence{
		{"/v2/assertions", assertions},
		{"/v2/assertions/{type}", assertions},
		{"/v2/model", model},
		{"/v2/model/serial", model},
		{"/v2/systems", model},
		{"/v2/systems/{label}", model},
		{"/v2/snapshots/{id}/export", "Tenure exports no snapshots; they are zip files in /var/lib/tenure/snapshots"},
		{"/v2/connections", interfaces},
		{"/v2/interfaces", interfaces},
		{"/v2/debug", "Tenure has other means to look inside: tenure ps, tenure why, tenure timeline"},
		{"/v2/validation-sets", sets},
		{"/v2/validation-sets/{account}/{name}", sets},
		{"/v2/quotas", "Tenure has no quota groups"},
		{"/v2/quotas/{group}", "Tenure has no quota groups"},
		{"/v2/cohorts", "Tenure has no cohorts"},
		{"/v2/login", users},
		{"/v2/logout", users},
		{"/v2/users", users},
		{"/v2/create-user", users},
		{"/v2/buy", "Tenure sells nothing"},
		{"/v2/buy/ready", "Tenure sells nothing"},
	}
}

// absent answers for what there is nothing for.
func absent(sentence string) handler {
	return func(*http.Request) (*reply, error) {
		return nil, &requestError{status: http.StatusNotImplemented, kind: "not-supported", message: sentence}
	}
}
