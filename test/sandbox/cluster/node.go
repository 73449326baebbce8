package cluster

import (
	"bytes"
	"context"
	"embed"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"text/template"
	"time"
)

//go:embed files
var files embed.FS

var templates = template.Must(template.ParseFS(files, "files/*.tmpl"))

// nodeFiles maps the configuration files of a node to their templates.
var nodeFiles = map[string]string{
	"containerd.toml": "containerd.toml.tmpl",
	"cni.conflist":    "cni.conflist.tmpl",
	"kubelet.yaml":    "kubelet.yaml.tmpl",
	"kube-proxy.yaml": "kube-proxy.yaml.tmpl",
}

// nodeData is the data of the templates.
type nodeData struct {
	Node
	Etc, CABundle, CNIBin, Kubeconfig string
	Cgroup, DNS, Zone, PodRange       string
	Pause                             string
	PodCIDRs                          []string
	KubeProxyMode                     KubeProxyMode
}

// bootNode creates a node's network and starts its containerd.
func (c *Cluster) bootNode(ctx context.Context, n Node) error {
	if err := c.addNode(ctx, n); err != nil {
		return err
	}
	if err := c.boot(ctx, n.Name); err != nil {
		return err
	}
	if err := c.writeNodeFiles(n); err != nil {
		return err
	}
	if err := makeCgroup(hostCgroup(n.Name, "pods")); err != nil {
		return err
	}
	return c.startContainerd(ctx, n)
}

func (c *Cluster) startContainerd(ctx context.Context, n Node) error {
	if err := c.daemon(n.Name, "containerd", "containerd", "--config", c.hostDir(n.Name, "etc", "containerd.toml")); err != nil {
		return err
	}
	return waitFor(ctx, time.Minute, "containerd on "+n.Name+", log "+c.logFile(n.Name, "containerd"), func() error {
		return c.isBooted(n)
	})
}

// isBooted looks in containerd's log, which is new with each start, for the line that it writes
// when all plugins are ready. Others are ready before the one that the kubelet needs, and the
// kubelet ends if it does not answer.
func (c *Cluster) isBooted(n Node) error {
	log, err := os.ReadFile(c.logFile(n.Name, "containerd"))
	if err == nil && !bytes.Contains(log, []byte("containerd successfully booted")) {
		err = errors.New("it has not booted")
	}
	return err
}

// startNode makes a booted node a member of the cluster.
func (c *Cluster) startNode(_ context.Context, n Node) error {
	if err := c.startKubelet(n); err != nil {
		return err
	}
	return c.startKubeProxy(n)
}

func (c *Cluster) startKubelet(n Node) error {
	etc := func(f string) string { return c.hostDir(n.Name, "etc", f) }
	return c.daemon(n.Name, "kubelet", "kubelet",
		"--config", etc("kubelet.yaml"),
		"--kubeconfig", c.kubeconfig("kubelet-"+n.Name),
		"--hostname-override", n.Name,
		"--node-ip", c.shape.list(n.addresses()),
		"--cloud-provider", "external",
		"--root-dir", "/var/lib/kubelet",
		"--cert-dir", "/var/lib/kubelet/pki")
}

func (c *Cluster) startKubeProxy(n Node) error {
	return c.daemon(n.Name, "kube-proxy", "kube-proxy", "--config", c.hostDir(n.Name, "etc", "kube-proxy.yaml"), "--hostname-override", n.Name)
}

func (c *Cluster) writeNodeFiles(n Node) error {
	data, err := c.nodeData(n)
	if err != nil {
		return err
	}
	for file, name := range nodeFiles {
		content, err := render(name, data)
		if err != nil {
			return err
		}
		path := c.hostDir(n.Name, "etc", file)
		if file == "cni.conflist" {
			path = c.hostDir(n.Name, "etc", "cni", "10-"+file)
		}
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(path, content, 0o644); err != nil {
			return err
		}
	}
	return nil
}

func (c *Cluster) nodeData(n Node) (nodeData, error) {
	cniBin, err := c.cniPluginDir()
	return nodeData{
		Node: n, Etc: c.hostDir(n.Name, "etc"), CABundle: c.pki("ca.crt"), CNIBin: cniBin, Kubeconfig: c.kubeconfig("kube-proxy"),
		Cgroup: "/" + hostCgroup(n.Name, "pods"), DNS: dnsService, Zone: clusterZone, PodRange: c.shape.list(podRange), Pause: pauseImage,
		PodCIDRs: c.shape.of(n.podCIDR), KubeProxyMode: c.shape.KubeProxyMode,
	}, err
}

func render(template string, data nodeData) ([]byte, error) {
	var b bytes.Buffer
	err := templates.ExecuteTemplate(&b, template, data)
	return b.Bytes(), err
}

// cniPluginDir returns the folder of the CNI plugins among the built programs.
func (c *Cluster) cniPluginDir() (string, error) {
	for _, dir := range c.bin {
		if _, err := exec.LookPath(filepath.Join(dir, "portmap")); err == nil {
			return dir, nil
		}
	}
	return "", fmt.Errorf("no CNI plugins among the built programs in %v", c.bin)
}
