package sourcetest_test

import (
	"testing"

	"tenure/internal/source/sourcetest"
)

func TestTheTwinKeepsTheLaw(t *testing.T) {
	t.Parallel()
	sourcetest.Run(t, func(*testing.T) sourcetest.Place { return new(sourcetest.Twin).Place() })
}
