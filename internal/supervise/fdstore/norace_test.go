//go:build !race

package fdstore_test

// raced tells that memory cannot be measured.
const raced = false
