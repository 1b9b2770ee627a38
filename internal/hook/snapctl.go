package hook

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"regexp"
	"strings"
	"text/tabwriter"

	"tenure"
	"tenure/internal/change"
	"tenure/internal/proc"
)

// Caller is who calls snapctl, as the kernel tells.
type Caller struct {
	Unit tenure.UnitID
	UID  uint32
}

// isRoot refuses a command to those who are not.
func (c Caller) isRoot(command string) error {
	if c.UID != 0 {
		return fmt.Errorf("cannot use %q with uid %d, try with sudo", command, c.UID)
	}
	return nil
}

// Host is what packages act on by snapctl.
type Host interface {
	// UnitOf is the unit that a process belongs to.
	UnitOf(h *proc.Handle) (tenure.UnitID, error)
	// Conf is the configuration of the caller's snap; in a hook with what the hook
	// has set so far.
	Conf(c Caller) (Document, error)
	// SetConf changes it: in a hook when that has ended well, else at once.
	SetConf(c Caller, patch Patch) error
	ServiceHost
	// SetHealth notes what the caller says of its snap.
	SetHealth(ctx context.Context, c Caller, health Health) error
	ChangeHost
	// Version is the version of Tenure.
	Version() string
}

// ServiceHost is the part of a Host that is about services.
type ServiceHost interface {
	// Services are the caller's own, all of them if none is named.
	Services(ctx context.Context, c Caller, named []string) ([]Service, error)
	// Control starts, stops or restarts the caller's own services. It names the change that does it; 0 for a hook,
	// which does not wait for what is done after it. It fails with a *BusyError, and has done nothing, where another change
	// has to end before.
	Control(ctx context.Context, c Caller, control Control) (change.ID, error)
	// Await waits for the end of such a change, and fails if that has failed.
	Await(ctx context.Context, id change.ID) error
	// AwaitEnd waits for the end of any change, however it ends.
	AwaitEnd(ctx context.Context, id change.ID) error
	WorkloadHost
}

// ChangeHost is the part of a Host that is about changes.
type ChangeHost interface {
	// Change is a change that concerns the caller's snap; without an id the one that
	// the caller, a hook, runs for.
	Change(c Caller, id change.ID) (change.Change, error)
	// Fail makes the change that the caller, a hook, runs for fail.
	Fail(c Caller, message string) error
	// Progress says how far the caller, a hook, has come.
	Progress(c Caller, progress change.Progress) error
}

// Service is what there is to say about a service.
type Service struct {
	Name            string
	Enabled, Active bool
}

// Control is what is to be done to services.
type Control struct {
	// Action is start, stop or restart.
	Action string
	// Names are services, SNAP.APP, or the snap; of other snaps, instances of templates.
	Names []string
	// Args follow the command of an instance of a template that is started.
	Args []string
	// Permanent is that start enables and stop disables.
	Permanent bool
	Reload    bool
	// NoWait is that the caller does not wait for the end of it.
	NoWait bool
}

// Health is what a snap says of itself.
type Health struct {
	// Status is okay, waiting, blocked or error.
	Status  string `json:"status"`
	Message string `json:"message,omitempty"`
	Code    string `json:"code,omitempty"`
}

// Reply is what a call of snapctl came to.
type Reply struct {
	Stdout string `json:"stdout,omitempty"`
	Stderr string `json:"stderr,omitempty"`
	Status int    `json:"status,omitempty"`
}

// errUsage is a call that cannot be understood.
var errUsage = errors.New("it is called as")

func usage(want string) error { return fmt.Errorf("%w: %s", errUsage, want) }

// BusyError is that a call can be carried out when a change has ended, and not before.
type BusyError struct{ Change change.ID }

// Error says what has to end.
func (e *BusyError) Error() string { return fmt.Sprintf("change %s has to end before", e.Change) }

// Execute carries out one call of snapctl.
func Execute(ctx context.Context, host Host, caller Caller, args []string) Reply {
	// Not every call asks the host.
	await := func(ctx context.Context, id change.ID) error { return host.AwaitEnd(ctx, id) }
	reply, waitsFor, err := begin(ctx, host, caller, args, await)
	switch {
	case err != nil:
		return replyTo("", err)
	case waitsFor != 0:
		return replyTo("", host.Await(ctx, waitsFor))
	}
	return reply
}

// begin carries out a call, but for what is a change that it waits for, as soon as it can be. await waits for changes that have
// to end before; where it fails nothing has begun.
func begin(
	ctx context.Context, host Host, caller Caller, args []string, await func(context.Context, change.ID) error,
) (reply Reply, waitsFor change.ID, err error) {
	for {
		var stdout strings.Builder
		err := execute(ctx, host, caller, args, &stdout)
		if wait, is := errors.AsType[*waitError](err); is {
			return Reply{}, wait.id, nil
		}
		busy, is := errors.AsType[*BusyError](err)
		if !is {
			return replyTo(stdout.String(), err), 0, nil
		}
		if err := await(ctx, busy.Change); err != nil {
			return Reply{}, 0, err
		}
	}
}

// replyTo is the reply to a call that has ended with err.
func replyTo(stdout string, err error) Reply {
	reply := Reply{}
	if status, ok := errors.AsType[statusError](err); ok {
		reply.Status = int(status)
	} else if err != nil {
		reply = complaint(err.Error())
	}
	reply.Stdout = stdout
	return reply
}

// waitError is that a call has its answer at the end of a change.
type waitError struct{ id change.ID }

func (e *waitError) Error() string { return fmt.Sprintf("change %s is in progress", e.id) }

func execute(ctx context.Context, host Host, caller Caller, args []string, w io.Writer) error {
	if len(args) == 0 {
		return usage("snapctl COMMAND")
	}
	command, args := args[0], args[1:]
	switch command {
	case "get":
		return get(host, caller, args, w)
	case "services":
		return services(ctx, host, caller, args, w)
	case "set-health":
		return setHealth(ctx, host, caller, args)
	case "workload":
		return workload(ctx, host, caller, args, w)
	case "version":
		_, err := fmt.Fprintln(w, "tenure "+host.Version())
		return err
	case "is-ready":
		return isReady(host, caller, args)
	case "tasks", "change":
		return tasks(host, caller, command, args, w)
	case "fail":
		return fail(host, caller, args)
	case "progress":
		return progress(host, caller, args)
	case "set", "unset", "start", "stop", "restart":
		if err := caller.isRoot(command); err != nil {
			return err
		}
	case "refresh":
		return refresh(ctx, host, caller, args, w)
	default:
		return fmt.Errorf("there is no command %q here; there are: %s", command, commands)
	}
	switch command {
	case "set":
		return set(host, caller, args)
	case "unset":
		return unset(host, caller, args)
	}
	return control(ctx, host, caller, append([]string{command}, args...), w)
}

// commands are all of them, for people.
const commands = "get, set, unset, services, start, stop, restart, workload, refresh, set-health, is-ready, tasks, change, fail, progress, reason, version"

// flags takes flags and the rest, in any order, as people write them.
func flags(set *flag.FlagSet, args []string) ([]string, error) {
	set.SetOutput(io.Discard)
	var rest []string
	for {
		if err := set.Parse(args); err != nil {
			return nil, fmt.Errorf("read arguments: %w", err)
		}
		if set.NArg() == 0 {
			return rest, nil
		}
		rest, args = append(rest, set.Arg(0)), set.Args()[1:]
	}
}

// ownKeys refuses keys of other snaps: ":plug".
func ownKeys(keys []string) error {
	for _, key := range keys {
		if strings.HasPrefix(key, ":") {
			return fmt.Errorf("attributes of plugs and slots (%s) cannot be read or written yet", key)
		}
	}
	return nil
}

func get(host Host, caller Caller, args []string, w io.Writer) error {
	fs := flag.NewFlagSet("get", flag.ContinueOnError)
	document, typed := fs.Bool("d", false, ""), fs.Bool("t", false, "")
	keys, err := flags(fs, args)
	if err == nil {
		err = ownKeys(keys)
	}
	if err != nil {
		return err
	}
	if len(keys) == 0 {
		return usage("snapctl get [-d] [-t] OPTION...")
	}
	if *document && *typed {
		return errors.New("cannot use -d and -t together")
	}
	conf, err := host.Conf(caller)
	if err != nil {
		return err
	}
	found := map[string]any{}
	for _, key := range keys {
		value, there, err := conf.Get(key)
		if err != nil {
			return err
		}
		if there {
			found[key] = value
		}
	}
	return printValues(w, keys, found, *document, *typed)
}

// printValues writes values as snapctl does: a single one by itself, several as a
// document.
func printValues(w io.Writer, keys []string, found map[string]any, document, typed bool) error {
	var value any = found
	if len(keys) == 1 && !document {
		value = found[keys[0]]
		if text, isText := value.(string); isText && !typed {
			_, err := fmt.Fprintln(w, text)
			return err
		}
		if value == nil && !typed {
			_, err := fmt.Fprintln(w)
			return err
		}
	}
	var text []byte
	var err error
	if _, isDocument := value.(map[string]any); isDocument {
		text, err = json.MarshalIndent(value, "", "\t")
	} else {
		text, err = json.Marshal(value)
	}
	if err == nil {
		_, err = fmt.Fprintf(w, "%s\n", text)
	}
	return err
}

func set(host Host, caller Caller, args []string) error {
	fs := flag.NewFlagSet("set", flag.ContinueOnError)
	asText, asJSON := fs.Bool("s", false, ""), fs.Bool("t", false, "")
	assignments, err := flags(fs, args)
	if err == nil {
		err = ownKeys(assignments)
	}
	if err != nil {
		return err
	}
	if len(assignments) == 0 {
		return usage("snapctl set [-s] [-t] OPTION=VALUE...")
	}
	patch := Patch{}
	for _, assignment := range assignments {
		if key, unset := strings.CutSuffix(assignment, "!"); unset && !strings.Contains(key, "=") {
			patch[key] = nil
			continue
		}
		key, text, ok := strings.Cut(assignment, "=")
		if !ok {
			return fmt.Errorf("invalid parameter: %q (want key=value)", assignment)
		}
		value, err := ParseValue(text)
		if err != nil && *asJSON {
			return fmt.Errorf("failed to parse JSON: %w", err)
		}
		if err != nil || *asText {
			value = text
		}
		patch[key] = value
	}
	return host.SetConf(caller, patch)
}

func unset(host Host, caller Caller, args []string) error {
	if err := ownKeys(args); err != nil {
		return err
	}
	if len(args) == 0 {
		return usage("snapctl unset OPTION...")
	}
	patch := Patch{}
	for _, key := range args {
		patch[key] = nil
	}
	return host.SetConf(caller, patch)
}

func services(ctx context.Context, host Host, caller Caller, args []string, w io.Writer) error {
	list, err := host.Services(ctx, caller, args)
	if err != nil {
		return err
	}
	table := tabwriter.NewWriter(w, 2, 2, 2, ' ', 0)
	fmt.Fprintln(table, "Service\tStartup\tCurrent\tNotes") //nolint:errcheck // Flush tells.
	for _, service := range list {
		startup, current := "disabled", "inactive"
		if service.Enabled {
			startup = "enabled"
		}
		if service.Active {
			current = "active"
		}
		fmt.Fprintf(table, "%s\t%s\t%s\t-\n", service.Name, startup, current) //nolint:errcheck // Flush tells.
	}
	return table.Flush()
}

// control begins what is to be done to services. It says which change that is, or fails with a waitError where the
// caller waits for it.
func control(ctx context.Context, host Host, caller Caller, call []string, w io.Writer) (err error) {
	action, args := call[0], call[1:]
	fs := flag.NewFlagSet(action, flag.ContinueOnError)
	c := Control{Action: action}
	fs.BoolVar(&c.NoWait, "no-wait", false, "")
	switch action {
	case "start":
		fs.BoolVar(&c.Permanent, "enable", false, "")
	case "stop":
		fs.BoolVar(&c.Permanent, "disable", false, "")
	case "restart":
		fs.BoolVar(&c.Reload, "reload", false, "")
	}
	args, c.Args = cutCommand(args)
	if c.Names, err = flags(fs, args); err != nil {
		return err
	}
	if len(c.Names) == 0 {
		return usage("snapctl " + action + " [--no-wait] SERVICE...")
	}
	id, err := host.Control(ctx, caller, c)
	switch {
	case err != nil || id == 0:
		return err
	case !c.NoWait:
		return &waitError{id}
	}
	_, err = fmt.Fprintln(w, id)
	return err
}

// healthCode is what the code of a health may be, as with snapd; it may be left out.
const healthCode = `^([a-z](?:-?[a-z0-9]){2,29})?$`

func setHealth(ctx context.Context, host Host, caller Caller, args []string) error {
	fs := flag.NewFlagSet("set-health", flag.ContinueOnError)
	code := fs.String("code", "", "")
	rest, err := flags(fs, args)
	if err != nil {
		return err
	}
	if len(rest) == 0 || len(rest) > 2 {
		return usage("snapctl set-health [--code=CODE] STATUS [MESSAGE]")
	}
	health := Health{Status: rest[0], Code: *code}
	if len(rest) == 2 {
		health.Message = oneLine(rest[1])
	}
	if !regexp.MustCompile(healthCode).MatchString(health.Code) {
		return fmt.Errorf("invalid code %q (want 3 to 30 of a-z, 0-9 and -, a letter first)", health.Code)
	}
	switch health.Status {
	case "okay":
		if health.Message != "" || health.Code != "" {
			return errors.New(`when status is "okay", message and code must be empty`)
		}
	case "waiting", "blocked", "error":
		if health.Message == "" {
			return fmt.Errorf("when status is %q, a message is needed", health.Status)
		}
	default:
		return fmt.Errorf("invalid status %q (want one of: okay, waiting, blocked, error)", health.Status)
	}
	return host.SetHealth(ctx, caller, health)
}
