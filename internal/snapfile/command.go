package snapfile

import "os"

// Command is a program and its arguments. The program is a clean path below
// $SNAP, without the variable ("bin/web"); the arguments may have variables.
// An empty Command is none.
type Command []string

// Expand gives the arguments with their variables replaced by lookup, which
// says "" for what it does not know, below the directory snap for the program.
// An argument that becomes empty is left out, as people's snaps expect.
func (c Command) Expand(snap string, lookup func(name string) string) []string {
	if len(c) == 0 {
		return nil
	}
	argv := []string{snap + "/" + c[0]}
	for _, arg := range c[1:] {
		if expanded := os.Expand(arg, lookup); expanded != "" {
			argv = append(argv, expanded)
		}
	}
	return argv
}
