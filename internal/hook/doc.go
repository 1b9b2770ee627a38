// Package hook runs the hooks of snaps and serves snapctl, by which a package
// talks to Tenure from inside.
//
// What always holds: a run of a hook is a unit of its own, which lives through
// the end of the daemon and is found again by the change that it runs for; one
// that has ended well is never run a second time for that change.
//
// All functions may be called at the same time.
package hook
