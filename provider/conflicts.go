package provider

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	servicehelper "k8s.io/cloud-provider/service/helpers"
	"k8s.io/klog/v2"

	"github.com/hostport-ccm/hostport-ccm/provider/config"
	"github.com/hostport-ccm/hostport-ccm/provider/plan"
	"github.com/hostport-ccm/hostport-ccm/provider/publish"
)

// holders returns the pods of others that have the Service's ports. Who asks for
// a port that is served on the same node already does not have it: where a proxy
// is ready the kubelet turns such a pod away; where kube-proxy serves, the pod
// runs, and is late. In mode nftables the pod has it all the same, as the rules of
// host ports go before kube-proxy's.
func (l *loadBalancer) holders(svc *v1.Service, now direct) (held, late map[string][]*v1.Pod) {
	ours := l.portsServed(svc)
	mode, _ := l.kubeProxy.is()
	held, late = map[string][]*v1.Pod{}, map[string][]*v1.Pod{}
	for key, pods := range l.around.Holders(svc) {
		for _, pod := range pods {
			switch node := pod.Spec.NodeName; {
			case now.nodes[node] && now.ports.Has(key) && mode != config.KubeProxyNFTables:
				late[key] = append(late[key], pod)
			case !ours[node+" "+key]:
				held[key] = append(held[key], pod)
			}
		}
	}
	return held, late
}

// portsServed returns on which nodes which ports have a proxy that is ready, as
// node and plan.PortKey.
func (l *loadBalancer) portsServed(svc *v1.Service) map[string]bool {
	served := map[string]bool{}
	for _, proxy := range l.proxies(svc) {
		for _, port := range plan.HostPorts(proxy.Spec) {
			if publish.Ready(proxy) {
				served[proxy.Spec.NodeName+" "+port] = true
			}
		}
	}
	return served
}

// othersProxies returns the proxies of other Services that have the Service's
// ports where it does not serve them itself.
func (l *loadBalancer) othersProxies(svc *v1.Service) map[string][]*v1.Pod {
	ours, others := l.portsServed(svc), map[string][]*v1.Pod{}
	for _, key := range plan.PortKeys(svc) {
		found, _ := l.pods.ByIndex(byHostPort, key) // The index is there.
		for _, obj := range found {
			pod := obj.(*v1.Pod)
			if pod.Labels[plan.LabelServiceUID] != string(svc.UID) && pod.Spec.NodeName != "" && !ours[pod.Spec.NodeName+" "+key] {
				others[key] = append(others[key], pod)
			}
		}
	}
	return others
}

// running returns the names of the nodes that serve the Service as things are, or
// are about to: a taint that keeps new pods off a node does not end that.
func (l *loadBalancer) running(svc *v1.Service, now direct) map[string]bool {
	running := publish.Running(l.proxies(svc))
	maps.Copy(running, now.nodes)
	return running
}

// portWarnings is one warning for all ports that a Service does not get.
func portWarnings(p *plan.Plan) []warning {
	if len(p.Conflicts) == 0 {
		return nil
	}
	return []warning{{reason: reasonPortsNotServed, message: publish.Sentences(p.Conflicts)}}
}

// nodeWarnings is one warning for a Service without nodes. How many nodes of others
// come and go meanwhile is no news.
func nodeWarnings(p *plan.Plan) []warning {
	if p.NoNodes == "" {
		return nil
	}
	return []warning{{reason: publish.ReasonUnschedulable, message: p.NoNodes, key: "no nodes"}}
}

// proxyWarnings explains proxies that cannot start. Where it is known who has
// their port, or lets go of it, or that no node is chosen, the scheduler's guess is
// left out.
func proxyWarnings(p *plan.Plan, pods []*v1.Pod) []warning {
	var list []warning
	for _, sentence := range p.Held {
		list = append(list, warning{reason: publish.ReasonUnschedulable, message: sentence})
	}
	for _, t := range publish.Troubles(pods) {
		if t.Reason != publish.ReasonUnschedulable || len(p.Held) == 0 && len(p.Awaited) == 0 && p.NoNodes == "" {
			list = append(list, warning{t.Reason, t.Message, t.Reason})
		}
	}
	return list
}

// withdraw removes what was made for a Service that is to go, or that gets none
// of its ports, the opening in the firewall first. It returns what somebody else
// has to do.
func (l *loadBalancer) withdraw(ctx context.Context, svc *v1.Service) ([]warning, error) {
	told, err := l.shut(ctx, svc)
	if err != nil {
		return told, err
	}
	if err := l.removeMirror(ctx, svc); err != nil {
		return told, err
	}
	return told, l.removeProxies(ctx, svc)
}

// removeMirror goes without the right to delete mirrors as far as it can while the
// Service stays with us, or goes too: kube-proxy is told to let go, and the rest is
// left for later, or to the garbage collector, as a mirror goes with its owner.
func (l *loadBalancer) removeMirror(ctx context.Context, svc *v1.Service) error {
	err := l.mirrors.remove(ctx, svc, plan.Name(svc))
	mirror, found := l.mirrors.known(svc, plan.Name(svc))
	if !apierrors.IsForbidden(err) || !found || svc.Spec.Type != v1.ServiceTypeLoadBalancer {
		return err
	}
	klog.FromContext(ctx).Info("The mirror of a Service cannot be deleted for now", "service", klog.KObj(svc), "reason", err.Error())
	l.services.PokeAfter(nameOf(svc), recheckRights)
	return l.tellMirror(svc, mirror, &v1.LoadBalancerStatus{})
}

// tellConditions writes the Service's conditions where they differ. The
// service controller writes nothing but addresses and finalizers, as differences
// too, so that neither undoes what the other writes.
func (l *loadBalancer) tellConditions(ctx context.Context, svc *v1.Service, conflicts []plan.Conflict) error {
	return l.patchConditions(ctx, svc, publish.Conditions(svc.Status.Conditions, conflicts, time.Now()))
}

// hasConditions says that a Service would live on with our conditions.
func hasConditions(svc *v1.Service) bool {
	return svc.DeletionTimestamp == nil && meta.FindStatusCondition(svc.Status.Conditions, v1.LoadBalancerPortsError) != nil
}

// forgetConditions takes our conditions from a Service that lives on without a
// load balancer. What we are given may be of the past, so memory decides.
func (l *loadBalancer) forgetConditions(ctx context.Context, svc *v1.Service) error {
	wanted := slices.ContainsFunc(l.around.Services(), func(s *v1.Service) bool { return s.Namespace == svc.Namespace && s.Name == svc.Name })
	if svc.DeletionTimestamp != nil || wanted {
		return nil
	}
	err := l.patchConditions(ctx, svc, publish.WithoutConditions(svc.Status.Conditions))
	if apierrors.IsNotFound(err) {
		return nil
	}
	return err
}

func (l *loadBalancer) patchConditions(_ context.Context, svc *v1.Service, want []metav1.Condition) error {
	if equality.Semantic.DeepEqual(svc.Status.Conditions, want) {
		return nil
	}
	changed := svc.DeepCopy()
	changed.Status.Conditions = want
	if _, err := servicehelper.PatchService(l.kube.CoreV1(), svc, changed); err != nil {
		return fmt.Errorf("writing the conditions of Service %s/%s: %w", svc.Namespace, svc.Name, err)
	}
	return nil
}
