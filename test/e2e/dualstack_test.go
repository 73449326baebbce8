//go:build e2e

package e2e

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/utils/ptr"

	"github.com/hostport-ccm/hostport-ccm/test/sandbox/cluster"
)

func TestDualStackServiceAnswersOnEveryAddressAndIsClosedAgain(t *testing.T) {
	needDualStack(t)
	t.Parallel()
	v4, v6 := externalIPs(), externalIPv6s()
	for _, c := range []struct {
		name      string
		families  []v1.IPFamily
		published []string
		not       []string
		rules     int
	}{
		{"IPv4 before IPv6", []v1.IPFamily{v1.IPv4Protocol, v1.IPv6Protocol}, slices.Concat(v4, v6), nil, 2},
		{"IPv6 before IPv4", []v1.IPFamily{v1.IPv6Protocol, v1.IPv4Protocol}, slices.Concat(v6, v4), nil, 2},
		{"IPv6 alone", []v1.IPFamily{v1.IPv6Protocol}, v6, v4, 1},
		{"IPv4 alone", []v1.IPFamily{v1.IPv4Protocol}, v4, v6, 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			overDatapaths(t, func(t *testing.T, d datapath) {
				port, wrong, all := freePort(), freePort(), slices.Concat(v4, v6)
				ns := newNamespace(t)
				newBackend(t, ns, "web")
				wantBothClosed(t, cluster.Internet, port, all...)

				svc := d.newService(t, ns, inFamilies(c.families...), bothProtocols(port)...)
				wantAddresses(t, svc, time.Minute, c.published...)
				wantBothOpen(t, cluster.Internet, port, c.published...)
				wantBothClosed(t, cluster.Internet, port, c.not...)
				wantBothClosed(t, cluster.Internet, wrong, all...)
				rules, err := rulesOf(t.Context(), svc)
				if err != nil || len(rules) != c.rules {
					t.Errorf("there are %d firewall rules, want %d (error: %v)", len(rules), c.rules, err)
				}

				deleteService(t, svc)
				wantNothingLeft(t, svc)
				wantBothClosed(t, cluster.Internet, port, all...)
			})
		})
	}
}

func TestDualStackServiceAddsAndRemovesIPv6(t *testing.T) {
	needDualStack(t)
	t.Parallel()
	overDatapaths(t, func(t *testing.T, d datapath) {
		ns, port := newNamespace(t), freePort()
		newBackend(t, ns, "web")
		// Without drain time, as the proxies are replaced twice, one by one.
		svc := d.newService(t, ns, withAnnotation(drainSeconds, "0"), bothProtocols(port)...)
		wantAddresses(t, svc, time.Minute, externalIPs()...)
		if !d.direct {
			eventually(t, time.Minute, "the proxies count as available", func(ctx context.Context) error {
				return haveAvailable(ctx, svc, len(externalIPs()))
			})
		}

		editService(t, svc, inFamilies(v1.IPv4Protocol, v1.IPv6Protocol))
		both := slices.Concat(externalIPs(), externalIPv6s())
		waitIPv6Added(t, svc, both)
		for _, address := range both {
			// Whether kube-proxy has programmed an address cannot be observed.
			if _, err := askTCP(t.Context(), from(cluster.Internet), address, port, askHostname); err != nil && !d.direct {
				t.Errorf("%s was published before it was served: %v", address, err)
			}
		}
		wantBothOpen(t, cluster.Internet, port, both...)

		editService(t, svc, func(s *v1.Service) {
			inFamilies(v1.IPv4Protocol)(s)
			s.Spec.ClusterIPs = s.Spec.ClusterIPs[:1]
		})
		wantAddresses(t, svc, 2*time.Minute, externalIPs()...)
		wantBothOpen(t, cluster.Internet, port, externalIPs()...)
		waitBothClosed(t, cluster.Internet, port, externalIPv6s()...)
	})
}

// waitIPv6Added waits until a Service has IPv6 addresses too. Meanwhile it must have those of IPv4,
// except for the one whose proxy is being replaced.
func waitIPv6Added(t *testing.T, svc *v1.Service, want []string) {
	t.Helper()
	eventually(t, 2*time.Minute, fmt.Sprintf("Service %s has addresses %v", svc.Name, want), func(ctx context.Context) error {
		got, err := addresses(ctx, svc)
		if err != nil || sameElements(got, want) {
			return err
		}
		kept := slices.DeleteFunc(externalIPs(), func(ip string) bool { return !slices.Contains(got, ip) })
		if len(kept) < len(externalIPs())-1 {
			t.Fatalf("it has %v, too few of IPv4", got)
		}
		return fmt.Errorf("it has %v", got)
	})
}

func TestDualStackSourceRangesOfOneFamilyExcludeTheOther(t *testing.T) {
	needDualStack(t)
	t.Parallel()
	overDatapaths(t, func(t *testing.T, d datapath) {
		ns, port := newNamespace(t), freePort()
		newBackend(t, ns, "web")
		svc := d.newService(t, ns, func(s *v1.Service) {
			inFamilies(v1.IPv4Protocol, v1.IPv6Protocol)(s)
			onlyFrom(cluster.InternetIPv6)(s)
		}, bothProtocols(port)...)
		wantBothOpen(t, cluster.Internet, port, externalIPv6s()...)
		openManually(t, port, "0.0.0.0/0")
		wantBothClosed(t, cluster.Internet, port, externalIPs()...)

		editService(t, svc, onlyFrom(cluster.InternetIPv6, cluster.InternetIP))
		wantBothOpen(t, cluster.Internet, port, slices.Concat(externalIPs(), externalIPv6s())...)
	})
}

// needDualStack skips a test in a cluster without IPv6. The Makefile runs none there.
func needDualStack(t *testing.T) {
	t.Helper()
	if sandbox.IPFamily() != cluster.DualStack {
		t.Skip("it needs a sandbox that was started with -ip-family dual")
	}
}

// inAllFamilies makes a Service have the IP families of the sandbox.
func inAllFamilies(svc *v1.Service) { inFamilies(families()...)(svc) }

// inFamilies makes a Service have these IP families; the first is its preferred one.
func inFamilies(families ...v1.IPFamily) func(*v1.Service) {
	return func(svc *v1.Service) {
		svc.Spec.IPFamilies = families
		svc.Spec.IPFamilyPolicy = ptr.To(v1.IPFamilyPolicyRequireDualStack)
		if len(families) == 1 {
			svc.Spec.IPFamilyPolicy = ptr.To(v1.IPFamilyPolicySingleStack)
		}
	}
}
