// Package refresh is the use case: it installs, refreshes, reverts, removes,
// enables, disables and controls snaps. It gathers facts, asks policy for the
// plan, compiles the plan into steps of a change, and implements those steps.
//
// What always holds:
//
//   - A request that is refused has changed nothing.
//   - A change that fails, or whose daemon is killed, ends with every snap as it
//     was before or as it was to be, with its services running as before.
//   - A revision stays mounted, with its file and its data, while anything pins it;
//     soon after the last pin is gone, so is the revision.
//
// All methods of Manager may be called at the same time. Two changes never work
// on one snap at the same time.
package refresh
