// Package bench measures the real programs in private roots, against floors
// that are measured in the same run.
//
// Every number in docs/performance.md comes from here ("make bench"). A floor
// and what is held against it are measured in turns, so that what else the
// machine does hits both.
package bench
