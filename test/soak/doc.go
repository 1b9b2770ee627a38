// Package soak runs the real programs for as long as one likes: random operations on many
// snaps, several at a time, and faults, beside a model that says what must have come of
// each.
//
// What always holds: what is drawn for a step depends on the seed and on the number of the
// step alone, so that a run can be had again. The model knows no package of Tenure; what it
// predicts is compared, after each step, with processes, control groups, mounts,
// loop devices, files, links, data, configuration and pins, as they are on the machine.
//
// docs/soak.md says how to read what it prints.
package soak
