package policy

import (
	"testing"

	"tenure"
)

func TestCompareVersions(t *testing.T) {
	t.Parallel()
	ordered := []string{"", "1.0~rc1", "1.0", "1.0a", "1.0.1", "1.2", "1.09", "1.10", "2", "2-1", "10.0", "v1"}
	for i, a := range ordered[1:] {
		for j, b := range ordered[1:] {
			want := min(max(i-j, -1), 1)
			if got := min(max(compareVersions(a, b), -1), 1); got != want {
				t.Errorf("compare %q with %q: %d, want %d", a, b, got, want)
			}
		}
	}
	if compareVersions("1.02", "1.2") != 0 {
		t.Error("leading zeros count")
	}
}

func TestCompatible(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		oldest  string
		rev     tenure.Revision
		version string
		want    age
	}{
		{"5", tenure.SourceRevision(4), "9", ageTooOld},
		{"5", tenure.SourceRevision(5), "", ageFine},
		{"x5", tenure.LocalRevision(6), "", ageFine},
		{"x5", tenure.LocalRevision(4), "", ageTooOld},
		{"5", tenure.LocalRevision(9), "9.0", ageUnknown},
		{"x5", tenure.SourceRevision(9), "9.0", ageUnknown},
		{"5.1", tenure.SourceRevision(1), "5.0.9", ageTooOld},
		{"5.1", tenure.SourceRevision(1), "5.1", ageFine},
		{"5.1", tenure.SourceRevision(1), "5.10", ageFine},
		{"5.1", tenure.SourceRevision(9), "", ageUnknown},
	} {
		if got := compatible(tt.oldest, tt.rev, tt.version); got != tt.want {
			t.Errorf("from %s on, revision %s of version %q: %d, want %d", tt.oldest, tt.rev, tt.version, got, tt.want)
		}
	}
}
