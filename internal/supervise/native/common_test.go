package native

import (
	"testing"
	"unsafe"

	"tenure"
	"tenure/internal/sandbox"
	"tenure/internal/supervise"
)

// Services of a snap share what they have alike, and nothing that is not; who appends to it takes nothing from others.
func TestCommon(t *testing.T) {
	t.Parallel()
	spec := func(snap tenure.Instance, app tenure.App, target string) *supervise.Spec {
		// As it is decoded, each has its own, with room.
		mounts := append(make([]sandbox.Mount, 0, 9), sandbox.Mount{Kind: sandbox.Tmpfs, Target: target})
		env := append(make([]string, 0, 9), "SNAP="+string(append([]byte(nil), snap...)), "APP="+string(app))
		return &supervise.Spec{
			Unit:    tenure.ServiceUnit(snap, app),
			Profile: sandbox.Profile{Mounts: mounts, KeepCapabilities: []string{"CAP_" + string(app[:1])}},
			Command: supervise.Command{Env: env},
		}
	}
	var c common
	a, b, other, strange := spec("db", "a1", "/run"), spec("db", "a2", "/run"), spec("db", "b", "/tmp"), spec("web", "a1", "/run")
	for _, s := range []*supervise.Spec{a, b, other, strange} {
		before := *s
		if c.share(s); !sameSpec(&before, s) {
			t.Errorf("%s is another spec: %+v, before %+v", s.Unit, *s, before)
		}
	}
	same := func(a, b []sandbox.Mount) bool { return unsafe.SliceData(a) == unsafe.SliceData(b) }
	if !same(a.Profile.Mounts, b.Profile.Mounts) || same(a.Profile.Mounts, other.Profile.Mounts) || same(a.Profile.Mounts, strange.Profile.Mounts) {
		t.Error("mounts are not shared by those that have the same, and no others")
	}
	if unsafe.SliceData(a.Profile.KeepCapabilities) != unsafe.SliceData(b.Profile.KeepCapabilities) {
		t.Error("capabilities are not shared")
	}
	if unsafe.StringData(a.Command.Env[0]) != unsafe.StringData(b.Command.Env[0]) || a.Command.Env[1] == b.Command.Env[1] {
		t.Error("the environment is not shared where it is the same")
	}
	_ = append(a.Profile.Mounts, sandbox.Mount{Target: "/more"}) //nolint:gocritic // Whether that is seen by another.
	if got := b.Profile.Mounts[:cap(b.Profile.Mounts)]; len(got) != 1 {
		t.Errorf("there is room in what is shared: %v", got)
	}
}
