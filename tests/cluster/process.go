package main

import (
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"strconv"
	"syscall"
)

// child is a process that dies with us.
type child struct {
	name    string
	cmd     *exec.Cmd
	logFile string        // its stdout and stderr, if it has a log
	done    chan struct{} // closed when it has ended
}

// holdThread must be called before the first spawn, by the goroutine that spawns: the kernel sends the
// parent-death signal when the thread that forked ends, so this thread has to live as long as we do.
func holdThread() { runtime.LockOSThread() }

// spawn starts cmd in its own process group (so that a Ctrl-C in the terminal reaches only us, and we
// choose the order in which things stop) and has the kernel kill it when we die.
func spawn(name string, cmd *exec.Cmd) (*child, error) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	c := &child{name: name, cmd: cmd, done: make(chan struct{})}
	go func() {
		_ = cmd.Wait() // what became of it is in cmd.ProcessState
		close(c.done)
	}()
	return c, nil
}

// signal sends sig to the child's process group.
func (c *child) signal(sig syscall.Signal) {
	_ = syscall.Kill(-c.cmd.Process.Pid, sig) // fails only when nothing is left of the group
}

// stopRequest returns a channel that gets the reason when we are asked to stop.
func stopRequest() <-chan string {
	stop := make(chan string, 1)
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
	ask := func(why string) {
		select {
		case stop <- why:
		default: // asked before
		}
	}
	go func() {
		for s := range signals {
			ask(s.String())
		}
	}()
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		ask("stdin reached EOF")
	}()
	return stop
}

// closeInherited closes the descriptors above stderr that our parent left open for us. A shell leaks
// the pipes of its other jobs like this, and whoever holds the writing end of such a job's stdin keeps
// that job from ever seeing EOF. Our own descriptors are all close-on-exec, which tells them apart.
func closeInherited() {
	entries, _ := os.ReadDir("/proc/self/fd")
	for _, e := range entries {
		fd, err := strconv.Atoi(e.Name())
		if err != nil || fd <= 2 {
			continue
		}
		flags, _, errno := syscall.Syscall(syscall.SYS_FCNTL, uintptr(fd), syscall.F_GETFD, 0)
		if errno == 0 && flags&syscall.FD_CLOEXEC == 0 {
			_ = syscall.Close(fd)
		}
	}
}

// fail prints an error of a subcommand and returns its exit code.
func fail(command string, err error) int {
	fmt.Fprintf(os.Stderr, "kube %s: %v\n", command, err)
	return 1
}
