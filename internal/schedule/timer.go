// Package schedule decides when something may happen: timers of services,
// and windows, holds, ages and jitter of refreshes.
//
// What is always true: given a time, and a number where chance is wanted, it
// gives a time, always the same one for the same input. It reads no clock, has
// no state and starts nothing, so everything in it may run concurrently.
//
// Times of day are those of the location of the time that is passed in.
package schedule
