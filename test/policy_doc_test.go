package test

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"tenure/examples/clients/snaps"
	"tenure/test/rig"
)

// TestPolicyDocument runs the examples of docs/policy.md: every file of rules in it is
// used, and every command below one says what stands there. Pids differ, and so does
// the width of columns; the machines of the example are no real ones.
func TestPolicyDocument(t *testing.T) {
	t.Parallel()
	root, err := snaps.Checkout()
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(filepath.Join(root, "docs", "policy.md"))
	if err != nil {
		t.Fatal(err)
	}
	i := rig.New(t, rig.Config{Observe: true})
	files := documentSnaps(t, i)
	blocks := regexp.MustCompile("(?ms)^```(yaml|console)\n(.*?)^```$").FindAllStringSubmatch(string(text), -1)
	var ran, used int
	for _, block := range blocks {
		if block[1] == "yaml" {
			used++
			setRules(t, i, block[2])
			if status := i.Tenure("policy"); strings.Contains(status, "broken") {
				t.Errorf("these rules cannot be used:\n%s%s", block[2], status)
			}
			continue
		}
		for _, command := range strings.Split("\n"+block[2], "\n$ tenure ")[1:] {
			ran++
			line, want, _ := strings.Cut(command, "\n")
			args := strings.Fields(line)
			for j := range args {
				if file := files[strings.TrimPrefix(args[j], "./")]; file != "" {
					args[j] = file
				}
			}
			got := i.Tenure(args...)
			if plainly(got) != plainly(want) {
				t.Errorf("tenure %s says\n%s\nand the document\n%s", line, plainly(got), plainly(want))
			}
		}
	}
	if used < 7 || ran < 6 {
		t.Errorf("the document has %d files of rules and %d commands; has its form changed?", used, ran)
	}
}

// plainly is what a command says without what is different every time.
func plainly(text string) string {
	text = strings.ReplaceAll(text, " exe ", " qemu-system-x86_64 ")
	text = regexp.MustCompile(`\b\d{3,}\b`).ReplaceAllString(text, "PID")
	return strings.TrimSpace(regexp.MustCompile(` +`).ReplaceAllString(text, " "))
}

// documentSnaps installs the snaps of which the document speaks, and gives the files of
// their next versions.
func documentSnaps(t *testing.T, i *rig.Instance) map[string]string {
	t.Helper()
	yaml := func(name, version, services string) string {
		return strings.Replace(probeYAML(version, strings.ReplaceAll(services, "PROBE", "bin/"+name)), "name: probe", "name: "+name, 1)
	}
	trap := listenTo(t, i, "virt")
	postgres := `
server:
	daemon: notify
	command: bin/postgres server child:pg_dump trap notify:READY:1 run
	stop-timeout: 10m
`
	virt := `
virtd:
	daemon: notify
	command: bin/virtd virtd child:vm trap notify:READY:1 run
	lifecycle:
	  workloads:
	    vm: {match: ' virtd.vm '}
`
	i.Tenure("install", "--dangerous", probeSnapAs(t, i, "postgres", yaml("postgres", "15.4", postgres)))
	i.Tenure("install", "--dangerous", probeSnapAs(t, i, "virtd", yaml("virt", "1.2", virt)))
	trap.expect("virtd.vm", "up")
	return map[string]string{
		"postgres_2.snap": probeSnapAs(t, i, "postgres", yaml("postgres", "16.0", postgres)),
		"virt_2.snap":     probeSnapAs(t, i, "virtd", yaml("virt", "1.3", virt)),
	}
}
