package cluster

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// Down stops the cluster and removes all that it created on the machine except for its logs:
// processes, network namespaces, links, cgroups and files. Mounts end with the processes in their
// namespaces. With force, it stops a cluster of another checkout too.
func (c *Cluster) Down(ctx context.Context, force bool) error {
	unlock, err := lock()
	if err != nil {
		return err
	}
	defer unlock()
	o, err := readOwner()
	if err != nil {
		return err
	}
	if alive() && o.Dir != "" && o.Dir != c.dir && !force {
		return fmt.Errorf("the sandbox running on this machine belongs to another checkout (%s): stop it there, or here with --force", o.Dir)
	}
	if err := c.log.step("stopping the cluster", func() error { return c.clear(ctx) }); err != nil {
		return err
	}
	return os.Remove(ownerFile)
}

// clear removes all that any sandbox has created on this machine.
func (c *Cluster) clear(ctx context.Context) error {
	o, err := readOwner()
	if err != nil {
		return err
	}
	if err := killAll(ctx, cgroupBase); err != nil {
		return err
	}
	errs := []error{c.deleteMachineLink(ctx), c.deleteNamespaces(ctx), removeCgroup(cgroupBase)}
	for _, dir := range []string{o.Dir, c.dir} {
		if dir != "" {
			errs = append(errs, removeState(dir))
		}
	}
	if o.UnmountNetns {
		errs = append(errs, removeNetnsMount())
	}
	return errors.Join(append(errs, writeOwner(owner{}))...)
}

func (c *Cluster) deleteNamespaces(ctx context.Context) error {
	entries, err := os.ReadDir(filepath.Dir(netnsPath("")))
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	var errs []error
	for _, e := range entries {
		if host, ours := strings.CutPrefix(e.Name(), netns("")); ours {
			errs = append(errs, c.deleteHostNetwork(ctx, host))
		}
	}
	return errors.Join(append(errs, err)...)
}

// removeState removes a cluster's files, all but its logs.
func removeState(dir string) error {
	var errs []error
	for _, name := range []string{"hosts", "pki", "bin", "kubeconfig", "state.json", "images.tar"} {
		errs = append(errs, os.RemoveAll(filepath.Join(dir, name)))
	}
	return errors.Join(errs...)
}

// removeNetnsMount removes the mount that `ip netns add` makes of its folder, unless there are
// other namespaces.
func removeNetnsMount() error {
	const dir = "/run/netns"
	if entries, err := os.ReadDir(dir); err != nil || len(entries) > 0 {
		return nil
	}
	if err := unix.Unmount(dir, 0); err != nil && !errors.Is(err, unix.EINVAL) {
		return fmt.Errorf("unmount %s: %w", dir, err)
	}
	return os.Remove(dir)
}
