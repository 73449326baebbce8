package cluster

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// Cluster is the sandbox cluster of one checkout. There is at most one running
// on a machine.
type Cluster struct {
	// source is the root of the checkout, dir its .sandbox folder.
	source, dir string
	shape       Shape
	// bin are the folders of the built programs.
	bin []string
	log *progress
}

// state is what is stored between commands.
type state struct {
	Shape
	Bin []string `json:"bin"`
	// Complete is true after the whole cluster has started.
	Complete bool `json:"complete"`
}

// Open returns the cluster, running or not, of the checkout with the working directory. It prints
// progress to out.
func Open(out io.Writer) (*Cluster, error) {
	source, err := checkoutRoot()
	if err != nil {
		return nil, err
	}
	c := &Cluster{source: source, dir: filepath.Join(source, ".sandbox"), log: newProgress(out)}
	s, err := c.load()
	if err != nil {
		return nil, err
	}
	c.shape, c.bin = s.Shape, s.Bin
	return c, nil
}

// checkoutRoot returns the root of the checkout with the working directory.
func checkoutRoot() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for d := dir; ; d = filepath.Dir(d) {
		if isFile(filepath.Join(d, "go.mod")) && isFile(filepath.Join(d, "test", "sandbox", "main.go")) {
			return d, nil
		}
		if d == filepath.Dir(d) {
			return "", fmt.Errorf("%s is not in a checkout of hostport-ccm", dir)
		}
	}
}

func (c *Cluster) load() (state, error) {
	var s state
	data, err := os.ReadFile(c.stateFile())
	if errors.Is(err, fs.ErrNotExist) {
		return s, nil
	}
	if err != nil {
		return s, err
	}
	// A file that was half written is from an unfinished start: as no state.
	_ = json.Unmarshal(data, &s)
	return s, nil
}

func (c *Cluster) save(complete bool) error {
	data, err := json.Marshal(state{Shape: c.shape, Bin: c.bin, Complete: complete})
	if err != nil {
		return err
	}
	return os.WriteFile(c.stateFile(), data, 0o644)
}

func (c *Cluster) stateFile() string { return filepath.Join(c.dir, "state.json") }

// Profile returns the profile of the cluster; empty if it was never started.
func (c *Cluster) Profile() Profile { return c.shape.Profile }

// KubeProxyMode returns the mode of the nodes' kube-proxies.
func (c *Cluster) KubeProxyMode() KubeProxyMode { return c.shape.KubeProxyMode }

// IPFamily returns the IP families of the cluster; empty if it was never started.
func (c *Cluster) IPFamily() IPFamily { return c.shape.IPFamily }

// Running reports whether the whole cluster of this checkout is running.
func (c *Cluster) Running() bool {
	s, err := c.load()
	owner, _ := readOwner()
	return err == nil && s.Complete && owner.Dir == c.dir && alive()
}

// alive reports whether the API server and etcd of a cluster, of any checkout, run on this machine.
func alive() bool {
	return len(processes(hostCgroup(Control, "kube-apiserver"))) > 0 && len(processes(hostCgroup(Control, "etcd"))) > 0
}

// Kubectl runs kubectl as the cluster's administrator.
func (c *Cluster) Kubectl(ctx context.Context, args ...string) (string, error) {
	return c.kubectlInput(ctx, nil, args...)
}

func (c *Cluster) kubectlInput(ctx context.Context, in io.Reader, args ...string) (string, error) {
	return c.run(ctx, in, append([]string{c.KubectlPath(), "--kubeconfig", c.Kubeconfig()}, args...)...)
}

// KubectlPath returns the path of the cluster's kubectl.
func (c *Cluster) KubectlPath() string { return c.program("kubectl") }

// The machine has one sandbox at a time. This file names its owner; it is locked while a command
// starts or stops something.
const ownerFile = "/run/hostport-sandbox.json"

type owner struct {
	// Dir is the .sandbox folder of the owning checkout.
	Dir string `json:"dir"`
	// UnmountNetns is true if /run/netns did not exist before and is to be removed.
	UnmountNetns bool `json:"unmountNetns"`
}

func readOwner() (owner, error) {
	var o owner
	data, err := os.ReadFile(ownerFile)
	if err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			err = nil
		}
		return o, err
	}
	_ = json.Unmarshal(data, &o) // half written: no owner
	return o, nil
}

func writeOwner(o owner) error {
	data, err := json.Marshal(o)
	if err != nil {
		return err
	}
	return os.WriteFile(ownerFile, data, 0o644)
}

// lock prevents other commands from starting or stopping anything until unlock is called.
func lock() (unlock func(), err error) {
	if os.Geteuid() != 0 {
		return nil, errors.New("the sandbox creates network namespaces and mounts: run it as root")
	}
	f, err := os.OpenFile(ownerFile, os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, fmt.Errorf("another command is starting or stopping a sandbox on this machine (it has locked %s): wait for it", ownerFile)
		}
		return nil, fmt.Errorf("lock %s: %w", ownerFile, err)
	}
	return func() { f.Close() }, nil
}
