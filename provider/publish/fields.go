package publish

import (
	"fmt"
	"strings"

	v1 "k8s.io/api/core/v1"

	"github.com/hostport-ccm/hostport-ccm/provider/options"
)

// Reasons of problems with fields of a Service.
const (
	ReasonIgnored  = "FieldIgnored"
	ReasonHidden   = "StatusHidden"
	ReasonAffinity = "AffinityPerNode"
)

// addressAnnotations ask other load balancers for an address, as spec.loadBalancerIP does.
var addressAnnotations = []string{
	"kube-vip.io/loadbalancerIPs",
	"metallb.io/loadBalancerIPs",
	"metallb.universe.tf/loadBalancerIPs",
	"networking.gke.io/load-balancer-ip-addresses",
}

// internalAnnotations ask other load balancers, by these values, for addresses of the internal
// network.
var internalAnnotations = [][2]string{
	{"cloud.google.com/load-balancer-type", "internal"},
	{"networking.gke.io/load-balancer-type", "internal"},
	{"service.beta.kubernetes.io/aws-load-balancer-internal", "true"},
	{"service.beta.kubernetes.io/aws-load-balancer-scheme", "internal"},
	{"service.beta.kubernetes.io/azure-load-balancer-internal", "true"},
}

// FieldProblems explains which fields and annotations of a Service do not do what a user may expect
// of them. direct reports that kube-proxy serves the Service, and not proxies.
func FieldProblems(svc *v1.Service, o options.Options, direct bool) []Problem {
	var list []Problem
	add := func(reason, format string, args ...any) {
		list = append(list, Problem{reason, fmt.Sprintf(format, args...)})
	}
	const choose = "%s is ignored, as a Service has the addresses of nodes: remove it, and choose nodes by annotation " + options.NodeSelector + " or " + options.MaxNodes
	if ip := svc.Spec.LoadBalancerIP; ip != "" {
		add(ReasonIgnored, choose, "spec.loadBalancerIP "+options.Quote(ip))
	}
	for _, key := range addressAnnotations {
		if svc.Annotations[key] != "" {
			add(ReasonIgnored, choose, "annotation "+key)
		}
	}
	for _, a := range internalAnnotations {
		if strings.EqualFold(svc.Annotations[a[0]], a[1]) && o.Addresses != options.Internal {
			add(ReasonIgnored, "annotation %s is ignored, and external addresses may be published: set annotation %s to %s for internal ones alone", a[0], options.NodeAddresses, options.Internal)
		}
	}
	if ips := svc.Spec.ExternalIPs; len(ips) > 0 {
		add(ReasonHidden, "ExternalDNS publishes spec.externalIPs (%s) in place of the addresses in status.loadBalancer: remove spec.externalIPs, unless clients do not find the Service by ExternalDNS", options.Cut(strings.Join(ips, ", "), 100))
	}
	if svc.Spec.SessionAffinity == v1.ServiceAffinityClientIP && !direct {
		add(ReasonAffinity, "spec.sessionAffinity is ClientIP, but proxies hide the clients' addresses, so all clients of a node go to one endpoint: set annotation %s to %s, or spec.sessionAffinity to None", options.Datapath, options.DatapathDirect)
	}
	return list
}
