// Command tenured is the package daemon of Tenure.
//
//	tenured [--root DIR] [--snapd-socket PATH]  run the daemon
//	tenured boot                                do what is to be done before services start with the machine
//	tenured shutdown [--root DIR]               end the daemon, all that runs below the root, and its mounts
//
// The daemon ends with SIGTERM or SIGINT, and leaves all services running.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"runtime/debug"
	"strconv"
	"syscall"
	"time"

	"tenure/handover"
	"tenure/internal/api"
	"tenure/internal/daemon"
	"tenure/internal/sandbox"
	"tenure/internal/supervise/native"
	"tenure/internal/supervise/systemd"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "error:", err)
		os.Exit(systemd.ExitStatus(err))
	}
}

const usage = `Usage: tenured [--root DIR] [--snapd-socket PATH] [--verbose]
       tenured boot | shutdown [--root DIR]

tenured installs, runs and refreshes snaps. Its end leaves them running;
"tenured shutdown" ends it and them, as the end of the machine does. "tenured boot"
mounts snaps, applies what is staged, starts services and ends, without a daemon.

  --root DIR           run a private instance below DIR (or TENURE_ROOT)
  --snapd-socket PATH  listen at PATH too, for "snap" and other clients of snapd;
                       they look for it at /run/snapd.socket
  --supervisor NAME    "systemd" or "native" (or TENURE_SUPERVISOR); the default is
                       systemd for the machine itself, where that is process 1
  --verbose            say more
  --version            print the version
`

func run(args []string) error {
	command := ""
	if len(args) > 0 && args[0] != "" && args[0][0] != '-' {
		command, args = args[0], args[1:]
	}
	switch command {
	case "exec-listen":
		return native.ExecListen(args)
	case "unit":
		return unit(args)
	}
	flags := flag.NewFlagSet("tenured", flag.ContinueOnError)
	flags.Usage = func() { fmt.Fprint(os.Stderr, usage) }
	root := flags.String("root", os.Getenv("TENURE_ROOT"), "")
	snapd := flags.String("snapd-socket", "", "")
	supervisor := flags.String("supervisor", os.Getenv("TENURE_SUPERVISOR"), "")
	verbose := flags.Bool("verbose", false, "")
	version := flags.Bool("version", false, "")
	state := flags.String("journal", "", "") // Of preflight.
	if err := flags.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return nil
		}
		return err
	}
	if *version {
		fmt.Println("tenured", daemon.Version)
		return nil
	}
	if flags.NArg() > 0 {
		return fmt.Errorf("unexpected argument %q; see tenured --help", flags.Arg(0))
	}
	dir, err := filepath.Abs(filepath.Join("/", *root))
	if *root != "" {
		dir, err = filepath.Abs(*root)
	}
	if err != nil {
		return err
	}
	socket := *snapd
	if socket != "" {
		if socket, err = filepath.Abs(socket); err != nil {
			return err
		}
	}
	kind, err := daemon.ParseSupervisor(*supervisor)
	if err != nil {
		return err
	}
	return dispatch(command, daemon.Config{Root: dir, SnapdSocket: socket, Supervisor: kind, Args: args}, *verbose, *state)
}

// collectAt is how much the heap grows, in percent of what is in use, before it
// is collected: a daemon that mostly waits can spare the time, not the memory.
const collectAt = 50

// configure adds to cfg what belongs to this process, and makes the process fit for it.
func configure(cfg daemon.Config, level slog.Level) (daemon.Config, error) {
	debug.SetGCPercent(collectAt)
	self, err := os.Executable()
	if err != nil {
		return cfg, fmt.Errorf("find this program: %w", err)
	}
	cfg.Self, cfg.Logger = self, slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: level}))
	return cfg, sandbox.Disinherit()
}

func dispatch(command string, cfg daemon.Config, verbose bool, state string) error {
	level := slog.LevelInfo
	if verbose {
		level = slog.LevelDebug
	}
	cfg, err := configure(cfg, level)
	if err != nil {
		return err
	}
	if command == "holder" {
		// It is the last to go, and never by a signal of the terminal.
		signal.Ignore(syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP, syscall.SIGPIPE)
		return daemon.ServeHolder(context.Background(), cfg.Root)
	}
	if os.Geteuid() != 0 {
		return errors.New("tenured must run as root: it mounts snaps and starts services")
	}
	ctx, told := daemon.Hear(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	cfg.Told = told
	switch command {
	case "":
		err := inherit(&cfg)
		if err == nil {
			err = alone(ctx, cfg)
		}
		if err != nil {
			daemon.GoBack(ctx, cfg, err)
			return err
		}
		cfg.Ready = func() { cfg.Logger.Info("ready", slog.String("root", cfg.Root)) }
		return daemon.Run(ctx, cfg)
	case "preflight":
		return preflight(ctx, cfg, state)
	case "guard":
		return guard(ctx, cfg)
	case "rehearse":
		return daemon.Rehearse(ctx, cfg)
	case "boot":
		if err := inherit(&cfg); err != nil {
			return err
		}
		return daemon.Boot(ctx, cfg)
	case "shutdown":
		return daemon.Shutdown(ctx, cfg)
	default:
		return fmt.Errorf("there is no command %q; see tenured --help", command)
	}
}

func preflight(ctx context.Context, cfg daemon.Config, state string) error {
	fit, err := daemon.Preflight(ctx, cfg, state)
	if err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(fit)
}

// guard waits beside a program that takes the place of the daemon. The signs of life that were wanted of that process are its own.
func guard(ctx context.Context, cfg daemon.Config) error {
	const whose = "WATCHDOG_PID"
	if os.Getenv(whose) != "" {
		if err := os.Setenv(whose, strconv.Itoa(os.Getpid())); err != nil {
			return err
		}
	}
	if err := inherit(&cfg); err != nil {
		return err
	}
	return daemon.Guard(ctx, cfg)
}

// unit is what systemd runs for the unit of a service.
func unit(args []string) error {
	flags := flag.NewFlagSet("tenured unit", flag.ContinueOnError)
	root := flags.String("root", "/", "")
	if err := flags.Parse(args); err != nil {
		return err
	}
	err := systemd.Main(flags.Args())
	if !errors.Is(err, systemd.ErrNobody) {
		return err
	}
	if os.Getenv("MAINPID") == "" {
		return nil // It has ended by itself.
	}
	cfg, err := configure(daemon.Config{Root: *root, Supervisor: daemon.Systemd}, slog.LevelWarn)
	if err != nil {
		return err
	}
	told := make(chan os.Signal, 1)
	signal.Notify(told, syscall.SIGTERM, syscall.SIGINT)
	if err := daemon.StopUnit(context.Background(), cfg, flags.Args(), told); err != nil {
		cfg.Logger.Error("workloads are not set apart", slog.Any("error", err))
		return systemd.StopAlone(flags.Args())
	}
	return nil
}

// inherit takes what the manager of this process has passed to it: sockets, by the
// names that its units have, and the wish to know how it is (sd_listen_fds(3),
// sd_notify(3), sd_watchdog_enabled(3)).
func inherit(cfg *daemon.Config) error {
	var err error
	if cfg.Handed, err = daemon.Inherit(os.Getenv); err != nil {
		return err
	}
	passed, err := handover.Inherit()
	if err != nil {
		return err
	}
	for name, target := range map[string]**net.UnixListener{"tenured": &cfg.API, "snapctl": &cfg.Snapctl, "snapd": &cfg.Snapd, "entry": &cfg.Entry} {
		if listener, ok := passed.Listeners[name].(*net.UnixListener); ok {
			*target = listener
			delete(passed.Listeners, name)
		}
		if listener := cfg.Handed.Listeners[name]; listener != nil {
			*target = listener
		}
	}
	for name := range passed.Listeners {
		cfg.Logger.Warn("passed a socket that is not known", slog.String("name", name))
	}
	if os.Getenv("NOTIFY_SOCKET") != "" {
		cfg.Manager = daemon.Manager{Notify: handover.Notify, Barrier: handover.Barrier, Watchdog: watchdog(os.Getenv, os.Getpid())}
	}
	return passed.Close()
}

// watchdog is how long the manager waits for a sign of life of the process pid, and 0
// where it does not wait.
func watchdog(getenv func(string) string, pid int) time.Duration {
	usec, err := strconv.ParseInt(getenv("WATCHDOG_USEC"), 10, 64)
	if err != nil || usec <= 0 {
		return 0
	}
	if whom := getenv("WATCHDOG_PID"); whom != "" && whom != strconv.Itoa(pid) {
		return 0
	}
	return time.Duration(usec) * time.Microsecond
}

// alone refuses what cannot work: the machine's own root beside snapd.
func alone(ctx context.Context, cfg daemon.Config) error {
	const socket = "/run/snapd.socket"
	if cfg.Root != "/" || cfg.Snapd != nil {
		return nil
	}
	if err := api.Deserted(ctx, socket); err != nil {
		return fmt.Errorf("snapd is running on this machine (%s: %w); use --root DIR for an instance of Tenure beside it", socket, err)
	}
	return nil
}
