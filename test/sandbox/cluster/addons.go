package cluster

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"time"

	"k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"
)

// ErrNotRunning is the error for a checkout without a running cluster.
var ErrNotRunning = errors.New("the sandbox is not running: start it with `make sandbox-up`")

// The product's objects, as its manifests name them.
const (
	ProductNamespace  = "hostport-system"
	ProductDeployment = "deployment/hostport-ccm"
)

// uninitialized is the taint that a kubelet with an external cloud provider sets on its node. The
// cloud controller manager removes it.
const uninitialized = "node.cloudprovider.kubernetes.io/uninitialized"

// deploy applies kube-proxy's ConfigMap, CoreDNS, and the product's manifests.
func (c *Cluster) deploy(ctx context.Context) error {
	config, err := c.kubeProxyConfigMap()
	if err != nil {
		return err
	}
	dns, err := files.ReadFile("files/coredns.yaml")
	if err != nil {
		return err
	}
	for _, manifest := range [][]byte{config, dns} {
		if _, err := c.kubectlInput(ctx, bytes.NewReader(manifest), "apply", "-f", "-"); err != nil {
			return err
		}
	}
	_, err = c.Kubectl(ctx, "apply", "-k", c.overlay())
	return err
}

// kubeProxyConfigMap returns the ConfigMap with kube-proxy's configuration that kubeadm would
// create. The nodes' kube-proxies read a file.
func (c *Cluster) kubeProxyConfigMap() ([]byte, error) {
	data, err := c.nodeData(Nodes(c.shape.Profile)[0])
	if err != nil {
		return nil, err
	}
	config, err := render(nodeFiles["kube-proxy.yaml"], data)
	if err != nil {
		return nil, err
	}
	return yaml.Marshal(v1.ConfigMap{
		TypeMeta:   metav1.TypeMeta{APIVersion: "v1", Kind: "ConfigMap"},
		ObjectMeta: metav1.ObjectMeta{Namespace: metav1.NamespaceSystem, Name: "kube-proxy", Labels: map[string]string{"app": "kube-proxy"}},
		Data:       map[string]string{"config.conf": string(config)},
	})
}

// overlay returns the folder of the kustomization for this profile.
func (c *Cluster) overlay() string {
	return filepath.Join(c.source, "test", "sandbox", "manifests", string(c.shape.Profile))
}

// waitReady waits until the nodes are ready and initialised, and until hostport-ccm and CoreDNS
// run.
func (c *Cluster) waitReady(ctx context.Context) error {
	if err := c.waitInitialized(ctx); err != nil {
		return err
	}
	for _, workload := range [][]string{{"-n", ProductNamespace, ProductDeployment}, {"-n", "kube-system", "deployment/coredns"}} {
		args := append([]string{"rollout", "status", "--timeout", "120s"}, workload...)
		if _, err := c.Kubectl(ctx, args...); err != nil {
			return err
		}
	}
	return nil
}

func (c *Cluster) waitInitialized(ctx context.Context) error {
	const format = `{range .items[*]}{.metadata.name} {.spec.taints[*].key} ready={.status.conditions[?(@.type=="Ready")].status}{"\n"}{end}`
	return waitFor(ctx, 120*time.Second, "the nodes to be ready and initialised", func() error {
		out, err := c.Kubectl(ctx, "get", "nodes", "-o", "jsonpath="+format)
		if err != nil {
			return err
		}
		for line := range strings.Lines(out) {
			if !strings.Contains(line, "ready=True") || strings.Contains(line, uninitialized) {
				return errors.New(strings.TrimSpace(line))
			}
		}
		return nil
	})
}

// Status describes the cluster in a few lines.
func (c *Cluster) Status() string {
	var b strings.Builder
	if !c.Running() {
		o, _ := readOwner()
		if alive() {
			fmt.Fprintf(&b, "a sandbox is on this machine, but not a complete one of this checkout (its files: %s)\n", o.Dir)
		} else {
			fmt.Fprintln(&b, "not running")
		}
		return b.String()
	}
	fmt.Fprintf(&b, "running, %s\n", c.shape)
	fmt.Fprintf(&b, "kubeconfig  %s\n", c.Kubeconfig())
	for _, host := range hostNames(c.shape.Profile) {
		fmt.Fprintf(&b, "%-11s %s\n", host, c.hostStatus(host))
	}
	return b.String()
}

// hostStatus lists the programs that run on a host.
func (c *Cluster) hostStatus(host string) string {
	if len(processes(hostCgroup(host, initProgram))) == 0 {
		return "off"
	}
	var running []string
	for _, program := range []string{"gcesim", "etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler", foreignProgram, "kwok", productProgram, "containerd", "kubelet", "kube-proxy"} {
		if len(processes(hostCgroup(host, program))) > 0 {
			running = append(running, program)
		}
	}
	if len(running) == 0 {
		return "on"
	}
	return "on: " + strings.Join(running, " ")
}
