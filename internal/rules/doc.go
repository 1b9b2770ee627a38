// Package rules reads the administrator's rules and says what they give to each
// unit of a change.
//
// A rule is a name, a condition in CEL on the facts, and what it does. What always
// holds:
//
//   - Of the rules that match, the first one that speaks of an aspect gives it, and
//     every value that is given carries the name of its rule.
//   - A rule whose condition cannot be evaluated does not match, and that is said.
//   - A Set is checked as a whole when it is read: a file with one mistake gives none.
//   - What a file or a condition costs is bounded, whatever is in it: bytes, rules,
//     the size of conditions and patterns, and steps for one evaluation and for all.
//
// What a rule gives is a value. Package policy decides, from facts alone, what becomes
// of it; limits and the administrator's word in a request go before it.
//
// Nothing here does I/O, reads a clock, blocks or keeps state. A Set never changes, and
// everything may be called concurrently.
package rules
