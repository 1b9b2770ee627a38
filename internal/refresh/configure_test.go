package refresh

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"tenure/internal/cli"
)

// Who asks how options are set is told of all of them, and so is who reads the documents.
func TestEveryOptionIsToldOf(t *testing.T) {
	t.Parallel()
	documents, err := filepath.Glob("../../docs/*.md")
	if err != nil || len(documents) == 0 {
		t.Fatalf("documents: %v, %v", documents, err)
	}
	var docs strings.Builder
	for _, path := range documents {
		text, err := os.ReadFile(path) //nolint:gosec // It is of this repository.
		if err != nil {
			t.Fatal(err)
		}
		docs.Write(text)
	}
	texts := map[string]string{"docs/*.md": docs.String()}
	for _, command := range []string{"get", "set", "unset"} {
		var out strings.Builder
		cfg := cli.Config{
			Args: []string{"help", command}, Stdout: &out, Stderr: &out,
			Getenv: func(string) string { return "" }, Environ: func() []string { return nil },
		}
		if status := cli.Run(t.Context(), cfg); status != 0 {
			t.Fatalf("tenure help %s: exit status %d: %s", command, status, out.String())
		}
		texts["tenure help "+command] = out.String()
	}
	for what, text := range texts {
		for _, option := range optionNames() {
			if !strings.Contains(text, option) {
				t.Errorf("%s does not tell of %s", what, option)
			}
		}
	}
}
