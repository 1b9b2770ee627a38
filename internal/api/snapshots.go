package api

import (
	"context"
	"fmt"
	"net/http"

	"tenure/client"
	"tenure/internal/change"
	"tenure/internal/refresh"
	"tenure/internal/snapshot"
)

// actionSnapshot is to save the data of snaps.
const actionSnapshot = "snapshot"

// exported is the type of a body that is a snapshot from elsewhere.
const exported = "application/x.snapd.snapshot"

// save begins to save the data of snaps, and says in which set.
func (s *server) save(r *http.Request, action *client.Action) (*reply, error) {
	snaps, err := instances(action.Snaps)
	if err != nil {
		return nil, err
	}
	set, id, err := s.cfg.Manager.Save(r.Context(), refresh.SnapshotRequest{Snaps: snaps, Users: action.Users})
	if err != nil {
		return nil, err
	}
	return &reply{result: map[string]snapshot.Set{"set-id": set}, change: id}, nil
}

// snapshots answers with sets and what is in them. What snaps were configured to is for
// nobody to read there.
func (s *server) snapshots(r *http.Request) (*reply, error) {
	var set snapshot.Set
	var err error
	if text := r.FormValue("set"); text != "" {
		if set, err = snapshot.ParseSet(text); err != nil {
			return nil, err
		}
	}
	snaps, err := instances(splitList(r.FormValue("snaps")))
	if err != nil {
		return nil, err
	}
	found, err := s.cfg.Manager.Snapshots(set, snaps)
	if err != nil {
		return nil, err
	}
	sets := []client.SnapshotSet{}
	for i := range found {
		d := &found[i]
		if len(sets) == 0 || sets[len(sets)-1].ID != uint64(d.Set) {
			sets = append(sets, client.SnapshotSet{ID: uint64(d.Set)})
		}
		last := &sets[len(sets)-1]
		last.Snapshots = append(last.Snapshots, snapshotOf(d))
	}
	return &reply{result: sets}, nil
}

func snapshotOf(d *snapshot.Description) client.Snapshot {
	result := client.Snapshot{
		SetID: uint64(d.Set), Time: d.Time, Snap: string(d.Snap), Version: d.Version, Summary: d.Summary, Revision: "unset",
		Digests: d.Digests, Size: d.Size, Broken: d.Broken, Auto: d.Auto,
	}
	if !d.Revision.IsZero() {
		result.Revision = d.Revision.String()
	}
	return result
}

// snapshotAction begins to do something with a set.
func (s *server) snapshotAction(r *http.Request) (*reply, error) {
	if r.Header.Get("Content-Type") == exported {
		return absent("Tenure imports no snapshots; put their zip files into /var/lib/tenure/snapshots")(r)
	}
	var body client.SnapshotAction
	if err := readJSON(r, &body); err != nil {
		return nil, err
	}
	if body.Set == 0 {
		return nil, bad("the number of a set is missing")
	}
	snaps, err := instances(body.Snaps)
	if err != nil {
		return nil, err
	}
	var begin func(context.Context, refresh.SnapshotRequest) (change.ID, error)
	switch body.Action {
	case "restore":
		begin = s.cfg.Manager.Restore
	case "check":
		begin = s.cfg.Manager.CheckSnapshots
	case "forget":
		if len(body.Users) > 0 {
			return nil, bad("what a set has of users cannot be forgotten alone")
		}
		begin = s.cfg.Manager.Forget
	default:
		return nil, bad(fmt.Sprintf("action should be one of: check, forget, restore; it is %q", body.Action))
	}
	id, err := begin(r.Context(), refresh.SnapshotRequest{Set: snapshot.Set(body.Set), Snaps: snaps, Users: body.Users})
	if err != nil {
		return nil, err
	}
	return &reply{change: id}, nil
}
