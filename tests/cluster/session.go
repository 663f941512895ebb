package main

import (
	"bytes"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	mathrand "math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"time"
)

const (
	startAttempts = 3
	startTimeout  = 2 * time.Minute
	restartPause  = 300 * time.Millisecond // for a killed predecessor with the same port to be gone
	grpcOffset    = 10000
)

// session is a set of children with a folder for their state. It lasts until we are asked to stop or
// until one of the children dies.
type session struct {
	command   string
	dir       string
	temporary bool
	lock      *os.File
	stop      <-chan string
	children  []*child
	died      chan *child
	cleanup   func() // what to remove besides dir, if set
}

// diedError says that a child ended although nobody asked it to.
type diedError struct {
	*child
	tail string
}

func (e *diedError) Error() string {
	return fmt.Sprintf("%s has ended (%v). The end of %s:\n%s", e.name, e.cmd.ProcessState, e.logFile, e.tail)
}

var portTaken = regexp.MustCompile(`address already in use|port \d+ .*is not available`)

// newSession makes ready to start children with their state in dir, or in a temporary folder if dir is
// empty. The caller must call close.
func newSession(command, dir string) (*session, error) {
	holdThread()
	closeInherited()
	s := &session{command: command, stop: stopRequest()}
	s.forget()
	var err error
	if dir == "" {
		s.temporary = true
		s.dir, err = os.MkdirTemp("", "kube-"+command+"-")
		return s, err
	}
	if s.dir, err = filepath.Abs(dir); err != nil {
		return nil, err
	}
	if err = os.MkdirAll(s.dir, 0o700); err != nil {
		return nil, err
	}
	if s.lock, err = os.OpenFile(s.path("lock"), os.O_RDWR|os.O_CREATE, 0o600); err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(s.lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		return nil, fmt.Errorf("%s is in use by another kube: stop that one or give another --dir", s.dir)
	}
	return s, nil
}

// run calls start, which starts the children, waits until they are ready and returns what to print.
// Then it blocks for as long as the session lasts, and returns the exit code.
func (s *session) run(start func() (any, error)) int {
	defer s.close()
	info, err := start()
	for try := 1; err != nil; try++ {
		s.kill()
		var died *diedError
		if !errors.As(err, &died) || !portTaken.MatchString(died.tail) || try == startAttempts {
			return fail(s.command, err)
		}
		fmt.Fprintf(os.Stderr, "kube %s: a port was taken, starting again\n", s.command)
		time.Sleep(restartPause)
		info, err = start()
	}
	line, err := json.Marshal(info)
	if err != nil {
		return fail(s.command, err)
	}
	fmt.Printf("%s\n", line)
	select {
	case <-s.stop:
		return 0
	case c := <-s.died:
		return fail(s.command, s.death(c))
	}
}

// start starts a child with its output in DIR/name.log.
func (s *session) start(name string, cmd *exec.Cmd) error {
	logFile := s.path(name + ".log")
	log, err := os.OpenFile(logFile, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	cmd.Dir, cmd.Stdout, cmd.Stderr = s.dir, log, log
	c, err := spawn(name, cmd)
	if err != nil {
		return fmt.Errorf("cannot start %s: %w", name, err)
	}
	c.logFile = logFile
	s.children = append(s.children, c)
	died := s.died
	go func() { <-c.done; died <- c }()
	return nil
}

// await calls ready until it returns nil.
func (s *session) await(what string, ready func() error) error {
	timeout := time.After(startTimeout)
	for {
		err := ready()
		if err == nil {
			return nil
		}
		select {
		case <-time.After(50 * time.Millisecond):
		case c := <-s.died:
			return s.death(c)
		case why := <-s.stop:
			return fmt.Errorf("stopped (%s) before %s was ready: %w", why, what, err)
		case <-timeout:
			return fmt.Errorf("%s is not ready after %v: %w (give --dir to keep the logs)", what, startTimeout, err)
		}
	}
}

func (s *session) death(c *child) error {
	const lines = 20
	data, err := os.ReadFile(c.logFile)
	if err != nil {
		return &diedError{c, err.Error()}
	}
	all := strings.Split(strings.TrimSpace(string(data)), "\n")
	return &diedError{c, "  " + strings.Join(all[max(0, len(all)-lines):], "\n  ")}
}

// kill ends all children.
func (s *session) kill() {
	for _, c := range s.children {
		c.signal(syscall.SIGKILL)
	}
	for _, c := range s.children {
		<-c.done
	}
	s.forget()
	if s.cleanup != nil {
		s.cleanup()
	}
}

func (s *session) forget() {
	s.children, s.died = nil, make(chan *child, 8)
}

func (s *session) close() {
	s.kill()
	if s.temporary {
		if err := os.RemoveAll(s.dir); err != nil {
			_ = fail(s.command, err)
		}
	}
}

func (s *session) path(name string) string { return filepath.Join(s.dir, name) }

// keep returns the content of DIR/name. If there is no such file, it makes one with what generate
// returns, so that a session in the same folder finds the same secrets again.
func (s *session) keep(name string, generate func() []byte) ([]byte, error) {
	data, err := os.ReadFile(s.path(name))
	if errors.Is(err, fs.ErrNotExist) {
		data = generate()
		err = writeSecret(s.path(name), data)
	}
	return bytes.TrimSpace(data), err
}

func randomText() []byte { return []byte(rand.Text()) }

// writeSecret puts a file in place that only its owner can read, at once and as a whole.
func writeSecret(path string, data []byte) error {
	temporary := path + ".tmp"
	_ = os.Remove(temporary) // a left-over might have other permissions
	if err := os.WriteFile(temporary, data, 0o600); err != nil {
		return err
	}
	return os.Rename(temporary, path)
}

// freePorts returns n loopback ports that nobody uses, and neither does anybody use the ports that lie
// grpcOffset above them. All are below the range from which the kernel takes the ports of outgoing
// connections, or else a connection could take one before the child does.
func freePorts(n int) ([]int, error) {
	var ports []int
	for range 1000 {
		port := 10000 + mathrand.IntN(10000)
		if slices.Contains(ports, port) || !canListen(port) || !canListen(port+grpcOffset) {
			continue
		}
		if ports = append(ports, port); len(ports) == n {
			return ports, nil
		}
	}
	return nil, errors.New("no free ports between 10000 and 19999 on 127.0.0.1: stop what is listening there")
}

func canListen(port int) bool {
	l, err := net.Listen("tcp", loopback(port))
	if err != nil {
		return false
	}
	l.Close()
	return true
}

func loopback(port int) string { return fmt.Sprintf("127.0.0.1:%d", port) }

var errNotFound = errors.New("not found")

// expectOK sends a request and fails unless it is answered with 200.
func expectOK(client *http.Client, req *http.Request) error {
	res, err := client.Do(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	switch res.StatusCode {
	case http.StatusOK:
		return nil
	case http.StatusNotFound:
		return fmt.Errorf("%s %s: %w", req.Method, req.URL, errNotFound)
	}
	return fmt.Errorf("%s %s: %s", req.Method, req.URL, res.Status)
}
