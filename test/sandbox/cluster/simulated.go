package cluster

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
)

// SimulatedRange has the internal addresses of simulated nodes, and podRange those of their pods. On
// the control host they are local, so connections to them are refused as by a live node.
const SimulatedRange = "10.160.0.0/16"

// productUser is who hostport-ccm is to the API server: its ServiceAccount in the manifests.
const productUser = "system:serviceaccount:" + ProductNamespace + ":" + productProgram

const productProgram = "hostport-ccm"

// startSimulated starts the control plane, the simulator of Compute Engine and kwok, and applies the
// manifests of hostport-ccm, with no replica of it.
func (c *Cluster) startSimulated(ctx context.Context) error {
	if err := c.ip(ctx, Control, "route add local "+SimulatedRange+" dev lo", "route add local "+podRange.v4+" dev lo"); err != nil {
		return err
	}
	group, groupCtx := errgroup.WithContext(ctx)
	group.Go(func() error {
		return c.log.step("starting etcd and the control plane", func() error { return c.startControlPlane(groupCtx) })
	})
	group.Go(func() error {
		return c.log.step("starting the GCE simulator", func() error { return c.startSimulator(groupCtx) })
	})
	group.Go(func() error {
		return c.log.step("building hostport-ccm", func() error {
			return c.goBuild(groupCtx, c.productPath(), "./cmd/"+productProgram)
		})
	})
	if err := group.Wait(); err != nil {
		return err
	}
	if _, err := c.Kubectl(ctx, "apply", "-k", c.overlay()); err != nil {
		return err
	}
	stages, err := c.writeControlFile("kwok.yaml")
	if err != nil {
		return err
	}
	return c.daemon(Control, "kwok", "kwok", "--config", stages, "--kubeconfig", c.kubeconfig("admin"), "--manage-all-nodes",
		"--node-lease-duration-seconds", "40", "--cidr", podRange.v4)
}

// auditFlags returns arguments of the API server for a log of the requests of hostport-ccm; none
// unless nodes are simulated.
func (c *Cluster) auditFlags() ([]string, error) {
	if c.shape.Profile != Simulated {
		return nil, nil
	}
	policy, err := c.writeControlFile("audit-policy.yaml")
	return []string{"--audit-policy-file", policy, "--audit-log-path", c.AuditLog(), "--audit-log-maxsize", "10000"}, err
}

// writeControlFile writes one of files for the control host, and returns its path.
func (c *Cluster) writeControlFile(name string) (string, error) {
	content, err := files.ReadFile("files/" + name)
	if err != nil {
		return "", err
	}
	path := c.hostDir(Control, name)
	return path, os.WriteFile(path, content, 0o644)
}

// AuditLog returns the path of the log with the requests of hostport-ccm, one JSON object per line,
// in profile Simulated.
func (c *Cluster) AuditLog() string { return c.hostDir(Control, "audit.log") }

func (c *Cluster) productPath() string { return filepath.Join(c.dir, "bin", productProgram) }

// StartProduct starts hostport-ccm as a process on the control host, in profile Simulated. It
// returns its process ID.
func (c *Cluster) StartProduct(ctx context.Context, cloudConfig string) (pid int, err error) {
	file := c.hostDir(Control, "cloud-config.yaml")
	if err := os.WriteFile(file, []byte(cloudConfig), 0o644); err != nil {
		return 0, err
	}
	config := c.kubeconfig(productProgram)
	err = c.daemon(Control, productProgram, c.productPath(), "--cloud-config", file, "--v", "2",
		"--kubeconfig", config, "--authentication-kubeconfig", config, "--authorization-kubeconfig", config)
	if err != nil {
		return 0, err
	}
	err = waitFor(ctx, 10*time.Second, productProgram+" to start, log "+c.logFile(Control, productProgram), func() error {
		pids := processes(hostCgroup(Control, productProgram))
		if len(pids) != 1 {
			return fmt.Errorf("it has %d processes", len(pids))
		}
		pid = pids[0]
		return nil
	})
	return pid, err
}

// StopProduct ends the process of StartProduct as a kubelet would, and waits until it has ended.
func (c *Cluster) StopProduct(ctx context.Context) error {
	for _, pid := range processes(hostCgroup(Control, productProgram)) {
		_ = unix.Kill(pid, unix.SIGTERM)
	}
	return waitFor(ctx, 30*time.Second, productProgram+" to end", func() error {
		if len(processes(hostCgroup(Control, productProgram))) > 0 {
			return errors.New("it is running")
		}
		return nil
	})
}

// ProductURL is the address of hostport-ccm's health and metrics for the machine, in profile
// Simulated.
const ProductURL = "https://" + machineControl + ":10258"
