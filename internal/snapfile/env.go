package snapfile

import "os"

// Env is an environment in the order of its file, which matters: a value may
// use what stands before it.
type Env []EnvVar

// EnvVar is one entry of an environment.
type EnvVar struct {
	Name  string `json:"name"`
	Value string `json:"value"`
}

// ExpandEnv replaces $NAME and ${NAME} in the values of env by the nearest
// earlier entry of that name, else by what lookup says, which is "" for names
// that it does not know. The entries of a snap come before those of its app:
// pass both, one after the other. Of two entries of one name both are in the
// result, in order; the last one holds.
func ExpandEnv(env Env, lookup func(name string) string) Env {
	known := make(map[string]string, len(env))
	expanded := make(Env, 0, len(env))
	for _, entry := range env {
		value := os.Expand(entry.Value, func(name string) string {
			if earlier, ok := known[name]; ok {
				return earlier
			}
			return lookup(name)
		})
		known[entry.Name] = value
		expanded = append(expanded, EnvVar{Name: entry.Name, Value: value})
	}
	return expanded
}
