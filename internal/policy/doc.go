// Package policy decides, from facts alone, what a change does to each unit,
// and says why.
//
// What always holds for p := Decide(f):
//
//   - Every process of a unit that the change touches is in exactly one item of p.
//   - Nothing that a rule of the administrator or a package protects is stopped
//     unless the administrator has said so in the change itself.
//   - On remove and disable nothing endures unless a declaration or a rule asks for
//     it and the administrator agreed; a declaration alone makes the plan refuse.
//   - A plan that refuses touches nothing.
//   - Equal facts, in whatever order, give equal plans.
//
// Whose word counts, in this order: the unit's name in the administrator's
// request, a rule of the administrator, the declaration of the revision that
// the unit was started from, the default for its kind. What the engine
// cannot carry out yet is replaced by what is safest (Facts.Supported), and the
// item says so.
//
// Nothing here does I/O, reads a clock, blocks or keeps state; everything may be
// called concurrently.
package policy
