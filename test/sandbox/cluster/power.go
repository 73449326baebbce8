package cluster

import (
	"context"
	"fmt"
)

// StopNode powers a node off: all its processes are killed, its address does not answer any more,
// and its instance is TERMINATED. Its disk stays.
func (c *Cluster) StopNode(ctx context.Context, name string) error {
	n, unlock, err := c.lockNode(name)
	if err != nil {
		return err
	}
	defer unlock()
	if len(processes(hostCgroup(name, initProgram))) == 0 {
		return fmt.Errorf("%s is off already", name)
	}
	if err := c.ip(ctx, Gateway, "link set "+name+" down"); err != nil {
		return err
	}
	if err := killAll(ctx, cgroupBase+"/"+name); err != nil {
		return err
	}
	if err := removeCgroup(cgroupBase + "/" + name); err != nil {
		return err
	}
	if err := c.deleteHostNetwork(ctx, name); err != nil {
		return err
	}
	return c.setInstanceStatus(ctx, n, "TERMINATED")
}

// StartNode powers a node on again.
func (c *Cluster) StartNode(ctx context.Context, name string) error {
	n, unlock, err := c.lockNode(name)
	if err != nil {
		return err
	}
	defer unlock()
	if len(processes(hostCgroup(name, initProgram))) > 0 {
		return fmt.Errorf("%s is on already", name)
	}
	if err := c.setInstanceStatus(ctx, n, "RUNNING"); err != nil {
		return err
	}
	if err := c.bootNode(ctx, n); err != nil {
		return err
	}
	return c.startNode(ctx, n)
}

// Program is a program of a node that Restart can restart.
type Program string

// The programs of a node.
const (
	Kubelet    Program = "kubelet"
	Containerd Program = "containerd"
	KubeProxy  Program = "kube-proxy"
)

// Restart kills a program of a node and starts it again. The node's containers live on.
func (c *Cluster) Restart(ctx context.Context, name string, program Program) error {
	n, unlock, err := c.lockNode(name)
	if err != nil {
		return err
	}
	defer unlock()
	if err := killOnly(ctx, hostCgroup(name, string(program)), string(program)); err != nil {
		return err
	}
	switch program {
	case Kubelet:
		return c.startKubelet(n)
	case Containerd:
		return c.startContainerd(ctx, n)
	}
	return c.startKubeProxy(n)
}

func (c *Cluster) lockNode(name string) (Node, func(), error) {
	if !c.Running() {
		return Node{}, nil, ErrNotRunning
	}
	n, err := findNode(c.shape.Profile, name)
	if err != nil {
		return n, nil, err
	}
	unlock, err := lock()
	return n, unlock, err
}

// setInstanceStatus sets the status of a node's instance in the simulator.
func (c *Cluster) setInstanceStatus(ctx context.Context, n Node, status string) error {
	if !c.shape.Profile.OnGCE() {
		return nil
	}
	return Simulator().PatchInstance(ctx, n.Zone, n.Name, map[string]any{"status": status})
}
