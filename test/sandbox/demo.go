package main

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"time"

	"github.com/hostport-ccm/hostport-ccm/provider/config"
	"github.com/hostport-ccm/hostport-ccm/test/sandbox/cluster"
)

var (
	//go:embed demo.yaml
	demoBackend string
	//go:embed demo-service.yaml
	demoService string
)

const demoEnd = `
The cluster keeps running. Try:

  go run ./test/sandbox status
  go run ./test/sandbox kubectl -n demo describe service web
  go run ./test/sandbox kubectl -n hostport-system get pods -o wide
  go run ./test/sandbox exec internet -- curl -s http://%s/hostname
  go run ./test/sandbox stop node2      (power a node off; its address leaves the Service)
  export KUBECONFIG=$PWD/.sandbox/kubeconfig

Stop it:   make sandbox-down
Read next: docs/tutorial.md
`

// demonstration shows how one Service comes to be served.
type demonstration struct {
	ctx       context.Context
	c         *cluster.Cluster
	addresses []string
}

// demo prints each command before its output, so that users can run it themselves.
func demo(ctx context.Context, c *cluster.Cluster) error {
	d := &demonstration{ctx: ctx, c: c}
	for _, n := range cluster.Nodes(c.Profile()) {
		if n.ExternalIP != "" {
			d.addresses = append(d.addresses, n.ExternalIP)
		} else {
			d.addresses = append(d.addresses, n.InternalIP)
		}
	}
	for _, step := range []func() error{d.backend, d.closed, d.serve, d.open, d.inside} {
		if err := step(); err != nil {
			return err
		}
	}
	fmt.Printf(demoEnd, d.addresses[0])
	return nil
}

func (d *demonstration) backend() error {
	d.title("The cluster: real nodes, initialised by " + initialiser(d.c.Profile()))
	if err := d.kubectl("get", "nodes", "-o", "wide"); err != nil {
		return err
	}
	if err := d.kubectl("delete", "namespace", "demo", "--ignore-not-found"); err != nil {
		return err
	}
	d.title("A web server in the cluster, without a Service")
	if err := d.apply(demoBackend); err != nil {
		return err
	}
	return d.kubectl("-n", "demo", "rollout", "status", "deployment/web", "--timeout=60s")
}

func initialiser(p cluster.Profile) string {
	if p == cluster.GKE {
		return "the cloud's own controller manager"
	}
	return "hostport-ccm"
}

func (d *demonstration) closed() error {
	d.title("Port 80 of the nodes, from the internet: no answer")
	for _, address := range d.addresses {
		if err := d.curl(address); err == nil {
			return fmt.Errorf("%s answers on port 80 although no Service asks for it", address)
		}
	}
	return nil
}

func (d *demonstration) serve() error {
	d.title("A Service of type LoadBalancer")
	service := serviceFor(d.c.Profile())
	fmt.Println(strings.TrimSpace(service))
	if err := d.apply(service); err != nil {
		return err
	}
	began := time.Now()
	if err := d.waitPublished(); err != nil {
		return err
	}
	fmt.Printf("(all addresses published after %.1f s)\n", time.Since(began).Seconds())
	return d.kubectl("-n", "demo", "get", "service", "web")
}

// serviceFor returns the demo's Service. Where another controller serves Services without a class,
// it has the class of hostport-ccm.
func serviceFor(p cluster.Profile) string {
	if p != cluster.GKE {
		return demoService
	}
	return demoService + "  loadBalancerClass: " + config.LoadBalancerClass + "\n"
}

// waitPublished waits until every node's address is in the Service's status.
func (d *demonstration) waitPublished() error {
	ctx, cancel := context.WithTimeout(d.ctx, 90*time.Second)
	defer cancel()
	for {
		out, err := d.c.Kubectl(ctx, "-n", "demo", "get", "service", "web", "-o", "jsonpath={.status.loadBalancer.ingress[*].ip}")
		if err == nil && len(strings.Fields(out)) == len(d.addresses) {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("the Service's addresses are %q after 90 s, not those of %d nodes (%w)", out, len(d.addresses), errors.Join(err, ctx.Err()))
		case <-time.After(200 * time.Millisecond):
		}
	}
}

func (d *demonstration) open() error {
	d.title("The same requests from the internet: answered on every address")
	for _, address := range d.addresses {
		if err := d.curl(address); err != nil {
			return fmt.Errorf("%s does not answer: %w", address, err)
		}
	}
	return nil
}

func (d *demonstration) inside() error {
	d.title("How: a proxy on every node ...")
	if err := d.kubectl("-n", cluster.ProductNamespace, "get", "daemonsets,pods", "-o", "wide"); err != nil {
		return err
	}
	if !d.c.Profile().OnGCE() {
		return nil
	}
	d.title("... and a firewall rule, as the Compute API shows it")
	url := cluster.SimulatorURL + "/compute/v1/projects/" + cluster.Project + "/global/firewalls"
	return d.run(exec.CommandContext(d.ctx, "curl", "-s", url), "curl -s "+url)
}

func (d *demonstration) title(text string) { fmt.Printf("\n== %s\n\n", text) }

func (d *demonstration) kubectl(args ...string) error {
	cmd := exec.CommandContext(d.ctx, d.c.KubectlPath(), args...)
	cmd.Env = append(os.Environ(), "KUBECONFIG="+d.c.Kubeconfig())
	return d.run(cmd, "kubectl "+strings.Join(args, " "))
}

func (d *demonstration) apply(manifest string) error {
	cmd := exec.CommandContext(d.ctx, d.c.KubectlPath(), "apply", "-f", "-")
	cmd.Env = append(os.Environ(), "KUBECONFIG="+d.c.Kubeconfig())
	cmd.Stdin = strings.NewReader(manifest)
	return d.run(cmd, "kubectl apply -f -")
}

// curl asks for the name of the pod that answers, from the internet host.
func (d *demonstration) curl(address string) error {
	args := []string{"curl", "-sS", "--max-time", "3", "http://" + address + "/hostname"}
	cmd, err := d.c.Command(d.ctx, cluster.Internet, args...)
	if err != nil {
		return err
	}
	err = d.run(cmd, "internet$ "+strings.Join(args, " "))
	fmt.Println()
	return err
}

func (d *demonstration) run(cmd *exec.Cmd, shown string) error {
	if !strings.HasPrefix(shown, "internet") {
		shown = "$ " + shown
	}
	fmt.Println(shown)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stdout
	if err := cmd.Run(); err != nil {
		if d.ctx.Err() != nil {
			return errors.New("interrupted")
		}
		return fmt.Errorf("%s: %w", shown, err)
	}
	return nil
}
