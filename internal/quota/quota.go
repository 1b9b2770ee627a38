// Package quota bounds how much of something each of many may have at a time, and all of them
// together, so that nobody takes the room of others.
//
// Nothing is kept of those who have none. All methods may be called at the same time.
package quota

import "sync"

// Quota counts what each K has.
type Quota[K comparable] struct {
	each, all int

	mu    sync.Mutex
	of    map[K]int
	taken int
}

// New is a Quota of so many for each, and so many for all together.
func New[K comparable](each, all int) *Quota[K] {
	return &Quota[K]{each: each, all: all, of: map[K]int{}}
}

// Take counts one more for who, and reports false if that would be too many.
func (q *Quota[K]) Take(who K) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.of[who] == q.each || q.taken == q.all {
		return false
	}
	q.of[who]++
	q.taken++
	return true
}

// Give takes one back that Take has counted.
func (q *Quota[K]) Give(who K) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.taken--
	if q.of[who]--; q.of[who] == 0 {
		delete(q.of, who)
	}
}
