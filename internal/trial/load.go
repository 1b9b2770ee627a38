package trial

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// load counts requests, in phases.
type load struct {
	mu      sync.Mutex
	answers []answer
	// asked is closed when there was the first answer.
	asked chan struct{}
	ended sync.WaitGroup
	stop  context.CancelFunc
}

type answer struct {
	at     time.Time
	took   time.Duration
	failed string
}

const (
	// maxLine bounds a line of the load command.
	maxLine = 64 << 10
	// maxFailures is how many failures are told in words.
	maxFailures = 5
	// answerPatience bounds one request of the built-in client.
	answerPatience = time.Minute
)

func newLoad() *load { return &load{asked: make(chan struct{})} }

func (l *load) note(a answer) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.answers) == 0 {
		close(l.asked)
	}
	l.answers = append(l.answers, a)
}

// between is what was answered in a time.
func (l *load) between(from, to time.Time) *Load {
	l.mu.Lock()
	defer l.mu.Unlock()
	result := &Load{}
	var took []time.Duration
	for _, a := range l.answers {
		switch {
		case a.at.Before(from) || a.at.After(to):
			continue
		case a.failed == "":
			took = append(took, a.took)
		default:
			result.Failed++
			if len(result.Failures) < maxFailures {
				result.Failures = append(result.Failures, a.failed)
			}
		}
		result.Requests++
	}
	if len(took) == 0 {
		return result
	}
	slices.Sort(took)
	at := func(percent int) float64 { return milliseconds(took[(len(took)-1)*percent/100]) }
	result.Median, result.P99, result.Slowest = at(50), at(99), at(100)
	return result
}

// command runs a command, whose lines are the answers.
func (l *load) command(ctx context.Context, script string, env []string) error {
	cmd := exec.CommandContext(ctx, "/bin/sh", "-c", script) //nolint:gosec // What the packager has given.
	cmd.Env = append(os.Environ(), env...)
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	// Whatever the shell has started is told as well.
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGTERM) }
	cmd.WaitDelay = 10 * time.Second
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		return fmt.Errorf("run the load: %w", err)
	}
	l.ended.Go(func() {
		lines := bufio.NewScanner(out)
		lines.Buffer(nil, maxLine)
		for lines.Scan() {
			l.note(parseAnswer(lines.Text(), time.Now()))
		}
		err := errors.Join(lines.Err(), cmd.Wait())
		if ctx.Err() == nil {
			l.note(answer{at: time.Now(), failed: fmt.Sprintf("the load command has ended: %v", err)})
		}
	})
	return nil
}

// parseAnswer reads "ok MILLISECONDS" or "failed WHY"; what it cannot read has failed.
func parseAnswer(line string, at time.Time) answer {
	word, rest, _ := strings.Cut(strings.TrimSpace(line), " ")
	switch took, err := strconv.ParseFloat(strings.TrimSpace(rest), 64); {
	case word == "ok" && err == nil && took >= 0 && took < 1e9:
		return answer{at: at, took: time.Duration(took * float64(time.Millisecond))}
	case word == "failed":
		return answer{at: at, failed: strings.TrimSpace(rest)}
	}
	return answer{at: at, failed: fmt.Sprintf("the load command says %q, and not \"ok MILLISECONDS\" or \"failed WHY\"", line)}
}

// target is what the built-in client asks.
type target struct{ network, address, host, path string }

// parseTarget reads a URL, or unix:NAME.
func parseTarget(text, common string) (target, error) {
	if name, found := strings.CutPrefix(text, "unix:"); found && name != "" {
		return target{"unix", filepath.Join(common, name), "localhost", "/"}, nil
	}
	u, err := url.Parse(text)
	if err != nil || u.Scheme != "http" || u.Hostname() == "" || u.Port() == "" {
		return target{}, fmt.Errorf("cannot ask %q: want http://HOST:PORT/PATH, or unix:NAME for a socket in $SNAP_COMMON", text)
	}
	return target{"tcp", u.Host, u.Host, u.RequestURI()}, nil
}

// asker asks one question after another, each on a connection of its own, until ctx ends.
func (l *load) asker(ctx context.Context, to target) {
	l.ended.Go(func() {
		for ctx.Err() == nil {
			begun := time.Now()
			err := to.ask(context.WithoutCancel(ctx))
			a := answer{at: time.Now(), took: time.Since(begun)}
			if err != nil {
				a.failed = err.Error()
			}
			l.note(a)
			if err != nil {
				// What refuses at once is asked again, but not as fast as it can refuse.
				pause(ctx, 10*time.Millisecond)
			}
		}
	})
}

func pause(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}

// ask is one request, which is never tried again.
func (to target) ask(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, answerPatience)
	defer cancel()
	var dialer net.Dialer
	conn, err := dialer.DialContext(ctx, to.network, to.address)
	if err != nil {
		return err
	}
	defer conn.Close() //nolint:errcheck // All was read.
	deadline, _ := ctx.Deadline()
	if err := conn.SetDeadline(deadline); err != nil {
		return err
	}
	if _, err := fmt.Fprintf(conn, "GET %s HTTP/1.1\r\nHost: %s\r\nConnection: close\r\n\r\n", to.path, to.host); err != nil {
		return err
	}
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		return err
	}
	defer resp.Body.Close() //nolint:errcheck // Read to its end.
	if _, err := io.Copy(io.Discard, resp.Body); err != nil {
		return err
	}
	if resp.StatusCode >= http.StatusInternalServerError {
		return fmt.Errorf("it answers %s", resp.Status)
	}
	return nil
}
