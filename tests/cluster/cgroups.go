package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

const (
	cgroupRoot   = "/sys/fs/cgroup"
	cgroupPrefix = "batchjob-node-"
)

// cgroupOf is the cgroup below which the kubelet of a kube with this process id puts its Pods.
func cgroupOf(pid int) string { return cgroupPrefix + strconv.Itoa(pid) }

// hierarchies are the roots of the cgroup trees: one of version 2, or one a controller.
func hierarchies() []string {
	if _, err := os.Stat(filepath.Join(cgroupRoot, "cgroup.controllers")); err == nil {
		return []string{cgroupRoot}
	}
	roots, _ := filepath.Glob(filepath.Join(cgroupRoot, "*", "cgroup.procs"))
	for i, file := range roots {
		roots[i] = filepath.Dir(file)
	}
	return roots
}

// makeCgroups makes a cgroup in every hierarchy: the kubelet wants it to be there.
func makeCgroups(name string) error {
	for _, root := range hierarchies() {
		group := filepath.Join(root, name)
		if err := os.Mkdir(group, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
			return fmt.Errorf("cannot make a cgroup for Pods: %w", err)
		}
		// Version 1 has a new cpuset empty, and then nothing may run in it.
		for _, file := range []string{"cpuset.cpus", "cpuset.mems"} {
			all, err := os.ReadFile(filepath.Join(root, file))
			if err != nil {
				continue
			}
			if err := os.WriteFile(filepath.Join(group, file), all, 0o644); err != nil {
				return err
			}
		}
	}
	return nil
}

// removeCgroups removes a cgroup and those below it from every hierarchy. Their processes have been
// killed; the kernel may take a moment to forget them.
func removeCgroups(name string) {
	for _, root := range hierarchies() {
		var groups []string
		_ = filepath.WalkDir(filepath.Join(root, name), func(path string, entry fs.DirEntry, err error) error {
			if err == nil && entry.IsDir() {
				groups = append(groups, path)
			}
			return nil
		})
		slices.Reverse(groups)
		for _, group := range groups {
			for range 100 {
				// Of a cgroup's files there is nothing to remove: rmdir, and not os.Remove, which tries unlink.
				if err := syscall.Rmdir(group); err != syscall.EBUSY {
					break
				}
				time.Sleep(20 * time.Millisecond)
			}
		}
	}
}

// sweepCgroups removes what was left by those who were killed before they could.
func sweepCgroups() {
	for _, root := range hierarchies() {
		groups, _ := filepath.Glob(filepath.Join(root, cgroupPrefix+"*"))
		for _, group := range groups {
			name := filepath.Base(group)
			pid, err := strconv.Atoi(strings.TrimPrefix(name, cgroupPrefix))
			if err == nil && syscall.Kill(pid, 0) == syscall.ESRCH {
				removeCgroups(name)
			}
		}
	}
}
