package fdstore

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"syscall"
)

// Spawner starts holder processes. The program it runs must call Serve with os.Stdout as
// ServeConfig.Ready.
type Spawner struct {
	// Path is the program and Args its arguments, without its name.
	Path string
	Args []string
	// Env is the environment; nil is that of this process.
	Env []string
	// Group is the directory of the control group that the holder is born in; empty is
	// that of this process. It is opened for each, however late that is.
	Group string
}

// Spawn starts a holder in a session of its own and returns when it listens. It is meant for
// Config.Spawn. The holder outlives ctx, and this process.
func (s Spawner) Spawn(ctx context.Context) error {
	cmd := exec.CommandContext(context.WithoutCancel(ctx), s.Path, s.Args...)
	cmd.Env, cmd.Dir = s.Env, "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if s.Group != "" {
		group, err := os.Open(s.Group)
		if err != nil {
			return fmt.Errorf("start holder: %w", err)
		}
		defer group.Close() //nolint:errcheck // Opened to be passed on.
		cmd.SysProcAttr.UseCgroupFD, cmd.SysProcAttr.CgroupFD = true, int(group.Fd())
	}
	answer, stdout, err := os.Pipe()
	if err != nil {
		return fmt.Errorf("start holder %s: %w", s.Path, err)
	}
	defer func() { _ = answer.Close() }()
	cmd.Stdout = stdout
	err = cmd.Start()
	_ = stdout.Close()
	if err != nil {
		return fmt.Errorf("start holder: %w", err)
	}
	exited := make(chan error, 1)
	go func() { exited <- cmd.Wait() }() // Reaps it, however late that is.
	stop := context.AfterFunc(ctx, func() { _ = answer.Close() })
	defer stop()
	text, err := io.ReadAll(io.LimitReader(answer, maxAnswer))
	said := strings.TrimSpace(string(text))
	if said == ready {
		return nil
	}
	if ctx.Err() != nil {
		return fmt.Errorf("start holder %s: %w", s.Path, context.Cause(ctx))
	}
	if said != "" {
		err = errors.Join(errors.New(said), err)
	}
	return fmt.Errorf("start holder %s: %w", s.Path, errors.Join(err, <-exited))
}

// maxAnswer bounds what is read of a holder's error.
const maxAnswer = 4 << 10
