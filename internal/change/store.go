package change

import "context"

// Store keeps changes. Its law is package changetest.
//
// The engine calls Load once, before anything else, and Apply from one
// goroutine at a time.
type Store interface {
	// Load returns everything that was kept, ordered by ID.
	Load(ctx context.Context) (Saved, error)
	// Apply does all of b or nothing. When it returns nil, b is durable.
	Apply(ctx context.Context, b Batch) error
}

// Saved is what a Store keeps.
type Saved struct {
	Changes []Change
	// LastID is the highest ID that was ever put, deleted or not.
	LastID ID
}

// Batch is what is written together. A change is put whole, and replaces what
// was kept under its ID. No ID is both put and deleted.
type Batch struct {
	Put    []Change
	Delete []ID
	// Along is what steps want kept with what they did (Along). It comes again if the Store fails.
	Along []any
}
