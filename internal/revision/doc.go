// Package revision is the algebra of revisions of one installed snap: install,
// refresh, revert, enable, disable, remove, what pins a revision, and which ones
// nothing reaches any more.
//
// What always holds:
//
//   - The current revision is in the history, is pinned, and is never collected.
//   - A revision with a pin is never collected; one without is always
//     unreachable, so that collection may happen at any time, in any order.
//   - A number given to a local file ("x3") is never given again while the state
//     is kept.
//   - An operation that fails gives back the state that it got.
//
// The history is the sequence of revisions that were current, the one that was
// made current last at the end, and the current one anywhere in it: everything after
// it is what a revert went back from. A refresh after a revert leaves those out of
// the history, as snapd discards them, so that the next revert does
// not go to what was reverted from; they stay on disk, set aside, while something
// pins them.
//
// refresh.retain has snapd's meaning: how many revisions of the history are kept in
// all, the current one included; 2 unless set.
//
// Everything here is a value: operations give new states and change none. Everything
// may be called concurrently.
package revision
