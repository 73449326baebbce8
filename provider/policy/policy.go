// Package policy decides whether a Service is admitted: whether everything that it asks for is
// valid, and allowed to whoever writes Services. It is pure. A Service that is not admitted is
// refused: it keeps what it has until it is edited, and claims no ports.
package policy

import (
	"errors"
	"fmt"
	"slices"

	v1 "k8s.io/api/core/v1"

	"github.com/hostport-ccm/hostport-ccm/firewall"
	"github.com/hostport-ccm/hostport-ccm/provider/config"
	"github.com/hostport-ccm/hostport-ccm/provider/options"
)

// Policy is what all Services of a cluster may ask for.
type Policy struct {
	// Defaults are the options of a Service without annotations.
	Defaults options.Options
	// Limits are those that the administrator sets.
	Limits config.Policy
}

// Among returns Admit for Services among others: all that want a load balancer from us. It limits
// their number in a namespace too. If that has no limit, others is not called.
func (p Policy) Among(others func() []*v1.Service) func(*v1.Service) (options.Options, error) {
	if p.Limits.MaxServicesPerNamespace == 0 {
		return p.Admit
	}
	older := countOlder(others())
	return func(svc *v1.Service) (options.Options, error) {
		o, err := p.Admit(svc)
		return o, errors.Join(err, p.checkNumber(svc, older[svc.UID]))
	}
}

// Admit returns the options of a Service: the defaults with the values of its annotations. The error
// has a line for each thing that is wrong, which says what to do; the options are not to be used
// then.
func (p Policy) Admit(svc *v1.Service) (options.Options, error) {
	o, err := options.Parse(svc.Annotations, p.Defaults)
	problems := []error{err}
	if err == nil {
		problems = append(problems, p.checkFirewall(o))
		problems = append(problems, p.checkLimits(svc, o)...)
	}
	_, err = options.SourceRanges(svc)
	problems = append(problems, err, checkSpec(svc))
	return o, errors.Join(problems...)
}

// FirewallMode returns the firewall mode of a Service, which holds even if it is refused for
// another reason: that of its annotation if this one is admitted, else the default.
func (p Policy) FirewallMode(svc *v1.Service) firewall.Mode {
	value, found := svc.Annotations[options.Firewall]
	if !found {
		return p.Defaults.Firewall
	}
	o, err := options.Parse(map[string]string{options.Firewall: value}, p.Defaults)
	if err != nil || p.checkFirewall(o) != nil || p.checkNamespace(svc, options.Firewall, p.Limits.FirewallNamespaces, "", true) != nil {
		return p.Defaults.Firewall
	}
	return o.Firewall
}

func (p Policy) checkFirewall(o options.Options) error {
	if o.Firewall.Exceeds(p.Defaults.Firewall) {
		return fmt.Errorf("annotation %s: %s is refused, as the cloud config sets loadBalancer.firewall: %s; remove the annotation",
			options.Firewall, options.Quote(o.Firewall), p.Defaults.Firewall)
	}
	return nil
}

// checkSpec returns why a Service cannot be served whatever its annotations are.
func checkSpec(svc *v1.Service) error {
	if len(svc.Spec.Ports) == 0 {
		return fmt.Errorf("service %s/%s has no ports", svc.Namespace, svc.Name)
	}
	isAddress := func(ip string) bool { return ip != "" && ip != v1.ClusterIPNone }
	if !isAddress(svc.Spec.ClusterIP) && !slices.ContainsFunc(svc.Spec.ClusterIPs, isAddress) {
		return fmt.Errorf("service %s/%s has no cluster IP to forward to: a headless Service cannot be served", svc.Namespace, svc.Name)
	}
	return nil
}
