package cluster

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/hostport-ccm/hostport-ccm/test/sandbox/tools"
)

// Up starts the cluster, or updates the product in a running one. It first cleans up after an
// earlier cluster.
func (c *Cluster) Up(ctx context.Context, shape Shape) error {
	unlock, err := lock()
	if err != nil {
		return err
	}
	defer unlock()
	if err := c.claim(shape); err != nil {
		return err
	}
	if c.Running() && shape.Profile != Simulated { // Its test starts anew each time.
		c.log.printf("the cluster is running already; updating hostport-ccm in it")
		return c.refresh(ctx)
	}
	if err := c.clear(ctx); err != nil {
		return err
	}
	c.shape = shape
	if err := c.prepare(ctx); err != nil {
		return err
	}
	if err := c.start(ctx); err != nil {
		return fmt.Errorf("%w\nlogs are in %s", err, filepath.Join(c.dir, "log"))
	}
	return c.save(true)
}

// claim returns an error if the cluster would conflict with a running one or cannot run here.
func (c *Cluster) claim(shape Shape) error {
	o, err := readOwner()
	if err != nil {
		return err
	}
	if alive() && o.Dir != "" && o.Dir != c.dir {
		return fmt.Errorf("a sandbox of another checkout is running on this machine (%s): stop it there with `make sandbox-down`, or from here with `go run ./test/sandbox down --force`", o.Dir)
	}
	if c.Running() && c.shape != shape {
		return fmt.Errorf("the cluster is running with %s: run `make sandbox-down` before starting one with %s", c.shape, shape)
	}
	if _, err := os.Stat("/proc/sys/net/ipv6"); err != nil && shape.IPFamily == DualStack {
		return errors.New("this machine's kernel has no IPv6, which IP family dual needs: boot it without ipv6.disable=1, or choose ipv4")
	}
	for _, hidden := range []string{"/run/", "/var/lib/", "/var/log/"} {
		if strings.HasPrefix(c.dir+"/", hidden) {
			return fmt.Errorf("the checkout is below %s, which every host of the sandbox replaces by its own: move it elsewhere", hidden)
		}
	}
	return nil
}

// prepare installs missing packages and builds missing programs.
func (c *Cluster) prepare(ctx context.Context) error {
	for _, dir := range []string{"bin", "log", "pki", "hosts"} {
		if err := os.MkdirAll(filepath.Join(c.dir, dir), 0o755); err != nil {
			return err
		}
	}
	if err := installPackages(ctx, c.log); err != nil {
		return err
	}
	var err error
	needed := tools.RealNodes
	if c.shape.Profile == Simulated {
		needed = tools.SimulatedNodes
	}
	if c.bin, err = tools.Ensure(ctx, filepath.Join(c.source, "test", "sandbox", "tools"), needed, c.shape.kubernetes(), c.log.begin); err != nil {
		return err
	}
	return c.save(false)
}

// start starts the hosts, the control plane and the nodes, in parallel where possible.
func (c *Cluster) start(ctx context.Context) error {
	if err := c.claimMachine(); err != nil {
		return err
	}
	if err := c.log.step("creating hosts, network and certificates", func() error { return c.makeHosts(ctx) }); err != nil {
		return err
	}
	if c.shape.Profile == Simulated {
		return c.startSimulated(ctx)
	}
	var archives []string
	group, groupCtx := errgroup.WithContext(ctx)
	group.Go(func() error {
		return c.log.step("starting etcd and the control plane", func() error { return c.startControlPlane(groupCtx) })
	})
	group.Go(func() error {
		return c.log.step("starting containerd on the nodes", func() error { return c.bootNodes(groupCtx) })
	})
	group.Go(func() (err error) {
		defer func(done func(error)) { done(err) }(c.log.begin("building images"))
		archives, err = c.buildImages(groupCtx)
		return err
	})
	if c.shape.Profile.OnGCE() {
		group.Go(func() error {
			return c.log.step("starting the GCE simulator", func() error { return c.startSimulator(groupCtx) })
		})
	}
	if err := group.Wait(); err != nil {
		return err
	}
	if err := c.log.step("loading images into the nodes", func() error { return c.importImages(ctx, archives...) }); err != nil {
		return err
	}
	return c.join(ctx)
}

// join starts the nodes' kubelets and kube-proxies, and deploys the pods of the cluster.
func (c *Cluster) join(ctx context.Context) error {
	err := c.log.step("starting kubelets and kube-proxies", func() error {
		for _, n := range Nodes(c.shape.Profile) {
			if err := c.startNode(ctx, n); err != nil {
				return err
			}
		}
		return c.waitRegistered(ctx)
	})
	if err != nil {
		return err
	}
	if err := c.log.step("deploying CoreDNS and hostport-ccm", func() error { return c.deploy(ctx) }); err != nil {
		return err
	}
	return c.log.step("waiting for initialised nodes, hostport-ccm and CoreDNS", func() error { return c.waitReady(ctx) })
}

func (c *Cluster) claimMachine() error {
	_, err := os.Stat("/run/netns")
	return writeOwner(owner{Dir: c.dir, UnmountNetns: errors.Is(err, os.ErrNotExist)})
}

func (c *Cluster) makeHosts(ctx context.Context) error {
	if err := c.makePKI(); err != nil {
		return err
	}
	if err := c.makeNetwork(ctx); err != nil {
		return err
	}
	if err := c.addHost(ctx, Internet, inetBridge, both{InternetIP, InternetIPv6}, inetGateways); err != nil {
		return err
	}
	if err := c.addMachineLink(ctx, Internet, machineInternet); err != nil {
		return err
	}
	if err := c.addHost(ctx, Internet2, inetBridge, both{Internet2IP, Internet2IPv6}, inetGateways); err != nil {
		return err
	}
	if err := c.addControl(ctx); err != nil {
		return err
	}
	for _, host := range []string{Gateway, Internet, Internet2, Control} {
		if err := c.boot(ctx, host); err != nil {
			return err
		}
	}
	return nil
}

func (c *Cluster) startControlPlane(ctx context.Context) error {
	if err := c.startEtcd(ctx); err != nil {
		return err
	}
	if err := c.startAPIServer(ctx); err != nil {
		return err
	}
	if err := c.startControllers(ctx); err != nil {
		return err
	}
	if c.shape.Profile == GKE {
		return c.startForeign(ctx)
	}
	return nil
}

func (c *Cluster) bootNodes(ctx context.Context) error {
	for _, n := range Nodes(c.shape.Profile) {
		if err := c.bootNode(ctx, n); err != nil {
			return err
		}
	}
	return nil
}

func (c *Cluster) buildImages(ctx context.Context) ([]string, error) {
	var test string
	var product []string
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() (err error) { test, err = c.testImages(ctx); return err })
	group.Go(func() (err error) { product, err = c.productImages(ctx); return err })
	err := group.Wait()
	return append(product, test), err
}

// refresh builds and deploys the product's images and manifests in a running cluster.
func (c *Cluster) refresh(ctx context.Context) error {
	var archives []string
	err := c.log.step("building and loading the images of hostport-ccm", func() (err error) {
		if archives, err = c.productImages(ctx); err != nil {
			return err
		}
		return c.importImages(ctx, archives...)
	})
	if err != nil {
		return err
	}
	return c.log.step("deploying hostport-ccm", func() error {
		if err := c.deploy(ctx); err != nil {
			return err
		}
		// The pods use the images that were just loaded, whose tag has not changed.
		if err := c.restartProduct(ctx); err != nil {
			return err
		}
		return c.waitReady(ctx)
	})
}

// waitRegistered waits until every kubelet has created its Node.
func (c *Cluster) waitRegistered(ctx context.Context) error {
	return waitFor(ctx, 60*time.Second, "the nodes to register", func() error {
		out, err := c.Kubectl(ctx, "get", "nodes", "-o", "name")
		if err != nil {
			return err
		}
		if have, want := len(strings.Fields(out)), len(Nodes(c.shape.Profile)); have != want {
			return fmt.Errorf("%d of %d nodes are there", have, want)
		}
		return nil
	})
}
