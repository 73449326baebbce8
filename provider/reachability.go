package provider

import (
	"k8s.io/api/core/v1"

	"github.com/hostport-ccm/hostport-ccm/provider/direct"
	"github.com/hostport-ccm/hostport-ccm/provider/events"
	"github.com/hostport-ccm/hostport-ccm/provider/proxies"
	"github.com/hostport-ccm/hostport-ccm/provider/reachability"
)

// reachabilityMonitor returns a monitor of all proxies.
func (w watches) reachabilityMonitor(proxies *proxies.Manager, kubeProxy *direct.Manager, recorder *events.Recorder) *reachability.Monitor {
	// Without a mirror, the monitor sees in the status at which addresses kube-proxy serves.
	isDirect := func(svc *v1.Service) bool { return kubeProxy.Current(svc, nil).Any() }
	return reachability.New(reachability.Cluster{
		Proxies: proxies.AllPods, Service: w.services.Latest, Node: w.nodeNamed, Direct: isDirect,
		Delete: proxies.Replace, Enqueue: w.services.Enqueue,
	}, recorder)
}
