package snapfile

import (
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
)

const (
	acceptedEpoch   = "a number such as 1, one with a star such as 1*, or {read: [0, 1], write: [1]}"
	acceptedNumbers = "1 to 10 numbers from 0 to 4294967295, in rising order"
)

// epoch reads the three forms of the public reference: N reads and writes N,
// "N*" reads also N-1, and a map has both lists, of which a missing one is
// taken from the other.
func (o *object) epoch() Epoch {
	none := Epoch{Read: []uint32{0}, Write: []uint32{0}}
	v, found := o.take("epoch")
	if !found {
		return none
	}
	switch {
	case v.isScalar():
		return v.shortEpoch()
	case v.node.Kind != yaml.MappingNode:
		v.wants(acceptedEpoch)
		return none
	}
	inner := v.object(0)
	epoch := Epoch{Read: inner.numbers("read"), Write: inner.numbers("write")}
	switch {
	case epoch.Read == nil && epoch.Write == nil:
		if len(inner.fields) == 0 {
			v.wants(acceptedEpoch)
		}
		return none
	case epoch.Read == nil:
		epoch.Read = slices.Clone(epoch.Write)
	case epoch.Write == nil:
		epoch.Write = slices.Clone(epoch.Read)
	}
	inner.finish()
	if !epoch.CanRead(epoch) {
		v.fail("read "+joinNumbers(epoch.Read)+", write "+joinNumbers(epoch.Write), "at least one number in both lists")
	}
	return epoch
}

func (v value) shortEpoch() Epoch {
	s, ok := v.scalar(acceptedEpoch)
	if !ok {
		return Epoch{}
	}
	digits, star := strings.CutSuffix(s, "*")
	n, ok := number(digits)
	if !ok || (star && n == 0) {
		v.wants(acceptedEpoch)
		return Epoch{}
	}
	if star {
		return Epoch{Read: []uint32{n - 1, n}, Write: []uint32{n}}
	}
	return Epoch{Read: []uint32{n}, Write: []uint32{n}}
}

func (o *object) numbers(key string) []uint32 {
	v, found := o.take(key)
	if !found {
		return nil
	}
	entries := v.list(10, acceptedNumbers)
	if len(entries) == 0 && len(v.node.Content) == 0 {
		v.fail("an empty list", acceptedNumbers)
	}
	var list []uint32
	for _, entry := range entries {
		s, ok := entry.scalar(acceptedNumbers)
		if !ok {
			return nil
		}
		n, ok := number(s)
		if !ok || (len(list) > 0 && n <= list[len(list)-1]) {
			entry.wants(acceptedNumbers)
			return nil
		}
		list = append(list, n)
	}
	return list
}

// number reads decimal digits without a leading zero.
func number(s string) (uint32, bool) {
	n, err := strconv.ParseUint(s, 10, 32)
	if err != nil || strconv.FormatUint(n, 10) != s {
		return 0, false
	}
	return uint32(n), true
}
