// Package change runs changes: lists of typed steps that are done in order and,
// if one fails, undone in reverse.
//
// Always true: a step begins only when everything before it, and the intent to
// begin it, is durable in the Store; so the process may end between any two
// instructions, and the next Run finishes or undoes every change, never half.
// There are two exceptions: the gap, below, whose steps can all be probed, and tasks
// that are joined to the one before them, which are all done again.
//
// The life of a change; every arrow but those inside a gap is one durable write:
//
//	      Start                     last step done
//	────────────▶ Do ──▶ Doing ─────────────────────▶ Done
//	              ▲       │  │ a step fails, or Abort
//	         Wake │       │  └──────▶ Undoing ───────▶ Error   (a step failed)
//	              │       ▼              ▲                Undone  (aborted, something was undone)
//	              └───── Wait ───────────┘ Abort          Hold    (aborted, nothing had been done)
//
// One step: its task goes Do, Doing, Done; when the change turns round, Undo,
// Undoing, Undone, or Hold if it had not begun; the one that failed is Error.
//
// The gap: consecutive tasks with Gap set form one switch. The intent of all of
// them is one durable write before the first begins; until the last has ended,
// or one fails, nothing waits for the disk. After a crash inside the gap each
// is asked in turn, by Probe, whether it was done, before the change goes on.
//
// After a crash: a step whose intent is durable, and whose result is not, is
// probed if it can be, and otherwise done again. A change that was going
// forward goes on; one that was aborted or undoing goes on undoing.
//
// What a step writes elsewhere in the Store is durable together with its result, by
// Along: it costs no write of its own, and no crash comes between them.
//
// Killed is not shutting down: when the context of Run ends, running steps see
// their context cancelled with the cause ErrShutdown, and their changes stay as
// they are in the Store until the next Run.
//
// What runs at the same time: changes that have no snap in common. One
// goroutine, that of Run, owns all state; each running change has one step
// running in a goroutine of its own, and one further goroutine writes to the
// Store, everything that has gathered meanwhile in one batch. All methods of
// Engine may be called from anywhere but from Boundary, which is called in
// that of Run.
package change
