package cluster

import (
	"context"
	"time"
)

// forScale are further arguments for thousands of simulated objects, which are also written by
// clients without limits.
var forScale = map[string][]string{
	"etcd":                    {"--quota-backend-bytes", "8589934592"},
	"kube-controller-manager": {"--kube-api-qps", "500", "--kube-api-burst", "1000"},
	"kube-scheduler":          {"--kube-api-qps", "500", "--kube-api-burst", "1000"},
}

// startControl starts a program of the control plane.
func (c *Cluster) startControl(program string, args ...string) error {
	if c.shape.Profile == Simulated {
		args = append(args, forScale[program]...)
	}
	return c.daemon(Control, program, append([]string{program}, args...)...)
}

// startEtcd starts etcd without fsync, as its data is deleted with the cluster.
func (c *Cluster) startEtcd(context.Context) error {
	return c.startControl("etcd",
		"--data-dir", c.hostDir(Control, "etcd"),
		"--listen-client-urls", "http://127.0.0.1:2379",
		"--advertise-client-urls", "http://127.0.0.1:2379",
		"--listen-peer-urls", "http://127.0.0.1:2380",
		"--unsafe-no-fsync", "--log-level", "warn")
}

// startAPIServer starts the API server and waits until it is ready.
func (c *Cluster) startAPIServer(ctx context.Context) error {
	audit, err := c.auditFlags()
	if err != nil {
		return err
	}
	err = c.startControl("kube-apiserver", append(audit,
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
		"--profiling=false")...)
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
	err := c.startControl("kube-controller-manager",
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
	return c.startControl("kube-scheduler",
		"--kubeconfig", c.kubeconfig("kube-scheduler"),
		"--leader-elect=false",
		"--cert-dir", c.hostDir(Control, "scheduler"))
}
