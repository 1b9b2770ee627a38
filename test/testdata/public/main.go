// This program takes a snap through its life by the public client package of snapd's API
// (github.com/snapcore/snapd/client, as Debian packages it), and prints what it is told. The
// package is not part of Tenure: scripts/public-client gets it and builds this.
package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"sort"
	"time"

	"github.com/snapcore/snapd/client"
)

func main() {
	if err := run(os.Args[1], os.Args[2], os.Args[3], os.Args[4]); err != nil {
		fmt.Println("error:", err)
		os.Exit(1)
	}
}

// life is the snap that lives.
const life = "life"

type session struct{ *client.Client }

func run(socket, base, first, second string) error {
	s := session{client.New(&client.Config{Socket: socket})}
	trusted := &client.SnapOptions{Dangerous: true}
	info, err := s.SysInfo()
	if err != nil {
		return err
	}
	fmt.Println("series", info.Series, "classic", info.OnClassic)
	steps := []struct {
		name  string
		begin func() (string, error)
	}{
		{"install base", func() (string, error) { return s.InstallPath(base, "", trusted) }},
		{"install", func() (string, error) { return s.InstallPath(first, "", trusted) }},
		{"stop", func() (string, error) { return s.Stop([]string{"life.lifed"}, client.StopOptions{}) }},
		{"start", func() (string, error) { return s.Start([]string{"life.lifed"}, client.StartOptions{}) }},
		{"restart", func() (string, error) { return s.Restart([]string{"life"}, client.RestartOptions{Reload: true}) }},
		{"set", func() (string, error) { return s.SetConf(life, map[string]interface{}{"port": 8080}) }},
		{"set badly", func() (string, error) { return s.SetConf(life, map[string]interface{}{"port": "http"}) }},
		{"alias", func() (string, error) { return s.Alias(life, "greet", "hi") }},
		{"refresh", func() (string, error) { return s.InstallPath(second, "", trusted) }},
		{"revert", func() (string, error) { return s.Revert(life, nil) }},
		{"unalias", func() (string, error) { return s.RemoveManualAlias("hi") }},
		{"disable", func() (string, error) { return s.Disable(life, nil) }},
		{"enable", func() (string, error) { return s.Enable(life, nil) }},
		{"remove", func() (string, error) { return s.Remove(life, &client.SnapOptions{Purge: true}) }},
	}
	for _, step := range steps {
		id, err := step.begin()
		if err != nil {
			return fmt.Errorf("%s: %v", step.name, err)
		}
		if err := s.await(step.name, id); err != nil {
			return err
		}
	}
	_, err = s.Revert(life, nil)
	if e, ok := err.(*client.Error); ok {
		fmt.Println("revert what is gone:", e.Kind)
	}
	changes, err := s.Changes(&client.ChangesOptions{Selector: client.ChangesAll})
	fmt.Println(len(changes), "changes")
	return err
}

// await waits for a change as snapd's own command does, and says what there is then.
func (s session) await(name, id string) error {
	for {
		change, err := s.Change(id)
		if err != nil {
			return fmt.Errorf("%s: change %s: %v", name, id, err)
		}
		if !change.Ready {
			time.Sleep(20 * time.Millisecond)
			continue
		}
		var names []string
		if err := change.Get("snap-names", &names); err != nil {
			return fmt.Errorf("%s: names of change %s: %v", name, id, err)
		}
		fmt.Println(name+":", change.Kind, change.Status, names, len(change.Tasks) > 0, change.Err)
		return s.show()
	}
}

func (s session) show() error {
	snap, _, err := s.Snap(life)
	var e *client.Error
	if errors.As(err, &e) {
		fmt.Println(" ", e.Kind)
		return nil
	}
	if err != nil {
		return err
	}
	fmt.Println(" ", snap.Name, snap.Version, snap.Revision, snap.Status, snap.Type, snap.Confinement, snap.InstallDate.IsZero())
	apps, err := s.Apps([]string{life}, client.AppOptions{Service: true})
	if err != nil {
		return err
	}
	sort.Slice(apps, func(i, j int) bool { return apps[i].Name < apps[j].Name })
	for _, app := range apps {
		fmt.Println("   ", app.Name, app.Daemon, app.Enabled, app.Active, len(app.Activators))
	}
	conf, err := s.Conf(life, nil)
	if err != nil {
		return err
	}
	aliases, err := s.Aliases()
	if err != nil {
		return err
	}
	said, err := s.Logs([]string{life}, client.LogOptions{N: -1, Follow: true})
	if err != nil {
		return err
	}
	line := <-said // The others come at any time.
	text, err := json.Marshal(conf)
	fmt.Println("   ", string(text), aliases[life]["hi"].Command, line.Message, line.SID, !line.Timestamp.IsZero())
	return err
}
