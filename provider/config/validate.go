package config

import (
	"errors"
	"fmt"
	"net/url"
	"regexp"
	"slices"
	"strings"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/hostport-ccm/hostport-ccm/firewall"
	proxyconfig "github.com/hostport-ccm/hostport-ccm/nodeproxy/config"
	"github.com/hostport-ccm/hostport-ccm/provider/options"
)

// maxClusterID is what a label's value of 63 characters leaves beside a hyphen and a UID.
const maxClusterID = 63 - 1 - 36

// validate checks a config that has its defaults.
func (c *CloudConfig) validate() error {
	var p problems
	oneOf(&p, "apiVersion", c.APIVersion, APIVersion)
	oneOf(&p, "kind", c.Kind, Kind)
	p.check(isDNSLabel(c.ClusterID) && len(c.ClusterID) <= maxClusterID, "clusterID", "%q is not valid, expected a DNS label of at most %d characters", c.ClusterID, maxClusterID)
	oneOf(&p, "provider", c.Provider, ProviderGCE, ProviderNone)
	c.LoadBalancer.validate(&p)
	c.GCE.validate(&p)
	isEmpty := equality.Semantic.DeepEqual(c.GCE, GCE{})
	p.check(isEmpty || c.Provider != ProviderNone, "gce", "has no meaning with provider none: remove it, or set provider to gce")
	if len(p) > 0 {
		return errors.New(strings.Join(p, "; "))
	}
	return nil
}

func (lb *LoadBalancer) validate(p *problems) {
	p.check(lb.ProxyImage != "" && !strings.ContainsAny(lb.ProxyImage, " \t\n"), "loadBalancer.proxyImage",
		"%q is not valid, expected the image of hostport-nodeproxy", lb.ProxyImage)
	oneOf(p, "loadBalancer.imagePullPolicy", lb.ImagePullPolicy, v1.PullAlways, v1.PullIfNotPresent, v1.PullNever)
	p.check(isDNSLabel(lb.Namespace), "loadBalancer.namespace", "%q is not valid, expected the name of a namespace", lb.Namespace)
	oneOf(p, "loadBalancer.classes", lb.Classes, ClassesBoth, ClassesClass, ClassesNone)
	if lb.PriorityClassName != "" {
		p.expect(options.ValidatePriorityClassName(lb.PriorityClassName), "loadBalancer.priorityClassName", lb.PriorityClassName)
	}
	err := options.ValidateTolerations(lb.Tolerations)
	p.check(err == nil, "loadBalancer.tolerations", "not valid, expected %v", err)
	p.expect(lb.Addresses.Validate(), "loadBalancer.addresses", lb.Addresses)
	p.check(lb.InternalRanges == nil || len(lb.InternalRanges) > 0, "loadBalancer.internalRanges", "empty, expected at least one range such as 10.0.0.0/8")
	for _, text := range lb.InternalRanges {
		_, err := options.ParseRange(text)
		p.expect(err, "loadBalancer.internalRanges", text)
	}
	p.expect(options.ValidateFirewall(lb.Firewall), "loadBalancer.firewall", lb.Firewall)
	p.expect(lb.Datapath.Validate(), "loadBalancer.datapath", lb.Datapath)
	if lb.KubeProxyMode != "" {
		oneOf(p, "loadBalancer.kubeProxyMode", lb.KubeProxyMode, KubeProxyIPTables, KubeProxyNFTables, KubeProxyIPVS, KubeProxyNone)
	}
	oneOf(p, "loadBalancer.failover", lb.Failover, FailoverFast, FailoverKubernetes)
	for _, text := range lb.ReservedPorts {
		_, err := options.ParsePortRange(text)
		p.expect(err, "loadBalancer.reservedPorts", text)
	}
	nodePorts, err := options.ParsePortRange(lb.NodePortRange)
	p.check(lb.NodePortRange == noNodePorts || err == nil && nodePorts.Protocol == "", "loadBalancer.nodePortRange",
		"%q is not valid, expected a range such as 30000-32767, or none", lb.NodePortRange)
	lb.Policy.validate(p)
	if lb.IPMode != "" {
		oneOf(p, "loadBalancer.ipMode", lb.IPMode, v1.LoadBalancerIPModeVIP, v1.LoadBalancerIPModeProxy)
	}
}

func (policy *Policy) validate(p *problems) {
	for _, name := range policy.PriorityClassNames {
		p.expect(options.ValidatePriorityClassName(name), "loadBalancer.policy.priorityClassNames", name)
	}
	for _, key := range policy.TolerationKeys {
		p.check(len(validation.IsQualifiedName(key)) == 0, "loadBalancer.policy.tolerationKeys", "%q is not valid, expected the key of a taint", key)
	}
	p.check(policy.MaxDrainSeconds > 0 && policy.MaxDrainSeconds <= proxyconfig.MaxDrainSeconds, "loadBalancer.policy.maxDrainSeconds",
		"%d is not valid, expected a number of seconds from 1 to %d", policy.MaxDrainSeconds, proxyconfig.MaxDrainSeconds)
	p.check(policy.MaxPorts > 0, "loadBalancer.policy.maxPorts", "%d is not valid, expected a number of at least 1", policy.MaxPorts)
	p.check(policy.MaxSourceRanges > 0 && policy.MaxSourceRanges <= options.MaxSourceRanges, "loadBalancer.policy.maxSourceRanges",
		"%d is not valid, expected a number from 1 to %d", policy.MaxSourceRanges, options.MaxSourceRanges)
	p.check(policy.MaxServicesPerNamespace >= 0, "loadBalancer.policy.maxServicesPerNamespace", "%d is not valid, expected a number of at least 1", policy.MaxServicesPerNamespace)
	for i, entry := range policy.Ports {
		field := fmt.Sprintf("loadBalancer.policy.ports[%d].ports", i)
		p.check(len(entry.Ports) > 0, field, "empty, expected a list of ports such as \"443/TCP\"")
		for _, text := range entry.Ports {
			_, err := options.ParsePortRange(text)
			p.expect(err, field, text)
		}
		checkNamespaces(p, fmt.Sprintf("loadBalancer.policy.ports[%d].namespaces", i), entry.Namespaces)
	}
	checkNamespaces(p, "loadBalancer.policy.directNamespaces", policy.DirectNamespaces)
	checkNamespaces(p, "loadBalancer.policy.firewallNamespaces", policy.FirewallNamespaces)
}

func checkNamespaces(p *problems, field string, names []string) {
	for _, name := range names {
		p.check(isDNSLabel(name), field, "%q is not valid, expected the name of a namespace", name)
	}
}

// networkTag is the syntax of a network tag of GCE, that of RFC 1035.
var networkTag = regexp.MustCompile(`^[a-z]([-a-z0-9]{0,61}[a-z0-9])?$`)

func (g *GCE) validate(p *problems) {
	for _, tag := range g.NodeTags {
		p.check(networkTag.MatchString(tag), "gce.nodeTags", "%q is not valid, expected a network tag", tag)
	}
	if g.APIEndpoint != "" {
		u, err := url.Parse(g.APIEndpoint)
		p.check(err == nil && u.Host != "" && (u.Scheme == "http" || u.Scheme == "https"), "gce.apiEndpoint",
			"%q is not valid, expected a URL such as https://compute.googleapis.com", g.APIEndpoint)
	}
	if g.FirewallLayout != "" {
		oneOf(p, "gce.firewallLayout", g.FirewallLayout, firewall.PerService, firewall.Shared)
	}
	p.check(g.FirewallCheckPeriod.Duration >= 0, "gce.firewallCheckPeriod", "%q is not valid, expected a duration such as 30s", g.FirewallCheckPeriod.Duration)
	p.check(g.InstanceCacheTTL.Duration >= 0, "gce.instanceCacheTTL", "%q is not valid, expected a duration such as 10s", g.InstanceCacheTTL.Duration)
}

func isDNSLabel(s string) bool { return len(validation.IsDNS1123Label(s)) == 0 }

// problems collects the errors of a file's fields.
type problems []string

// check adds a problem unless ok.
func (p *problems) check(ok bool, field, format string, args ...any) {
	if !ok {
		*p = append(*p, field+": "+fmt.Sprintf(format, args...))
	}
}

// expect adds a problem if err is not nil. err names the valid values, as in package options.
func (p *problems) expect(err error, field string, value any) {
	p.check(err == nil, field, "%q is not valid, expected %v", value, err)
}

// oneOf adds a problem unless the value is one of those allowed.
func oneOf[T ~string](p *problems, field string, value T, allowed ...T) {
	var words []string
	for _, a := range allowed {
		words = append(words, string(a))
	}
	p.check(slices.Contains(allowed, value), field, "%q is not valid, expected one of %s", value, strings.Join(words, ", "))
}
