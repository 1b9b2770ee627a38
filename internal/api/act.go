package api

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"mime/multipart"
	"net/http"
	"os"
	"slices"
	"strings"

	"tenure"
	"tenure/client"
	"tenure/internal/durable"
	"tenure/internal/policy"
	"tenure/internal/refresh"
)

// maxBody bounds a JSON body, and a field of a form, in bytes; maxFields their number.
const (
	maxBody   = 1 << 20
	maxField  = 4 << 10
	maxFields = 64
	maxFiles  = 1000
)

func (s *server) changeAction(r *http.Request) (*reply, error) {
	var body struct {
		Action string `json:"action"`
	}
	if err := readJSON(r, &body); err != nil {
		return nil, err
	}
	if body.Action != "abort" {
		return nil, bad(fmt.Sprintf("change action %q is unsupported", body.Action))
	}
	if err := s.abort(r, r.PathValue("id")); err != nil {
		return nil, err
	}
	return s.change(r)
}

func (s *server) snapsAction(r *http.Request) (*reply, error) { return s.act(r, "") }

func (s *server) snapAction(r *http.Request) (*reply, error) { return s.act(r, r.PathValue("name")) }

func (s *server) appsAction(r *http.Request) (*reply, error) { return s.act(r, "") }

// act carries out what the body asks for.
func (s *server) act(r *http.Request, name string) (*reply, error) {
	asked, err := s.readAction(r, name)
	if err != nil {
		return nil, err
	}
	defer asked.done()
	if asked.action.Action == actionSnapshot {
		return s.save(r, &asked.action)
	}
	request, err := requestOf(asked.action, asked.files)
	if err != nil {
		return nil, err
	}
	if request.OfAll() {
		return s.refreshAll(r, request)
	}
	if forSnapd(r) && request.Action == refresh.ActionRemove && len(request.Snaps) > 1 {
		if request.Snaps, err = s.installed(r.Context(), request.Snaps); err != nil || len(request.Snaps) == 0 {
			return &reply{joint: noChange}, err
		}
	}
	id, err := s.cfg.Manager.Do(r.Context(), request)
	if forSnapd(r) && isNoChange(r, &request, err) {
		return &reply{joint: noChange}, nil
	}
	if err != nil {
		return nil, err
	}
	return &reply{change: id}, nil
}

// plan says what would be done.
func (s *server) plan(r *http.Request) (*reply, error) {
	asked, err := s.readAction(r, "")
	if err != nil {
		return nil, err
	}
	defer asked.done()
	request, err := requestOf(asked.action, asked.files)
	if err != nil {
		return nil, err
	}
	decided, err := s.cfg.Manager.Plan(r.Context(), request)
	if err != nil {
		return nil, err
	}
	plans := make([]client.Plan, 0, len(decided))
	for _, plan := range decided {
		raw, err := json.Marshal(plan)
		if err != nil {
			return nil, fmt.Errorf("write the plan: %w", err)
		}
		plans = append(plans, client.Plan{Plan: raw, Text: planText(plan)})
	}
	return &reply{result: plans}, nil
}

func planText(plan policy.Plan) string { return plan.String() }

// asked is what is asked for, with the files of a form. Done removes what was received.
type asked struct {
	action client.Action
	files  []refresh.File
	done   func()
}

// readAction reads what is asked for from JSON or from a form with files.
func (s *server) readAction(r *http.Request, name string) (asked, error) {
	a := asked{done: func() {}}
	media, params, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	if err == nil && media == "multipart/form-data" {
		upload := &upload{dir: s.cfg.Manager.Paths().Staging()}
		s.litter.remove()                                      // It may have room now.
		a.done = func() { s.litter.remove(upload.paths()...) } // A change may have taken them.
		if a.action, err = upload.receive(r.Context(), multipart.NewReader(r.Body, params["boundary"])); err != nil {
			a.done()
			return asked{}, err
		}
		a.files = upload.files
	} else if err := readJSON(r, &a.action, ignored()...); err != nil {
		return asked{}, err
	}
	if name != "" {
		a.action.Snaps = []string{name}
	}
	return a, nil
}

// instances are the snaps of some names.
func instances(names []string) (snaps []tenure.Instance, err error) {
	for _, name := range names {
		snap, err := tenure.ParseInstance(name)
		if err != nil {
			return nil, err
		}
		snaps = append(snaps, snap)
	}
	return snaps, nil
}

func requestOf(action client.Action, files []refresh.File) (refresh.Request, error) {
	request := refresh.Request{
		Action: refresh.Action(action.Action), Files: files, Names: action.Names, Args: action.Args,
		Permanent: action.Enable || action.Disable, Reload: action.Reload, Purge: action.Purge,
		Channel: action.Channel, Source: action.Source, Amend: action.Amend,
		Options: refresh.Options{
			Dangerous: action.Dangerous, DevMode: action.DevMode, JailMode: action.JailMode, Classic: action.Classic,
			IgnoreRunning: action.IgnoreRunning, Kill: action.Kill,
			Force: action.Force, Now: action.Now, Leave: action.Leave,
		},
	}
	var err error
	if request.Snaps, err = instances(action.Snaps); err != nil {
		return request, err
	}
	if action.Action == "hold" || action.Action == "unhold" {
		hold, err := holdOf(&action, request.Snaps)
		request.Hold = hold
		return request, err
	}
	switch request.Action {
	case refresh.ActionInstall, refresh.ActionRefresh, refresh.ActionRevert, refresh.ActionRemove, refresh.ActionEnable,
		refresh.ActionDisable, refresh.ActionStart, refresh.ActionStop, refresh.ActionRestart, refresh.ActionSwitch:
	default:
		return request, bad(fmt.Sprintf("unsupported action %q", action.Action))
	}
	if err := contradicting(&action, request.Action, files); err != nil {
		return request, err
	}
	if action.Revision != "" {
		rev, err := tenure.ParseRevision(action.Revision)
		if err != nil {
			return request, err
		}
		request.Revision = rev
	}
	if action.Name != "" {
		if len(files) != 1 {
			return request, bad("a name can only be given to one file")
		}
		name, err := tenure.ParseInstance(action.Name)
		if err != nil {
			return request, err
		}
		request.Files[0].Name = name
	}
	return request, nil
}

// contradicting refuses fields of an action that do not go together.
func contradicting(action *client.Action, verb refresh.Action, files []refresh.File) error {
	if action.Enable && verb != refresh.ActionStart || action.Disable && verb != refresh.ActionStop {
		return bad("--enable goes with start, --disable with stop")
	}
	if action.Terminate && verb != refresh.ActionRemove {
		return bad("terminate goes with remove, which ends what runs in any case")
	}
	if action.Channel+action.Source != "" && len(files) > 0 {
		return bad("a file comes from no channel and no source: give the name of a snap, or leave those out")
	}
	if verb == refresh.ActionRefresh && len(files)+len(action.Snaps) == 0 && (action.Channel+action.Source != "" || action.Amend) {
		return bad("a channel, a source and amend go with the names of snaps")
	}
	if action.Time+action.HoldLevel != "" {
		return bad("time and hold-level go with hold and unhold")
	}
	if action.Revision != "" && len(files) > 0 {
		return bad("a file is the revision that it is: leave the revision out, or give the name of a snap")
	}
	if action.Revision != "" && len(action.Snaps) > 1 {
		return bad("a single snap name is needed to specify the revision")
	}
	return nil
}

// upload is a form with snap files, which go to the disk as they come.
type upload struct {
	dir    string
	fields map[string]string
	files  []refresh.File
}

// receive reads the form, and says what it asks for.
func (u *upload) receive(ctx context.Context, form *multipart.Reader) (client.Action, error) {
	err := u.read(form)
	if err == nil && u.fields["action"] == actionTry {
		err = u.pack(ctx)
	}
	if err != nil {
		return client.Action{}, err
	}
	return u.action()
}

func (u *upload) read(form *multipart.Reader) error {
	u.fields = map[string]string{}
	for {
		part, err := form.NextRawPart()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return bad("cannot read the form: " + err.Error())
		}
		if err := u.part(part); err != nil {
			return err
		}
	}
}

func (u *upload) part(part *multipart.Part) error {
	_, params, err := mime.ParseMediaType(part.Header.Get("Content-Disposition"))
	if err != nil {
		return bad("cannot read the form: " + err.Error())
	}
	if params["name"] == "snap" {
		return u.file(part, params["filename"])
	}
	value, err := io.ReadAll(io.LimitReader(part, maxField+1))
	if err != nil {
		return bad("cannot read the form: " + err.Error())
	}
	if len(value) > maxField || len(u.fields) >= maxFields {
		return bad("the form has too many or too long fields")
	}
	u.fields[params["name"]] = string(value)
	return nil
}

func (u *upload) file(part *multipart.Part, label string) (err error) {
	if len(u.files) >= maxFiles {
		return bad(fmt.Sprintf("more than %d files in one request", maxFiles))
	}
	file, err := os.CreateTemp(u.dir, "upload-*.snap")
	if err != nil {
		return fmt.Errorf("receive %q: %w", label, err)
	}
	u.files = append(u.files, refresh.File{Path: file.Name(), Label: label})
	// Its directory is for nobody else, and who reads it without rights need not have a copy.
	if err = file.Chmod(0o644); err == nil {
		_, err = io.Copy(file, part)
	}
	if err == nil {
		durable.Begin(file)
	}
	if err := errors.Join(err, file.Close()); err != nil {
		return fmt.Errorf("receive %q: %w", label, err)
	}
	return nil
}

func (u *upload) paths() (paths []string) {
	for _, file := range u.files {
		paths = append(paths, file.Path)
	}
	return paths
}

// known refuses fields that nothing would become of.
func (u *upload) known() error {
	fields := append(ignored(), "amend", "users", "action", "name", "channel", "snap-path",
		"dangerous", "devmode", "jailmode", "classic", "ignore-running", "kill", "force", "now")
	for name := range u.fields {
		if !slices.Contains(fields, name) {
			return bad(fmt.Sprintf("there is no field %q; the fields are %s", name, strings.Join(slices.Sorted(slices.Values(fields)), ", ")))
		}
	}
	return nil
}

func (u *upload) action() (client.Action, error) {
	if err := u.known(); err != nil {
		return client.Action{}, err
	}
	action := client.Action{Action: u.fields["action"], Name: u.fields["name"], Channel: u.fields["channel"]}
	if action.Action == "" {
		action.Action = string(refresh.ActionInstall)
	}
	for name, set := range map[string]*bool{
		"dangerous": &action.Dangerous, "devmode": &action.DevMode, "jailmode": &action.JailMode, "classic": &action.Classic,
		"ignore-running": &action.IgnoreRunning, "kill": &action.Kill,
		"force": &action.Force, "now": &action.Now,
	} {
		switch value := u.fields[name]; value {
		case "true":
			*set = true
		case "", "false":
		default:
			return action, bad(fmt.Sprintf("%s should be true or false; it is %q", name, value))
		}
	}
	if len(u.files) == 0 {
		return action, bad("there is no snap file in the form")
	}
	return action, nil
}
