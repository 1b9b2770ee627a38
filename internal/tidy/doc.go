// Package tidy holds the rules of the house that the compiler does not check,
// as tests: which package may import which, and that every package says what it
// is for. It has no code of its own.
package tidy
