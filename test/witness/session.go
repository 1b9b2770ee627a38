package witness

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// Session says how it stands with its terminal, then every line that is typed and every
// signal that a terminal sends, until "exit N", whose status it returns, or the end of its
// input. "die" is the end by SIGKILL.
func Session(from, to *os.File) (status int, err error) {
	signals := make(chan os.Signal, 16)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGWINCH, syscall.SIGCONT, syscall.SIGTERM)
	lines, failed := make(chan string), make(chan error, 1)
	go func() {
		defer close(lines)
		input := bufio.NewScanner(from)
		for input.Scan() {
			lines <- input.Text()
		}
		failed <- input.Err()
	}()
	if _, err := fmt.Fprintln(to, "up:", standing(from)); err != nil {
		return 0, err
	}
	for {
		select {
		case sig := <-signals:
			if _, err := fmt.Fprintf(to, "heard %s: %s\n", unix.SignalName(sig.(syscall.Signal)), standing(from)); err != nil { //nolint:forcetypeassert // All are.
				return 0, err
			}
		case line, more := <-lines:
			if !more {
				return 0, say(to, "end", <-failed)
			}
			if ends, status, err := heed(to, line); ends || err != nil {
				return status, err
			}
		}
	}
}

// heed does what was typed.
func heed(to io.Writer, line string) (ends bool, status int, err error) {
	if text, ok := strings.CutPrefix(line, "exit "); ok {
		status, err = strconv.Atoi(text)
		return true, status, err
	}
	if line == "die" {
		return true, 0, syscall.Kill(os.Getpid(), syscall.SIGKILL)
	}
	return false, 0, say(to, "got "+line, nil)
}

func say(to io.Writer, text string, err error) error {
	if err != nil {
		return err
	}
	_, err = fmt.Fprintln(to, text)
	return err
}

// standing is how a process stands with the terminal that file may be.
func standing(file *os.File) string {
	fd := int(file.Fd()) //nolint:gosec // A small number.
	size, err := unix.IoctlGetWinsize(fd, unix.TIOCGWINSZ)
	if err != nil {
		return "no terminal, user " + strconv.Itoa(os.Getuid())
	}
	front, err := unix.IoctlGetInt(fd, unix.TIOCGPGRP)
	leads := syscall.Getpgrp() == os.Getpid()
	return fmt.Sprintf("%dx%d, in front %t, leads its group %t, user %d", size.Row, size.Col, err == nil && front == syscall.Getpgrp(), leads, os.Getuid())
}
