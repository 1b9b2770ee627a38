package changetest

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"sync"

	"tenure/internal/change"
)

// Memory is a Store that forgets everything when the process ends. Its zero
// value is empty. What steps have it keep along (change.Along) is a func(), which is called in the write.
type Memory struct {
	// Before, if set, is called before each write, and fails it by its error.
	Before func() error
	// After, if set, is called when a write is done; its error reaches the
	// writer although the write took effect, as when a machine loses power.
	After func() error

	mu      sync.Mutex
	changes map[change.ID][]byte
	lastID  change.ID
	writes  int
}

// Writes is how many batches were written.
func (m *Memory) Writes() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.writes
}

// Load implements change.Store.
func (m *Memory) Load(ctx context.Context) (change.Saved, error) {
	if err := ctx.Err(); err != nil {
		return change.Saved{}, fmt.Errorf("load changes: %w", err)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	saved := change.Saved{LastID: m.lastID}
	for _, id := range slices.Sorted(maps.Keys(m.changes)) {
		var c change.Change
		if err := json.Unmarshal(m.changes[id], &c); err != nil {
			return change.Saved{}, fmt.Errorf("read change %s: %w", id, err)
		}
		saved.Changes = append(saved.Changes, c)
	}
	return saved, nil
}

// Apply implements change.Store.
func (m *Memory) Apply(_ context.Context, b change.Batch) error {
	if m.Before != nil {
		if err := m.Before(); err != nil {
			return err
		}
	}
	if err := m.apply(b); err != nil {
		return err
	}
	if m.After != nil {
		return m.After()
	}
	return nil
}

func (m *Memory) apply(b change.Batch) error {
	encoded := make(map[change.ID][]byte, len(b.Put))
	for i := range b.Put {
		raw, err := json.Marshal(&b.Put[i])
		if err != nil {
			return fmt.Errorf("write change %s: %w", b.Put[i].ID, err)
		}
		encoded[b.Put[i].ID] = raw
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.changes == nil {
		m.changes = make(map[change.ID][]byte)
	}
	var writes []func()
	for _, along := range b.Along {
		write, ok := along.(func())
		if !ok {
			return fmt.Errorf("a store in memory takes functions along, and not %T", along)
		}
		writes = append(writes, write)
	}
	for _, write := range writes {
		write()
	}
	m.writes++
	for id, raw := range encoded {
		m.changes[id] = raw
		m.lastID = max(m.lastID, id)
	}
	for _, id := range b.Delete {
		delete(m.changes, id)
	}
	return nil
}
