package plan

import (
	"encoding/json"
	"net/netip"

	"k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	nodeproxy "github.com/hostport-ccm/hostport-ccm/nodeproxy/config"
	"github.com/hostport-ccm/hostport-ccm/provider/options"
)

// configMap tells the proxies what to forward. It holds what may change
// without replacing them, and so must not leave a trace in the pod template:
// with hostPorts every change of the template is an outage per node.
func (s Settings) configMap(svc *v1.Service, set int, o options.Options, ranges []netip.Prefix) *v1.ConfigMap {
	content := nodeproxy.Config{
		Service:      svc.Namespace + "/" + svc.Name,
		ClusterIPs:   clusterIPs(svc),
		DrainSeconds: o.DrainSeconds,
	}
	for _, p := range Ports(svc) {
		content.Ports = append(content.Ports, nodeproxy.Port{Protocol: string(p.Protocol), Port: uint16(p.Port)})
	}
	for _, r := range ranges {
		content.SourceRanges = append(content.SourceRanges, r.String())
	}
	data, _ := json.MarshalIndent(content, "", "  ") // Strings and numbers only: never an error.
	return &v1.ConfigMap{
		ObjectMeta: metav1.ObjectMeta{Namespace: s.Namespace, Name: SetNames(svc)[set], Labels: s.setLabels(svc, set)},
		Data:       map[string]string{nodeproxy.FileName: string(data)},
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
