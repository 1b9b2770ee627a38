package journal

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"slices"

	bolt "go.etcd.io/bbolt"

	"tenure/internal/change"
)

// The keys of the parts of a change. That of a task is keyTask and a number, by which they are in order.
const (
	keyPlan    = "plan"
	keyDetails = "details"
	keyTask    = "task "
)

// placeStep lies between the numbers of tasks, so that others find room between them.
const placeStep = 1 << 32

// parts are what is in the file of a change that has not ended: its record without them, and each by itself, for a
// change of many snaps is long, and one task of it has gone on.
type parts struct {
	head          []byte
	plan, details json.RawMessage
	tasks         []change.Task
	// places are the numbers of the tasks.
	places []uint64
}

// newUpdate is what is to be written of c, of which before is there; nil is nothing that is known.
func newUpdate(c *change.Change, before *parts) (update, error) {
	u := update{id: c.ID, anew: before == nil}
	if c.Status.Ready() {
		u.anew = true
		var err error
		u.head, err = json.Marshal(c)
		return u, err
	}
	head := *c
	head.Tasks, head.Plan, head.Details = []change.Task{}, nil, nil
	raw, err := json.Marshal(&head)
	if err != nil {
		return u, err
	}
	u.next = &parts{head: raw, plan: c.Plan, details: c.Details, tasks: slices.Clone(c.Tasks)}
	if before == nil {
		before = new(parts)
	}
	if !bytes.Equal(raw, before.head) {
		u.head = raw
	}
	u.put = make(map[string][]byte)
	u.raw(keyPlan, before.plan, c.Plan)
	u.raw(keyDetails, before.details, c.Details)
	return u, u.tasks(before)
}

// raw notes a part that is JSON already.
func (u *update) raw(key string, before, now json.RawMessage) {
	switch {
	case sameBytes(before, now):
	case len(now) == 0:
		u.drop = append(u.drop, key)
	default:
		u.put[key] = now
	}
}

// tasks notes the tasks that are others than before. What has come between two that stay gets numbers between theirs.
func (u *update) tasks(before *parts) error {
	now := u.next.tasks
	first, last := common(before.tasks, now)
	for _, place := range before.places[first : len(before.places)-last] {
		u.drop = append(u.drop, taskKey(place))
	}
	places, room := between(before.places[:first], before.places[len(before.places)-last:], len(now)-first-last)
	if !room {
		// They are all numbered anew.
		u.anew, u.drop = true, nil
		u.raw(keyPlan, nil, u.next.plan)
		u.raw(keyDetails, nil, u.next.details)
		before = new(parts)
		first, last = 0, 0
		places, _ = between(nil, nil, len(now))
	}
	u.next.places = places
	moved := len(before.tasks) - len(now)
	for i := range now {
		var was *change.Task
		switch {
		case i < first:
			was = &before.tasks[i]
		case i >= len(now)-last:
			was = &before.tasks[i+moved]
		}
		if was != nil && sameTask(was, &now[i]) {
			continue
		}
		raw, err := json.Marshal(&now[i])
		if err != nil {
			return err
		}
		u.put[taskKey(places[i])] = raw
	}
	return nil
}

// common is how many tasks two lists have in common at their begins and, of the rest, at their ends.
func common(a, b []change.Task) (first, last int) {
	short := min(len(a), len(b))
	for first < short && a[first].ID == b[first].ID {
		first++
	}
	for last < short-first && a[len(a)-1-last].ID == b[len(b)-1-last].ID {
		last++
	}
	return first, last
}

// between are the numbers of tasks of which n are new between those that have theirs. There may be no room for them.
func between(before, after []uint64, n int) (places []uint64, room bool) {
	places = slices.Grow(slices.Clone(before), n+len(after))
	var at uint64
	if len(before) > 0 {
		at = before[len(before)-1]
	}
	step := uint64(placeStep)
	if len(after) > 0 {
		step = (after[0] - at) / uint64(n+1) //nolint:gosec // A count of tasks.
	}
	if step == 0 {
		return nil, false
	}
	for range n {
		at += step
		places = append(places, at)
	}
	return append(places, after...), true
}

func taskKey(place uint64) string {
	return string(binary.BigEndian.AppendUint64([]byte(keyTask), place))
}

// sameTask reports whether two states of a task are written alike. Texts, raw JSON and log lines that are there never change.
func sameTask(a, b *change.Task) bool {
	return a.Status == b.Status && a.Begun == b.Begun && a.Progress == b.Progress && a.Err == b.Err &&
		a.ID == b.ID && a.Kind == b.Kind && a.Summary == b.Summary && a.Gap == b.Gap && a.Joined == b.Joined && a.Final == b.Final &&
		a.Started.Equal(b.Started) && a.Ready.Equal(b.Ready) && a.Spawned.Equal(b.Spawned) &&
		sameBytes(a.Params, b.Params) && sameBytes(a.Undo, b.Undo) && slices.Equal(a.Log, b.Log)
}

func sameBytes(a, b []byte) bool {
	return len(a) == len(b) && (len(a) == 0 || &a[0] == &b[0] || bytes.Equal(a, b))
}

// readParts reads what is kept of c apart from its record.
func readParts(own *bolt.Bucket, at place, c *change.Change) error {
	return own.ForEach(func(k, kept []byte) error {
		v, err := at.unseal(k, kept)
		if err != nil {
			return err
		}
		switch string(k) {
		case keyPlan:
			return json.Unmarshal(v, &c.Plan)
		case keyDetails:
			return json.Unmarshal(v, &c.Details)
		}
		var t change.Task
		if err := json.Unmarshal(v, &t); err != nil {
			return err
		}
		c.Tasks = append(c.Tasks, t)
		return nil
	})
}
