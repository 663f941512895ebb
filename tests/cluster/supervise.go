package main

import (
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"syscall"
	"time"
)

// supervise runs a command that must not outlive us and returns its exit code (128 + the signal's
// number if a signal ended it, as shells do). When we are asked to stop, the command gets SIGTERM, and
// SIGKILL after the grace period.
//
// The command's whole process group is signalled, but if we are killed with SIGKILL ourselves, only
// the command itself dies with us: run the program, not a shell script around it.
func supervise(args []string) int {
	flags := flag.NewFlagSet("kube supervise", flag.ExitOnError)
	flags.Usage = func() { fmt.Fprint(os.Stderr, usage) }
	grace := flags.Duration("grace", 3*time.Second, "")
	_ = flags.Parse(args)
	if flags.NArg() == 0 {
		fmt.Fprintf(os.Stderr, "kube supervise: no command given\n\n%s", usage)
		return 2
	}

	holdThread()
	closeInherited()
	stop := stopRequest()
	cmd := exec.Command(flags.Arg(0), flags.Args()[1:]...)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	c, err := spawn(flags.Arg(0), cmd)
	if errors.Is(err, exec.ErrNotFound) || errors.Is(err, fs.ErrNotExist) {
		_ = fail("supervise", err)
		return 127
	} else if err != nil {
		_ = fail("supervise", err)
		return 126
	}

	select {
	case <-c.done:
	case <-stop:
		c.signal(syscall.SIGTERM)
		select {
		case <-c.done:
		case <-time.After(*grace):
		}
	}
	c.signal(syscall.SIGKILL) // also what the command left behind in its group
	<-c.done

	status := cmd.ProcessState.Sys().(syscall.WaitStatus)
	if status.Signaled() {
		return 128 + int(status.Signal())
	}
	return status.ExitStatus()
}
