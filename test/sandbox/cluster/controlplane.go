package cluster

import (
	"context"
	"time"
)

// startEtcd starts etcd without fsync, as its data is deleted with the cluster.
func (c *Cluster) startEtcd(context.Context) error {
	return c.daemon(Control, "etcd", "etcd",
		"--data-dir", c.hostDir(Control, "etcd"),
		"--listen-client-urls", "http://127.0.0.1:2379",
		"--advertise-client-urls", "http://127.0.0.1:2379",
		"--listen-peer-urls", "http://127.0.0.1:2380",
		"--unsafe-no-fsync", "--log-level", "warn")
}

// startAPIServer starts the API server and waits until it is ready.
func (c *Cluster) startAPIServer(ctx context.Context) error {
	err := c.daemon(Control, "kube-apiserver", "kube-apiserver",
		"--etcd-servers", "http://127.0.0.1:2379",
		"--advertise-address", controlIP,
		"--secure-port", "6443",
		"--cert-dir", c.hostDir(Control, "apiserver"),
		"--tls-cert-file", c.pki("apiserver.crt"),
		"--tls-private-key-file", c.pki("apiserver.key"),
		"--client-ca-file", c.pki("ca.crt"),
		"--kubelet-client-certificate", c.pki("kubelet-client.crt"),
		"--kubelet-client-key", c.pki("kubelet-client.key"),
		"--kubelet-preferred-address-types", "InternalIP",
		"--requestheader-client-ca-file", c.pki("ca.crt"),
		"--requestheader-allowed-names", "front-proxy-client",
		"--requestheader-username-headers", "X-Remote-User",
		"--requestheader-group-headers", "X-Remote-Group",
		"--requestheader-extra-headers-prefix", "X-Remote-Extra-",
		"--proxy-client-cert-file", c.pki("front-proxy-client.crt"),
		"--proxy-client-key-file", c.pki("front-proxy-client.key"),
		"--service-account-issuer", "https://kubernetes.default.svc."+clusterZone,
		"--service-account-key-file", c.pki("ca.crt"),
		"--service-account-signing-key-file", c.pki("ca.key"),
		"--service-cluster-ip-range", c.shape.list(serviceNet),
		"--authorization-mode", "Node,RBAC",
		"--enable-admission-plugins", "NodeRestriction",
		"--allow-privileged",
		"--profiling=false")
	if err != nil {
		return err
	}
	return waitFor(ctx, 90*time.Second, "the API server, log "+c.logFile(Control, "kube-apiserver"), func() error {
		_, err := c.Kubectl(ctx, "get", "--raw", "/readyz")
		return err
	})
}

// startControllers starts the controller manager without cloud controllers, and the scheduler.
func (c *Cluster) startControllers(context.Context) error {
	err := c.daemon(Control, "kube-controller-manager", "kube-controller-manager",
		"--kubeconfig", c.kubeconfig("kube-controller-manager"),
		"--cloud-provider", "external",
		"--controllers", "*,-node-ipam-controller",
		"--cluster-cidr", c.shape.list(podRange),
		"--service-cluster-ip-range", c.shape.list(serviceNet),
		"--root-ca-file", c.pki("ca.crt"),
		"--cluster-signing-cert-file", c.pki("ca.crt"),
		"--cluster-signing-key-file", c.pki("ca.key"),
		"--service-account-private-key-file", c.pki("ca.key"),
		"--use-service-account-credentials",
		"--leader-elect=false",
		"--cert-dir", c.hostDir(Control, "kcm"))
	if err != nil {
		return err
	}
	return c.daemon(Control, "kube-scheduler", "kube-scheduler",
		"--kubeconfig", c.kubeconfig("kube-scheduler"),
		"--leader-elect=false",
		"--cert-dir", c.hostDir(Control, "scheduler"))
}
