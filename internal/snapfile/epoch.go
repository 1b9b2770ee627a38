package snapfile

import (
	"fmt"
	"slices"
	"strings"
)

// Epoch tells which formats of data a snap reads and writes, so that a refresh
// never lands on a revision that cannot read what is there. Both lists are
// sorted, have no duplicates, and share at least one number. The default reads
// and writes 0.
type Epoch struct {
	Read  []uint32 `json:"read"`
	Write []uint32 `json:"write"`
}

// CanRead reports whether a snap of epoch e can use the data that one of epoch
// old has written.
func (e Epoch) CanRead(old Epoch) bool {
	return slices.ContainsFunc(old.Write, func(n uint32) bool { return slices.Contains(e.Read, n) })
}

// String is the shortest form that a snap.yaml could have: "1", "1*", or the
// two lists.
func (e Epoch) String() string {
	if len(e.Write) == 1 {
		n := e.Write[0]
		if slices.Equal(e.Read, e.Write) {
			return fmt.Sprint(n)
		}
		if n > 0 && slices.Equal(e.Read, []uint32{n - 1, n}) {
			return fmt.Sprintf("%d*", n)
		}
	}
	return "{read: " + joinNumbers(e.Read) + ", write: " + joinNumbers(e.Write) + "}"
}

func joinNumbers(list []uint32) string {
	text := make([]string, len(list))
	for i, n := range list {
		text[i] = fmt.Sprint(n)
	}
	return "[" + strings.Join(text, ", ") + "]"
}
