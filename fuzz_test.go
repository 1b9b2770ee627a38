package tenure_test

import (
	"path/filepath"
	"strings"
	"testing"

	"tenure"
)

// FuzzUnit reads names of units: what is one has one form, and is a name of files as it is.
func FuzzUnit(f *testing.F) {
	for _, text := range []string{
		"virt.virtd", "virt_dev.vm@web1", "virt.virtd/vm.4711", "virt.virtd/vm@web1", "virt.qemu-img~4711", "virt.hook.configure~9",
		"virt.virtd/../vm", "virt.vm@a\nb", "..x", "virt.hook.a~1/vm.2",
	} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		unit, err := tenure.ParseUnit(text)
		if err != nil {
			return
		}
		if unit.String() != text || unit.IsZero() {
			t.Errorf("%q is read as %q", text, unit)
		}
		again, err := tenure.ParseUnit(unit.String())
		if err != nil || again != unit {
			t.Errorf("%q is read as %+v, and as %+v, %v", text, unit, again, err)
		}
		for name := range strings.SplitSeq(text, "/") {
			if !filepath.IsLocal(name) || strings.HasPrefix(name, ".") || len(name) > 255 || strings.Trim(name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.@~") != "" {
				t.Errorf("%q has the name %q", text, name)
			}
		}
		if _, err := tenure.ParseInstance(string(unit.Snap)); err != nil {
			t.Error(err)
		}
		if _, err := tenure.ParseApp(string(unit.App)); err != nil {
			t.Error(err)
		}
	})
}
