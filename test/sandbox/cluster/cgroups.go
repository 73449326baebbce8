package cluster

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Every process of the sandbox is in a cgroup cgroupBase/HOST/PROGRAM, the containers in
// cgroupBase/NODE/pods. So they can be found without any other state.
const (
	cgroupMount = "/sys/fs/cgroup"
	cgroupBase  = "hostport-sandbox"
)

// makeCgroup creates a cgroup (a path below the hierarchies' roots) for processes or further
// cgroups.
func makeCgroup(path string) error {
	all, err := hierarchies()
	if err != nil {
		return err
	}
	for _, hierarchy := range all {
		dir := hierarchy
		for part := range strings.SplitSeq(path, "/") {
			if err := makeOneCgroup(dir, part); err != nil {
				return fmt.Errorf("make cgroup %s in %s: %w", path, hierarchy, err)
			}
			dir = filepath.Join(dir, part)
		}
	}
	return nil
}

func makeOneCgroup(parent, name string) error {
	if cgroupV2() {
		enableControllers(parent)
	}
	dir := filepath.Join(parent, name)
	if err := os.Mkdir(dir, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	// A new cpuset of cgroup v1 is empty and refuses processes.
	for _, file := range []string{"cpuset.cpus", "cpuset.mems"} {
		value, err := os.ReadFile(filepath.Join(parent, file))
		if err != nil || cgroupV2() {
			continue
		}
		if err := os.WriteFile(filepath.Join(dir, file), value, 0o644); err != nil {
			return err
		}
	}
	return nil
}

// enableControllers enables the controllers that the kubelet needs for children of a v2 cgroup. It
// ignores those that the machine lacks; the kubelet reports a missing one if it is required.
func enableControllers(dir string) {
	for _, controller := range []string{"cpuset", "cpu", "io", "memory", "hugetlb", "pids"} {
		_ = os.WriteFile(filepath.Join(dir, "cgroup.subtree_control"), []byte("+"+controller), 0o644)
	}
}

// hierarchies returns the mount points of all cgroup hierarchies.
func hierarchies() ([]string, error) {
	if cgroupV2() {
		return []string{cgroupMount}, nil
	}
	entries, err := os.ReadDir(cgroupMount)
	if err != nil {
		return nil, fmt.Errorf("list cgroup hierarchies: %w", err)
	}
	var all []string
	for _, e := range entries {
		// Links such as cpu -> cpu,cpuacct lead to a hierarchy listed anyway.
		if e.IsDir() {
			all = append(all, filepath.Join(cgroupMount, e.Name()))
		}
	}
	return all, nil
}

// killAll kills every process in a cgroup and below it, and waits until they
// are gone, from the process list too.
func killAll(ctx context.Context, path string) error {
	killed := map[int]bool{}
	err := waitFor(ctx, 30*time.Second, "the processes in cgroup "+path+" to die", func() error {
		pids := processes(path)
		for _, pid := range pids {
			killed[pid] = true
			_ = unix.Kill(pid, unix.SIGKILL)
		}
		if len(pids) > 0 {
			return fmt.Errorf("%v survive", pids)
		}
		return nil
	})
	if err != nil {
		return err
	}
	// Killed processes stay listed until the machine's init reaps them. If it never
	// does, that is no error.
	_ = waitFor(ctx, 5*time.Second, "the killed processes to be reaped", func() error {
		for pid := range killed {
			if _, err := os.Stat(fmt.Sprintf("/proc/%d", pid)); err == nil {
				return fmt.Errorf("process %d is a zombie", pid)
			}
		}
		return nil
	})
	return nil
}

// killOnly kills the processes of a program in a cgroup, and waits until they are gone. Others live on, such
// as the parents of containers, which containerd starts and which outlive it.
func killOnly(ctx context.Context, path, program string) error {
	return waitFor(ctx, 30*time.Second, program+" to die", func() error {
		for _, pid := range processes(path) {
			name, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid))
			if err != nil || strings.TrimSpace(string(name)) != program || isZombie(pid) {
				continue
			}
			_ = unix.Kill(pid, unix.SIGKILL)
			return fmt.Errorf("process %d survives", pid)
		}
		return nil
	})
}

// isZombie reports whether a process has ended, and its parent has not asked for its result.
func isZombie(pid int) bool {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	return err == nil && strings.Contains(string(status), "\nState:\tZ")
}

// processes returns the process IDs in a cgroup and below it.
func processes(path string) []int {
	var pids []int
	_ = filepath.WalkDir(filepath.Join(trackingHierarchy(), path), func(p string, d fs.DirEntry, err error) error {
		if err != nil || d.Name() != "cgroup.procs" {
			return nil // removed meanwhile
		}
		data, err := os.ReadFile(p)
		if err != nil {
			return nil
		}
		for field := range strings.FieldsSeq(string(data)) {
			if pid, err := strconv.Atoi(field); err == nil && pid > 0 {
				pids = append(pids, pid)
			}
		}
		return nil
	})
	return pids
}

// trackingHierarchy returns the hierarchy in which processes are looked up.
func trackingHierarchy() string {
	if cgroupV2() {
		return cgroupMount
	}
	return filepath.Join(cgroupMount, "pids")
}

// removeCgroup removes a cgroup without processes, and those below it.
func removeCgroup(path string) error {
	all, err := hierarchies()
	if err != nil {
		return err
	}
	var errs []error
	for _, hierarchy := range all {
		errs = append(errs, removeCgroupDir(filepath.Join(hierarchy, path)))
	}
	return errors.Join(errs...)
}

// removeCgroupDir retries for a while: the kernel releases the cgroup of a killed process with a
// delay.
func removeCgroupDir(dir string) error {
	var err error
	for range 100 {
		if err = removeDirsBelow(dir); err == nil {
			return nil
		}
		time.Sleep(50 * time.Millisecond)
	}
	return err
}

func removeDirsBelow(dir string) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, e := range entries {
		if e.IsDir() {
			if err := removeDirsBelow(filepath.Join(dir, e.Name())); err != nil {
				return err
			}
		}
	}
	if err := os.Remove(dir); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// cgroupV2 reports whether the machine has the unified hierarchy only.
func cgroupV2() bool {
	_, err := os.Stat(filepath.Join(cgroupMount, "cgroup.controllers"))
	return err == nil
}
