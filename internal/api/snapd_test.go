package api

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"tenure/internal/change"
)

// What is asked for many times is answered once: nobody has the daemon write more than there is.
func TestPartsAreThereOnce(t *testing.T) {
	t.Parallel()
	ids, err := parts(strings.Repeat("12,13,", 10_000) + "12")
	if diff := cmp.Diff([]change.ID{12, 13}, ids); diff != "" || err != nil {
		t.Errorf("%s%v", diff, err)
	}
}
