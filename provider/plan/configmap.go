package plan

import (
	"encoding/json"
	"net/netip"

	"k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	proxyconfig "github.com/hostport-ccm/hostport-ccm/nodeproxy/config"
	"github.com/hostport-ccm/hostport-ccm/provider/options"
	"github.com/hostport-ccm/hostport-ccm/provider/snapshot"
)

// configMap returns the config of the proxies of a set: what to forward. It holds what may change
// without replacing the pods. A pod with a host port cannot be replaced without an outage on its
// node, so nothing of this may be in the pod template.
func (s Settings) configMap(svc *v1.Service, set int, o options.Options, ranges []netip.Prefix) *v1.ConfigMap {
	content := proxyconfig.Config{
		Service:      svc.Namespace + "/" + svc.Name,
		ClusterIPs:   clusterIPs(svc),
		DrainSeconds: o.DrainSeconds,

		MaxConnectionsPerClient: o.MaxConnectionsPerClient,
	}
	for _, p := range snapshot.PortsOf(svc) {
		content.Ports = append(content.Ports, proxyconfig.Port{Protocol: string(p.Protocol), Port: uint16(p.Number)})
	}
	for _, r := range ranges {
		content.SourceRanges = append(content.SourceRanges, r.String())
	}
	data, _ := json.MarshalIndent(content, "", "  ") // Strings and numbers only: never an error.
	return &v1.ConfigMap{
		ObjectMeta: metav1.ObjectMeta{Namespace: s.Namespace, Name: SetNames(svc)[set], Labels: s.setLabels(svc, set)},
		Data:       map[string]string{proxyconfig.FileName: string(data)},
	}
}

func clusterIPs(svc *v1.Service) []string {
	written := svc.Spec.ClusterIPs
	if len(written) == 0 {
		written = []string{svc.Spec.ClusterIP}
	}
	var ips []string
	for _, ip := range written {
		if ip != "" && ip != v1.ClusterIPNone {
			ips = append(ips, ip)
		}
	}
	return ips
}
