package native

import "sync"

// ear is what a datagram is read into.
type ear struct {
	data    [maxNotification]byte
	control [1088]byte // A struct ucred, and as many descriptors as one datagram may have (SCM_MAX_FD).
}

// ears are shared by all sockets: nearly all of the time nothing is said, and what waits
// for it has none.
type ears struct{ pool sync.Pool }

func (e *ears) get() *ear {
	if used, ok := e.pool.Get().(*ear); ok {
		return used
	}
	return new(ear)
}

func (e *ears) put(used *ear) { e.pool.Put(used) }
