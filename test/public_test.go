package test

import (
	"os"
	"testing"

	"github.com/google/go-cmp/cmp"

	"tenure/test/rig"
)

// A program that uses the public client package of snapd's API takes a snap through its life.
func TestThePublicClientPackage(t *testing.T) {
	t.Parallel()
	program, err := publicClient(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	want, err := os.ReadFile("testdata/public/life.txt")
	if err != nil {
		t.Fatal(err)
	}
	i := rig.New(t, rig.Config{Snapd: true})
	result := i.Exec(program, i.Path("run/snapd.socket"), snap(t, "debian12", "1"), packedSnap(t, "stock/life", "1"), packedSnap(t, "stock/life", "2"))
	if diff := cmp.Diff(string(want), result.Stdout); diff != "" || result.Status != 0 {
		t.Errorf("it ended with status %d: %s\n%s", result.Status, result.Stderr, diff)
	}
}
