package hostile

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
)

// key is one entry of a description with its place, and values that are right.
type key struct {
	place string
	name  string
	right []string
}

// keys are all that a description may have, and a few that it may not. A place
// is the path of maps, each step a name.
func keys() []key { return slices.Concat(topKeys(), mapKeys(), appKeys(), deepKeys()) }

// topKeys stand alone at the top.
func topKeys() []key {
	return []key{
		{"", "name", []string{"other", "a-1", "a_key", "Other", "a--b"}},
		{"", "version", []string{"1.10", "'2024-01-01'", "0x10", "1e3"}},
		{"", "type", []string{"app", "base", "gadget", "kernel", "os", "core", "snapd"}},
		{"", "title", []string{"A title", "''"}},
		{"", "summary", []string{"A summary", "''"}},
		{"", "description", []string{"Some words", "|\n  Two\n  lines"}},
		{"", "license", []string{"GPL-3.0", "MIT OR Apache-2.0", "(MIT)"}},
		{"", "base", []string{"bare", "none", "core24", "missing-base"}},
		{"", "confinement", []string{"strict", "devmode", "classic"}},
		{"", "grade", []string{"stable", "devel"}},
		{"", "architectures", []string{"[amd64]", "[all]", "amd64", "[arm64, s390x]"}},
		{"", "assumes", []string{"[snapd2.40, command-chain]", "[snapd9999]", "[what-is-this]"}},
		{"", "epoch", []string{"1", "1*", "{read: [0, 1], write: [1]}", "{read: [1], write: [2]}", "0*"}},
		{"", "provenance", []string{"global-upload"}},
		{"", "unknown-key", []string{"anything", "{a: [1, {b: c}]}"}},
		{"", "layouts", []string{"{}"}},
	}
}

// mapKeys are in the maps at the top.
func mapKeys() []key {
	return []key{
		{"links", "website", []string{"[https://example.org]", "https://example.org", "[nobody@example.org]"}},
		{"environment", "PATH", []string{"$SNAP/bin:$PATH", "1", "''"}},
		{"environment", "LD_PRELOAD", []string{"/tmp/x.so"}},
		{"environment", "'A=B'", []string{"x"}},
		{"system-usernames", "snap_daemon", []string{"shared", "{scope: shared}"}},
		{"system-usernames", "root", []string{"shared"}},
		{"plugs", "network", []string{"null", "network", "{interface: network, label: x}"}},
		{"plugs", "content", []string{"{interface: content, target: $SNAP/x, default-provider: y}"}},
		{"slots", "dbus", []string{"{interface: dbus, bus: system, name: org.example.X}"}},
		{"hooks", "configure", []string{"{}", "{plugs: [network], environment: {A: b}, command-chain: [bin/probe]}"}},
		{"hooks", "'../x'", []string{"{}"}},
		{"layout", "/etc/x", []string{"{bind: $SNAP/share}", "{symlink: $SNAP/share}", "{type: tmpfs}", "{bind-file: $SNAP/share/text}"}},
		{"layout", "/usr/share/x", []string{"{bind: $SNAP/out}", "{bind: $SNAP_COMMON/x}", "{bind: $SNAP/share, mode: 755, user: root}"}},
		{"layout", "$SNAP/inside", []string{"{bind: $SNAP_DATA/x}"}},
		{"layout", "/", []string{"{bind: $SNAP/share}"}},
		{"layout", "/etc/../proc", []string{"{type: tmpfs}"}},
		{"layout", "/snap", []string{"{type: tmpfs}"}},
		{"layout", "/etc/y", []string{"{bind: /etc}", "{bind: $SNAP/../../..}", "{symlink: /etc/shadow}", "{bind: $HOME/x}"}},
	}
}

// appKeys are of apps.
func appKeys() []key {
	return []key{
		{"apps.tool", "command", []string{"bin/probe", "bin/probe $SNAP_DATA/x"}},
		{"apps.idle", "command", []string{"bin/probe", "$SNAP/bin/probe", "../bin/probe", "/bin/sh -c 'x'", "bin/none", "share", "share/text"}},
		{"apps.idle", "command-chain", []string{"[bin/probe]", "[bin/none]", "[../x]"}},
		{"apps.idle", "daemon", []string{"simple", "oneshot", "forking", "notify", "dbus", "never"}},
		{"apps.idle", "daemon-scope", []string{"system", "user"}},
		{"apps.idle", "refresh-mode", []string{"restart", "endure", "ignore-running"}},
		{"apps.idle", "install-mode", []string{"enable", "disable"}},
		{"apps.idle", "stop-mode", []string{"sigterm", "sigint-all", "sigusr1", "sigkill"}},
		{"apps.idle", "stop-command", []string{"bin/probe x", "bin/none"}},
		{"apps.idle", "post-stop-command", []string{"bin/probe x"}},
		{"apps.idle", "reload-command", []string{"bin/probe x"}},
		{"apps.idle", "stop-timeout", []string{"1s", "1m30s", "10", "1h"}},
		{"apps.idle", "start-timeout", []string{"2s", "0s"}},
		{"apps.idle", "watchdog-timeout", []string{"10s", "1h"}},
		{"apps.idle", "restart-delay", []string{"1s"}},
		{"apps.idle", "restart-condition", []string{"always", "never", "on-failure", "on-watchdog"}},
		{"apps.idle", "success-exit-status", []string{"[1, SIGUSR1]", "[256]", "[SIGWHAT]"}},
		{"apps.idle", "after", []string{"[try]", "[idle]", "[nobody]", "[tool]"}},
		{"apps.idle", "before", []string{"[try]", "[idle]"}},
		{"apps.idle", "timer", []string{"10:00", "mon,10:00~12:00/2", "25:00"}},
		{"apps.idle", "bus-name", []string{"org.example.X", "x"}},
		{"apps.idle", "activates-on", []string{"[dbus]"}},
		{"apps.idle", "environment", []string{"{A: $B, B: $A}"}},
		{"apps.idle", "plugs", []string{"[network]", "[none-such]"}},
		{"apps.idle", "slots", []string{"[dbus]"}},
		{"apps.idle", "aliases", []string{"[a, b]", "['../a']"}},
		{"apps.idle", "completer", []string{"share/text", "../x"}},
		{"apps.idle", "desktop", []string{"share/text"}},
		{"apps.idle", "autostart", []string{"x.desktop", "../x.desktop"}},
		{"apps.idle", "common-id", []string{"org.example.X"}},
		{"apps", "'../x'", []string{"{command: bin/probe}"}},
		{"apps", "bin", []string{"{command: bin/probe}"}},
		{"apps", "current", []string{"{command: bin/probe}"}},
	}
}

// deepKeys are in the maps of an app.
func deepKeys() []key {
	return []key{
		{"apps.idle.sockets.s", "listen-stream", []string{
			"$SNAP_COMMON/s", "$SNAP_DATA/s", "/run/x.sock", "$SNAP_COMMON/../../s", "'@snap.x.y'", "127.0.0.1:0", "65536", "$SNAP_DATA/" + strings.Repeat("s", 200),
		}},
		{"apps.idle.sockets.s", "socket-mode", []string{"0660", "432", "07777", "'9'"}},
		{"apps.idle.sockets", "'../s'", []string{"{listen-stream: $SNAP_COMMON/s}"}},
		{"apps.idle.lifecycle", "refresh", []string{"restart", "endure", "reload", "handover", "defer", "kill"}},
		{"apps.idle.lifecycle", "kill", []string{"after-timeout", "never"}},
		{"apps.idle.lifecycle", "data", []string{"readonly", "readwrite"}},
		{"apps.idle.lifecycle", "observe", []string{"0s", "1s", "10000h"}},
		{"apps.idle.lifecycle", "drain-timeout", []string{"5m"}},
		{"apps.idle.lifecycle", "reload-timeout", []string{"5m"}},
		{"apps.idle.lifecycle", "instances", []string{"true", "false", "maybe"}},
		{"apps.idle.lifecycle.workloads.w", "match", []string{"'^probe'", "'('", "'(a{1000}){1000}'", "'" + strings.Repeat("(a*)*", 150) + "'"}},
		{"apps.idle.lifecycle.workloads.w", "refresh", []string{"endure", "stop", "restart"}},
		{"apps.idle.lifecycle.workloads.w", "remove", []string{"endure", "stop"}},
		{"apps.idle.lifecycle.workloads.w", "shutdown", []string{"endure", "stop"}},
		{"apps.idle.lifecycle.workloads.w", "stop-command", []string{"bin/probe", "../../x"}},
		{"apps.idle.lifecycle.workloads.w", "stop-signal", []string{"sigint", "sigkill"}},
		{"apps.idle.lifecycle.workloads.w", "stop-timeout", []string{"1s", "-1s"}},
		{"apps.idle.lifecycle.workloads.w", "kill", []string{"never", "always"}},
		{"apps.idle.lifecycle.workloads.w", "compatible-from", []string{"12", "x3", "1.0"}},
		{"apps.idle.lifecycle.workloads", "leftover", []string{"{match: x}"}},
	}
}

// wrongValues are values that hardly any key takes.
func wrongValues() []string {
	return []string{
		"-1", "0", "99999999999999999999", "1e400", ".nan", ".inf", "0x7fffffffffffffff", "0o17", "1_000", "2001-01-01", "~", "true",
		"[]", "{}", "[[[]]]", "{a: {b: c}}", "[null]", "[1, 2, 3]", "{? [a] : b}", "{'': ''}", "''", "' '", "|\n      \n", ">-\n      folded\n      text",
		`".."`, `"../../etc/passwd"`, `"/"`, `"a/../../b"`, `"$SNAP/../x"`, `"${HOME}"`, `"$(id)"`, `"a;b"`, `"%s%n"`, `"\0"`, `"\e[2J"`, `"a\nb"`, `"\u202Etxt"`, `"\x80"`,
		"日本語", "!!binary aGVsbG8=", "!!python/object/apply:os.system ['id']", "!!int x", "!!float x", "!!null x", "!!set {a, b}", "!x y",
		"*nobody", "&a [*a]", "&a {<<: *a}", "<<", "@x", "`x`", "'unclosed", "[unclosed", "{a: b", "a: b: c", "\t", "- x", "? x",
		strings.Repeat("x", 5000), "[" + strings.Repeat("x, ", 2000) + "x]", strings.Repeat("[", 200) + strings.Repeat("]", 200), strings.Repeat("{a: ", 100) + "b" + strings.Repeat("}", 100),
	}
}

// entry is a node of a description in the making.
type entry struct {
	name, value string
	inner       []*entry
}

func (e *entry) at(name string) *entry {
	for _, inner := range e.inner {
		if inner.name == name {
			return inner
		}
	}
	made := &entry{name: name}
	e.inner = append(e.inner, made)
	return made
}

func (e *entry) set(place, name, value string) {
	for step := range strings.SplitSeq(place, ".") {
		if step != "" {
			e = e.at(step)
		}
	}
	one := e.at(name)
	one.value, one.inner = value, nil
}

func (e *entry) print(b *strings.Builder, indent string) {
	for _, inner := range e.inner {
		fmt.Fprintf(b, "%s%s: %s\n", indent, inner.name, inner.value)
		inner.print(b, indent+"  ")
	}
}

func (e *entry) text() string {
	var b strings.Builder
	e.print(&b, "")
	return b.String()
}

// soundEntries are a description that is right.
func (m *Maker) soundEntries(name string) *entry {
	root := &entry{}
	root.set("", "name", name)
	root.set("", "version", "1")
	root.set("", "base", "bare")
	root.set("apps.try", "command", "bin/probe $SNAP/out/touched "+m.cfg.Canary+"/touched")
	root.set("apps.try", "daemon", "oneshot")
	root.set("apps.idle", "command", "bin/probe")
	root.set("apps.idle", "daemon", "simple")
	// For those that never say that they are ready.
	root.set("apps.idle", "start-timeout", "1s")
	return root
}

// description makes a sound tree with a description that is wrong in one of many ways.
func (m *Maker) description(_ context.Context, rng *rand.Rand, n int) (Case, error) {
	name := fmt.Sprintf("%s-%d", m.cfg.Prefix, n)
	root := m.soundEntries(name)
	var text, what string
	renamed := false
	// Cases 14 to 19 of every twenty are here; every document has its turn.
	switch turn := n/20*6 + n%20 - 14; {
	case turn%5 == 4:
		all := m.documents(name)
		one := all[turn/5%len(all)]
		text, what, renamed = one.text, one.what, strings.Contains(one.what, "name")
	case turn%10 == 0:
		text, what = garble(rng, root.text())
	default:
		var set []string
		for range 1 + rng.IntN(2) {
			k := pick(rng, keys())
			values := k.right
			if rng.IntN(2) == 0 {
				values = wrongValues()
			}
			value := pick(rng, values)
			root.set(k.place, k.name, value)
			set = append(set, fmt.Sprintf("%s.%s: %.40q", k.place, k.name, value))
			renamed = renamed || k.name == "name"
		}
		text, what = root.text(), strings.Join(set, ", ")
	}
	b, err := m.describe(text)
	if err != nil {
		return Case{}, err
	}
	file, err := m.write(b)
	return Case{What: what, File: file, Name: name, Renamed: renamed}, err
}

// describe is the smallest image that has room for a description.
func (m *Maker) describe(text string) ([]byte, error) {
	for i := range m.slots {
		if len(text) < m.slots[i].room {
			return m.slots[i].with(text), nil
		}
	}
	return nil, fmt.Errorf("there is no image for a description of %d bytes", len(text))
}

// garble changes single characters of a text.
func garble(rng *rand.Rand, text string) (garbled, what string) {
	b := []byte(text)
	var changes []string
	for range 1 + rng.IntN(4) {
		at := rng.IntN(len(b))
		c := pick(rng, []byte("\x00\x01\t\n\r\x1b \"'#&*-:<>?@[]{}|!%,`~\x7f\x80\xc2\xff"))
		b[at] = c
		changes = append(changes, fmt.Sprintf("%q at %d", c, at))
	}
	return string(b), "characters changed: " + strings.Join(changes, ", ")
}

// document is a whole description.
type document struct{ what, text string }

// documents are descriptions that are wrong as a whole, or too much.
func (m *Maker) documents(name string) []document {
	sound := m.soundEntries(name).text()
	header := "name: " + name + "\nversion: 1\nbase: bare\n"
	return slices.Concat(bombs(sound, header), circles(header), texts(sound), crowds(sound, header), titles(sound, name))
}

// bombs are small and come to a lot.
func bombs(sound, header string) []document {
	return []document{
		{"a thousand million laughs", laughs() + sound},
		{"a list that holds itself", sound + "x: &x [*x]\n"},
		{"a map merged into itself", header + "apps: &a\n  <<: *a\n"},
		{"a merge of many", header + "x: &x {a: 1}\napps:\n  <<: [" + strings.Repeat("*x,", 3000) + "]\n"},
		{"100,000 apps", header + "apps:\n" + repeat(100_000, "  a%: {}\n")},
		{"1,000 apps", header + "apps:\n" + repeat(1000, "  a%: {command: bin/probe}\n")},
		{"256 apps", header + "apps:\n" + repeat(256, "  a%: {command: bin/probe}\n")},
	}
}

// circles are services that wait for each other.
func circles(header string) []document {
	const service = "command: bin/probe, daemon: simple"
	return []document{
		{"60 services in a circle", header + "apps:\n" + repeat(59, "  a%: {"+service+", after: [b%]}\n  b%: {"+service+", after: [a%]}\n")},
		{"two services that wait for each other", header + "apps: {a: {" + service + ", after: [b]}, b: {" + service + ", after: [a]}}\n"},
		{"a service before and after another", header + "apps: {a: {" + service + ", after: [b], before: [b]}, b: {" + service + "}}\n"},
		{"a service after itself", header + "apps: {a: {" + service + ", after: [a]}}\n"},
		{"a circle of three through before", header + "apps: {a: {" + service + ", before: [b]}, b: {" + service + ", before: [c]}, c: {" + service + ", before: [a]}}\n"},
	}
}

// texts are wrong as YAML, or unusual.
func texts(sound string) []document {
	return []document{
		{"a key twice", sound + "version: 2\n"},
		{"the name twice", "name: other\n" + sound},
		{"an app twice", sound + "  idle: {command: bin/probe}\n"},
		{"two documents", sound + "---\n" + sound},
		{"a document that ends", sound + "...\nwhat comes after\n"},
		{"a byte order mark", "\ufeff" + sound},
		{"line ends of another system", strings.ReplaceAll(sound, "\n", "\r\n")},
		{"line ends of a third system", strings.ReplaceAll(sound, "\n", "\r")},
		{"tabs", strings.ReplaceAll(sound, "  ", "\t")},
		{"two bytes a character", strings.Join(strings.Split(sound, ""), "\x00")},
		{"a directive", "%YAML 9.9\n---\n" + sound},
		{"another directive", "%TAG ! tag:example.org,2000:\n---\n" + sound},
	}
}

// crowds have too many of something.
func crowds(sound, header string) []document {
	return []document{
		{"deep blocks", sound + deep(120)},
		{"deep lists", sound + "x: " + strings.Repeat("[", 3000)},
		{"many anchors", sound + "x: [" + repeat(900, "&a% b, ") + "]\n"},
		{"a key of 3,000 letters", sound + strings.Repeat("k", 3000) + ": v\n"},
		{"many unknown keys", sound + repeat(500, "k%: v\n")},
		{"many variables", header + "environment:\n" + repeat(2000, "  V%: '$V%'\n")},
		{"many layouts", header + "layout:\n" + repeat(300, "  /etc/l%: {type: tmpfs}\n")},
		{"many plugs", header + "plugs:\n" + repeat(1000, "  p%: network\n")},
		{"many hooks", header + "hooks:\n" + repeat(200, "  h%: {}\n")},
		{"many architectures", sound + "architectures: [" + repeat(900, "a%, ") + "]\n"},
		{"many assumptions", sound + "assumes: [" + repeat(900, "a%, ") + "]\n"},
		{"many wrong values", header + "apps:\n" + repeat(100, "  a%: {command: '*', daemon: x, stop-mode: y}\n")},
	}
}

// titles are no description at all, or have a wrong name.
func titles(sound, name string) []document {
	return []document{
		{"a list", "- a\n- b\n"},
		{"a word", "hello\n"},
		{"a number", "17\n"},
		{"nothing but a comment", "# nothing\n"},
		{"only a name", "name: " + name + "\n"},
		{"a name of 41 letters", strings.Replace(sound, name, strings.Repeat("n", 41), 1)},
		{"a name with dots", strings.Replace(sound, name, "../../"+name, 1)},
		{"a name that is a way", strings.Replace(sound, name, "/etc", 1)},
		{"a name of another script", strings.Replace(sound, name, "ｈｅｌｌｏ", 1)},
		{"the name of a directory that is there", strings.Replace(sound, name, "bin", 1)},
		{"the name of a base", strings.Replace(sound, name, "bare", 1)},
		{"the name with a key", strings.Replace(sound, name, name+"_key", 1)},
	}
}

// repeat writes format down count times, with the number for each percent sign.
func repeat(count int, format string) string {
	var b strings.Builder
	for i := range count {
		b.WriteString(strings.ReplaceAll(format, "%", fmt.Sprint(i)))
	}
	return b.String()
}

// laughs is small as it stands, and a thousand million values without aliases.
func laughs() string {
	var b strings.Builder
	b.WriteString("a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n")
	for i := range 8 {
		fmt.Fprintf(&b, "a%d: &a%d [%s]\n", i+1, i+1, strings.Repeat(fmt.Sprintf("*a%d,", i), 10))
	}
	return b.String()
}

func deep(levels int) string {
	var b strings.Builder
	for i := range levels {
		b.WriteString(strings.Repeat(" ", i) + "d:\n")
	}
	return b.String()
}
