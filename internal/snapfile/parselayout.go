package snapfile

import (
	"path"
	"slices"
	"strconv"
	"strings"
)

const (
	acceptedTarget = "an absolute, clean path without special characters, or one below $SNAP, $SNAP_DATA or $SNAP_COMMON"
	acceptedSource = "an absolute, clean path at or below $SNAP, $SNAP_DATA or $SNAP_COMMON"
)

// layoutPathForm leaves out what globs and security profiles give a meaning to.
//
//nolint:gochecknoglobals // As in words.go.
var layoutPathForm = compile(`^[^"*?\[\]{}^\\\x00-\x1f\x7f]+$`)

// layouts reads the layout map. The rules about targets are those of the public
// reference, and of a namespace that must not lose its own ground: nothing may
// lie over what the kernel, the host or another snap puts there.
func (o *object) layouts() []Layout {
	v, found := o.take("layout")
	if !found {
		return nil
	}
	var layouts []Layout
	lines := make(map[string]value)
	for _, f := range v.object(maxLayouts).fields {
		if accepted := checkTarget(f.name); accepted != "" {
			f.fail("the target "+quote(f.name), accepted)
			continue
		}
		inner := f.object(0)
		if !inner.isMap() && !f.isNull() {
			continue
		}
		layout, ok := inner.layout(f.name)
		inner.finish()
		if ok {
			layouts = append(layouts, layout)
			lines[layout.Target] = f.value
		}
	}
	slices.SortFunc(layouts, func(a, b Layout) int { return strings.Compare(a.Target, b.Target) })
	checkLayouts(layouts, lines)
	return layouts
}

func (o *object) layout(target string) (Layout, bool) {
	layout := Layout{
		Target: target,
		User:   choice(o, "user", "root"),
		Group:  choice(o, "group", "root"),
		Mode:   0o755,
	}
	layout.User, layout.Group = "root", "root"
	if v, found := o.take("mode"); found && !v.isEmpty() {
		layout.Mode = v.octal(0o1777)
	}
	var kinds []LayoutKind
	for _, kind := range []LayoutKind{LayoutBind, LayoutBindFile, LayoutSymlink} {
		if v, found := o.take(string(kind)); found && !v.isEmpty() {
			kinds = append(kinds, kind)
			layout.Source = v.text(acceptedSource, isSource)
		}
	}
	if v, found := o.take("type"); found && !v.isEmpty() {
		choiceOf(v, LayoutTmpfs)
		kinds = append(kinds, LayoutTmpfs)
	}
	if len(kinds) != 1 {
		found := "none of them"
		if len(kinds) > 1 {
			found = "several"
		}
		o.fail(found, "one of bind, bind-file, symlink and type: tmpfs")
		return Layout{}, false
	}
	layout.Kind = kinds[0]
	return layout, layout.Source != "" || layout.Kind == LayoutTmpfs
}

// octal is a mode as a layout has it: text of octal digits.
func (v value) octal(limit uint64) uint32 {
	accepted := "octal digits, at most 0" + strconv.FormatUint(limit, 8)
	s, ok := v.scalar(accepted)
	if !ok {
		return 0
	}
	n, err := strconv.ParseUint(strings.TrimPrefix(s, "0o"), 8, 32)
	if err != nil || n > limit {
		v.wants(accepted)
		return 0
	}
	return uint32(n)
}

// cutVariable is what follows the variable at the start of p.
func cutVariable(p string) (rest string, ok bool) {
	variable, rest, slash := strings.Cut(p, "/")
	switch variable {
	case "$SNAP", "$SNAP_DATA", "$SNAP_COMMON":
		return rest, !slash || rest != ""
	}
	return "", false
}

func isLayoutPath(s string) bool { return len(s) <= 1024 && layoutPathForm.matches(s) }

func isSource(s string) bool {
	rest, ok := cutVariable(s)
	return ok && isLayoutPath(s) && !strings.Contains(rest, "$") && path.Clean("/"+rest) == "/"+rest
}

// checkTarget says what is accepted if target is not.
func checkTarget(target string) string {
	if !isLayoutPath(target) {
		return acceptedTarget
	}
	if rest, ok := cutVariable(target); ok {
		if rest == "" || !isSource(target) {
			return acceptedTarget
		}
		return ""
	}
	if !path.IsAbs(target) || path.Clean(target) != target || strings.Contains(target, "$") || target == "/" {
		return acceptedTarget
	}
	for _, taken := range offLimits() {
		if within(target, taken) {
			return "a target that is not in " + taken
		}
	}
	top, _, _ := strings.Cut(target[1:], "/")
	if !slices.Contains(topLevel(), top) {
		return "a target in one of /" + strings.Join(topLevel(), ", /")
	}
	return ""
}

func within(p, dir string) bool { return p == dir || strings.HasPrefix(p, dir+"/") }

// offLimits are the directories where a layout may change nothing.
func offLimits() []string {
	return []string{
		"/proc", "/sys", "/dev", "/run", "/var/run", "/tmp", // The system's own.
		"/boot", "/lib/modules", "/usr/lib/modules", "/lib/firmware", "/usr/lib/firmware", // What the kernel may load.
		"/home", "/root", "/media", "/lost+found", // What is the host's.
		"/snap", "/var/snap", "/var/lib/snapd", "/var/lib/tenure", // What is the package manager's.
	}
}

// topLevel are the directories of a base in which a layout may be. A layout
// makes no new ones, for that would mean to replace the root itself.
func topLevel() []string {
	return []string{"bin", "etc", "lib", "lib32", "lib64", "libx32", "mnt", "opt", "sbin", "srv", "usr", "var"}
}

// checkLayouts is about layouts that disturb each other; they are sorted.
func checkLayouts(layouts []Layout, at map[string]value) {
	kinds := make(map[string]LayoutKind)
	for i, layout := range layouts {
		for _, outer := range layouts[:i] {
			if within(layout.Target, outer.Target) {
				at[layout.Target].fail("a target inside "+quote(outer.Target), "targets that are not inside each other")
			}
		}
		if layout.Kind != LayoutBind && layout.Kind != LayoutBindFile {
			continue
		}
		if before, seen := kinds[layout.Source]; seen && before != layout.Kind {
			at[layout.Target].fail("the source "+quote(layout.Source)+" as directory and as file", "one of bind and bind-file for one source")
		}
		kinds[layout.Source] = layout.Kind
	}
}
