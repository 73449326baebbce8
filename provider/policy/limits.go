package policy

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/hostport-ccm/hostport-ccm/provider/config"
	"github.com/hostport-ccm/hostport-ccm/provider/options"
)

// askAdministrator ends messages about limits. A field of loadBalancer.policy is before it.
const askAdministrator = "in the cloud config; change it, or ask an administrator"

// ErrTooManyServices is in the error for a Service that may be admitted when another one
// of its namespace is deleted.
var ErrTooManyServices = errors.New("too many Services in the namespace")

// checkLimits returns all reasons why what a Service asks for is outside of the limits.
func (p Policy) checkLimits(svc *v1.Service, o options.Options) []error {
	return append(p.checkPorts(svc),
		p.checkSourceRanges(svc),
		p.checkPriorityClass(svc, o),
		p.checkTolerations(svc, o),
		p.checkDrain(svc, o),
		p.checkNamespace(svc, options.Datapath, p.Limits.DirectNamespaces, "directNamespaces", o.Datapath != options.DatapathProxy),
		p.checkNamespace(svc, options.Firewall, p.Limits.FirewallNamespaces, "firewallNamespaces", true),
	)
}

// has reports whether a Service has an annotation.
func has(svc *v1.Service, annotation string) bool {
	_, found := svc.Annotations[annotation]
	return found
}

func (p Policy) checkPriorityClass(svc *v1.Service, o options.Options) error {
	if !has(svc, options.PriorityClassName) {
		return nil
	}
	allowed := slices.Contains(p.Limits.PriorityClassNames, o.PriorityClassName)
	if p.Limits.PriorityClassNames == nil {
		allowed = !strings.HasPrefix(o.PriorityClassName, "system-")
	}
	if allowed {
		return nil
	}
	return fmt.Errorf("annotation %s: %s is not allowed by loadBalancer.policy.priorityClassNames %s",
		options.PriorityClassName, options.Quote(o.PriorityClassName), askAdministrator)
}

func (p Policy) checkTolerations(svc *v1.Service, o options.Options) error {
	if !has(svc, options.Tolerations) {
		return nil
	}
	for i, t := range o.Tolerations {
		if t.Key == "" {
			return fmt.Errorf("annotation %s: toleration %d has no key and would tolerate all taints, which is not allowed; name a key", options.Tolerations, i+1)
		}
		if p.Limits.TolerationKeys != nil && !slices.Contains(p.Limits.TolerationKeys, t.Key) {
			return fmt.Errorf("annotation %s: key %s of toleration %d is not allowed by loadBalancer.policy.tolerationKeys %s",
				options.Tolerations, options.Quote(t.Key), i+1, askAdministrator)
		}
	}
	return nil
}

func (p Policy) checkDrain(svc *v1.Service, o options.Options) error {
	longest := p.Limits.MaxDrainSeconds
	if !has(svc, options.DrainSeconds) || longest == 0 || o.DrainSeconds <= longest {
		return nil
	}
	return fmt.Errorf("annotation %s: \"%d\" is more than %d, loadBalancer.policy.maxDrainSeconds %s", options.DrainSeconds, o.DrainSeconds, longest, askAdministrator)
}

// checkNamespace returns why a Service may not have an annotation, if only Services of some
// namespaces may. restricted is whether this holds for the annotation's value. namespaces is nil
// for all.
func (p Policy) checkNamespace(svc *v1.Service, annotation string, namespaces []string, field string, restricted bool) error {
	if !has(svc, annotation) || !restricted || namespaces == nil || slices.Contains(namespaces, svc.Namespace) {
		return nil
	}
	return fmt.Errorf("annotation %s: %s is not allowed for Services of namespace %s by loadBalancer.policy.%s %s",
		annotation, options.Quote(svc.Annotations[annotation]), svc.Namespace, field, askAdministrator)
}

// checkPorts returns why a Service may not have its ports: a reason for all of them, or else for
// each that is for other namespaces.
func (p Policy) checkPorts(svc *v1.Service) []error {
	if most := p.Limits.MaxPorts; most > 0 && len(svc.Spec.Ports) > most {
		return []error{fmt.Errorf("the Service has %d ports, more than %d, loadBalancer.policy.maxPorts %s. "+
			"The CNI plugin portmap takes about a minute for 600 host ports, and other new pods on the node wait for it", len(svc.Spec.Ports), most, askAdministrator)}
	}
	var problems []error
	for _, port := range svc.Spec.Ports {
		protocol := cmp.Or(port.Protocol, v1.ProtocolTCP)
		if !p.allowsPort(svc.Namespace, protocol, port.Port) {
			problems = append(problems, fmt.Errorf("port %d/%s is not allowed for Services of namespace %s by loadBalancer.policy.ports %s",
				port.Port, protocol, svc.Namespace, askAdministrator))
		}
	}
	return problems
}

func (p Policy) checkSourceRanges(svc *v1.Service) error {
	written, where := options.WrittenRanges(svc)
	if most := p.Limits.MaxSourceRanges; most > 0 && len(written) > most {
		return fmt.Errorf("%s: %d ranges are more than %d, loadBalancer.policy.maxSourceRanges %s", where, len(written), most, askAdministrator)
	}
	return nil
}

func (p Policy) allowsPort(namespace string, protocol v1.Protocol, port int32) bool {
	restricted := false
	for _, entry := range p.Limits.Ports {
		if !config.ParsePorts(entry.Ports).Contains(protocol, port) {
			continue
		}
		if slices.Contains(entry.Namespaces, namespace) {
			return true
		}
		restricted = true
	}
	return !restricted
}

// checkNumber returns why a Service is one too many in its namespace, which has older ones.
func (p Policy) checkNumber(svc *v1.Service, older int) error {
	most := p.Limits.MaxServicesPerNamespace
	if most == 0 || older < most {
		return nil
	}
	return fmt.Errorf("%w: loadBalancer.policy.maxServicesPerNamespace allows %d in %s, the oldest first; delete one, or ask an administrator",
		ErrTooManyServices, most, svc.Namespace)
}

// countOlder returns how many older Services each Service has in its namespace, by creationTimestamp
// and UID.
func countOlder(services []*v1.Service) map[types.UID]int {
	older, inNamespace := map[types.UID]int{}, map[string]int{}
	for _, svc := range slices.SortedFunc(slices.Values(services), func(a, b *v1.Service) int {
		return cmp.Or(a.CreationTimestamp.Compare(b.CreationTimestamp.Time), strings.Compare(string(a.UID), string(b.UID)))
	}) {
		older[svc.UID] = inNamespace[svc.Namespace]
		inNamespace[svc.Namespace]++
	}
	return older
}
