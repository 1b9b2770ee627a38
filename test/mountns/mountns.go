// Package mountns is for tests that start something in a mount namespace of its own.
package mountns

import _ "embed" // The function of shells.

//go:embed leave-others
var leaveOthers string

// Script is a shell script that knows leave_others: whatever lives for longer than a moment in
// a new mount namespace calls it first, with the directory whose mounts it needs, if any.
func Script(text string) string { return leaveOthers + text }
