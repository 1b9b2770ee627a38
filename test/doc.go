// Package test has the end-to-end tests: the real programs, the real kernel and
// real software, in private roots.
package test
