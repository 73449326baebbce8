//go:build e2e

package e2e

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	servicehelper "k8s.io/cloud-provider/service/helpers"
	"k8s.io/utils/ptr"

	"github.com/hostport-ccm/hostport-ccm/test/sandbox/cluster"
)

// The finalizers of a Service that hostport-ccm serves, and of one that the other controller
// serves.
var (
	ourFinalizers   = []string{"hostport-ccm.io/cleanup", servicehelper.LoadBalancerCleanupFinalizer}
	theirFinalizers = []string{servicehelper.LoadBalancerCleanupFinalizer}
)

func TestGKENodesAreInitialisedByTheOtherController(t *testing.T) {
	for _, want := range cluster.Nodes(cluster.GKE) {
		node, err := client.CoreV1().Nodes().Get(t.Context(), want.Name, metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if err := isInitialised(node, want); err != nil {
			t.Errorf("%s: %v", want.Name, err)
		}
		if manager := managerOf(t, node.ManagedFields, "f:spec", "f:providerID"); manager != "foreignccm" {
			t.Errorf("%s: the provider id was set by %q", want.Name, manager)
		}
	}
}

func TestGKEServicesOfBothKindsAreServedSideBySide(t *testing.T) {
	t.Parallel()
	port, another := freePort(), freePort()
	ns := newNamespace(t)
	newBackend(t, ns, "ours")
	ours := newService(t, ns, "ours", ofOurClass, servicePort(v1.ProtocolTCP, port))
	theirs := newService(t, ns, "theirs", nil, servicePort(v1.ProtocolTCP, port))
	wantServedByUs(t, ours, time.Minute)
	wantOpen(t, getTCP, "ours", port, externalIPs()...)
	wantServedByThem(t, theirs)

	before := version(t, theirs)
	editService(t, ours, func(s *v1.Service) { s.Spec.Ports = append(s.Spec.Ports, servicePort(v1.ProtocolTCP, another)) })
	wantOpen(t, getTCP, "ours", another, externalIPs()...)
	wantRule(t, ours, fmt.Sprintf("tcp:%d,%d", port, another))
	if after := version(t, theirs); after != before {
		t.Errorf("Service theirs was written: %s, before %s", after, before)
	}

	wantProxies(t, ours, 2*len(externalIPs()))
	wantAddresses(t, ours, time.Minute, externalIPs()...)
	before = version(t, ours)
	editService(t, theirs, func(s *v1.Service) { s.Spec.Ports[0].Port = int32(freePort()) })
	wantServedByThem(t, theirs)
	deleteService(t, theirs)
	wantNothingLeft(t, theirs)
	wantNoForeignBalancer(t, theirs)
	if after := version(t, ours); after != before {
		t.Errorf("Service ours was written: %s, before %s", after, before)
	}
	wantOpen(t, getTCP, "ours", port, externalIPs()...)

	deleteService(t, ours)
	wantNothingLeft(t, ours)
	wantClosed(t, getTCP, port, externalIPs()...)
	// The other controller records this event for each Service that it handles.
	if got := reasons(t, ours); slices.Contains(got, "EnsuringLoadBalancer") {
		t.Errorf("the other controller served Service ours: %v", got)
	}
}

func ofOurClass(s *v1.Service) { s.Spec.LoadBalancerClass = ptr.To("hostport-ccm.io/hostport") }

// Upstream's service controller removes the standard finalizer from every Service that is being
// deleted.
func TestGKEDeletionWaitsForCleanupWithoutTheStandardFinalizer(t *testing.T) {
	ns := newNamespace(t)
	newBackend(t, ns, "ours")
	ours := newService(t, ns, "ours", ofOurClass, servicePort(v1.ProtocolTCP, freePort()))
	wantServedByUs(t, ours, time.Minute)
	stopSimulator(t)
	deleteService(t, ours)
	eventually(t, time.Minute, "the other controller has removed the standard finalizer", func(ctx context.Context) error {
		return hasFinalizers(ctx, ours, ourFinalizers[:1])
	})
	if rules, err := rulesOf(t.Context(), ours); err != nil || len(rules) != 1 {
		t.Errorf("%d rules (%v)", len(rules), err)
	}
	startSimulator(t)
	wantNothingLeft(t, ours)
}

func TestGKEServiceMovesBetweenControllersAndLeavesNoOrphans(t *testing.T) {
	t.Parallel()
	ns, port := newNamespace(t), freePort()
	newBackend(t, ns, "web")
	svc := newService(t, ns, "web", ofOurClass, servicePort(v1.ProtocolTCP, port))
	wantServedByUs(t, svc, time.Minute)
	changeClass := func(class func(*v1.Service)) {
		editService(t, svc, func(s *v1.Service) { s.Spec.Type, s.Spec.LoadBalancerClass = v1.ServiceTypeClusterIP, nil })
		// Upstream's controller would race with itself: its last work for the old
		// Service would add a finalizer that nothing removes.
		eventually(t, time.Minute, "the Service has lost the standard finalizer", func(ctx context.Context) error {
			return hasNoStandardFinalizer(ctx, svc)
		})
		editService(t, svc, func(s *v1.Service) { s.Spec.Type = v1.ServiceTypeLoadBalancer; class(s) })
	}
	changeClass(func(*v1.Service) {})
	wantServedByThem(t, svc)
	wantClosed(t, getTCP, port, externalIPs()...)

	changeClass(ofOurClass)
	wantServedByUs(t, svc, time.Minute)
	wantOpen(t, getTCP, "web", port, externalIPs()...)
	deleteService(t, svc)
	wantNothingLeft(t, svc)
	wantNoForeignBalancer(t, svc)
}

func hasNoStandardFinalizer(ctx context.Context, svc *v1.Service) error {
	live, err := client.CoreV1().Services(svc.Namespace).Get(ctx, svc.Name, metav1.GetOptions{})
	if err == nil && servicehelper.HasLBFinalizer(live) {
		err = fmt.Errorf("its finalizers are %v", live.Finalizers)
	}
	return err
}

// Services of both kinds are created, changed and deleted in random order without waiting.
func TestGKEAnyOrderLeaksNothing(t *testing.T) {
	t.Parallel()
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	ns := newNamespace(t)
	live, gone := map[string]*v1.Service{}, []*v1.Service{}
	for i := range 24 {
		names := slices.Sorted(maps.Keys(live))
		switch act := random.IntN(4); {
		case act < 2 || len(names) == 0:
			class, name := ofOurClass, fmt.Sprint("ours", i)
			if random.IntN(2) == 0 {
				class, name = func(*v1.Service) {}, fmt.Sprint("theirs", i)
			}
			live[name] = newService(t, ns, name, class, servicePort(v1.ProtocolTCP, 1000+i))
		case act == 2:
			svc := live[names[random.IntN(len(names))]]
			editService(t, svc, func(s *v1.Service) { s.Spec.Ports = append(s.Spec.Ports, servicePort(v1.ProtocolTCP, 2000+i)) })
		default:
			name := names[random.IntN(len(names))]
			deleteService(t, live[name])
			gone = append(gone, live[name])
			delete(live, name)
		}
	}
	for name, svc := range live {
		if strings.HasPrefix(name, "ours") {
			wantServedByUs(t, svc, 3*time.Minute)
		} else {
			wantServedByThem(t, svc)
		}
	}
	for _, svc := range live {
		deleteService(t, svc)
		gone = append(gone, svc)
	}
	for _, svc := range gone {
		wantNothingLeft(t, svc)
		// A Service that is deleted in the moment in which the other controller adds its finalizer is gone at
		// once, and its load balancer stays: seen with API server 1.36.3, without hostport-ccm too.
		if _, wasServed := live[svc.Name]; wasServed || strings.HasPrefix(svc.Name, "ours") {
			wantNoForeignBalancer(t, svc)
		}
	}
}

func version(t *testing.T, svc *v1.Service) string {
	t.Helper()
	live, err := client.CoreV1().Services(svc.Namespace).Get(t.Context(), svc.Name, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return live.ResourceVersion
}

func wantServedByUs(t *testing.T, svc *v1.Service, limit time.Duration) {
	t.Helper()
	wantAddresses(t, svc, limit, externalIPs()...)
	eventually(t, time.Minute, "Service "+svc.Name+" has our finalizers", func(ctx context.Context) error {
		return hasFinalizers(ctx, svc, ourFinalizers)
	})
	wantNoForeignBalancer(t, svc)
}

// wantServedByThem waits until the other controller alone serves a Service: hostport-ccm has added
// no finalizer, no address, no event and no object.
func wantServedByThem(t *testing.T, svc *v1.Service) {
	t.Helper()
	eventually(t, time.Minute, "Service "+svc.Name+" has an address and the finalizer of the other controller", func(ctx context.Context) error {
		got, err := addresses(ctx, svc)
		if err == nil && (len(got) != 1 || !strings.HasPrefix(got[0], "192.0.2.")) {
			err = fmt.Errorf("its addresses are %v", got)
		}
		return errors.Join(err, hasFinalizers(ctx, svc, theirFinalizers), hasNoOrphans(ctx, svc))
	})
	reasons(t, svc)
}

func hasFinalizers(ctx context.Context, svc *v1.Service, want []string) error {
	live, err := client.CoreV1().Services(svc.Namespace).Get(ctx, svc.Name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return err
	}
	if err == nil && cmp.Diff(want, slices.Sorted(slices.Values(live.Finalizers))) != "" {
		err = fmt.Errorf("its finalizers are %v", live.Finalizers)
	}
	return err
}

func wantNoForeignBalancer(t *testing.T, svc *v1.Service) {
	t.Helper()
	eventually(t, time.Minute, "the other controller has no load balancer for "+svc.Name, func(context.Context) error {
		all, err := sandbox.ForeignBalancers()
		if err == nil && slices.Contains(all, svc.Namespace+"/"+svc.Name) {
			err = fmt.Errorf("it has %v", all)
		}
		return err
	})
}

// reasons returns the reasons of all events of a Service. It fails the test at an event of
// hostport-ccm for a Service without its class.
func reasons(t *testing.T, svc *v1.Service) []string {
	t.Helper()
	list, err := client.CoreV1().Events(svc.Namespace).List(t.Context(), metav1.ListOptions{FieldSelector: "involvedObject.uid=" + string(svc.UID)})
	if err != nil {
		t.Fatal(err)
	}
	var all []string
	for _, e := range list.Items {
		all = append(all, e.Reason)
		if e.Source.Component == "hostport-ccm" && svc.Spec.LoadBalancerClass == nil {
			t.Errorf("hostport-ccm recorded an event for Service %s of the other controller: %s", svc.Name, e.Message)
		}
	}
	return all
}
