package journal

import (
	"bytes"
	"sync"
)

// memory has documents as they were last decoded. It is asked with what is kept, so that nothing that has changed since
// is taken for what it was.
type memory[T any] struct {
	clone func(T) T

	mu   sync.Mutex
	docs map[string]decoded[T]
}

type decoded[T any] struct {
	value []byte
	doc   T
}

// recall is the document that value was decoded as, for the caller to modify.
func (m *memory[T]) recall(key string, value []byte) (doc T, known bool) {
	if m == nil {
		return doc, false
	}
	m.mu.Lock()
	kept, known := m.docs[key]
	m.mu.Unlock()
	if !known || !bytes.Equal(kept.value, value) {
		return doc, false
	}
	return m.clone(kept.doc), true
}

// keep remembers doc, which the caller may modify afterwards.
func (m *memory[T]) keep(key string, value []byte, doc T) {
	if m == nil {
		return
	}
	kept := decoded[T]{bytes.Clone(value), m.clone(doc)}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.docs == nil {
		m.docs = make(map[string]decoded[T])
	}
	m.docs[key] = kept
}

func (m *memory[T]) drop() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.docs = nil
}

// Remember has c keep documents decoded, for those who read them again and again. clone copies one for a
// reader, who may modify all of it but what the copy shares with what is kept.
func (c *Collection[T]) Remember(clone func(T) T) *Collection[T] {
	c.memory = &memory[T]{clone: clone}
	return c
}

// Forget drops what Remember has kept: it saves memory, and is decoded again when it is read.
func (c *Collection[T]) Forget() {
	if c.memory != nil {
		c.memory.drop()
	}
}
