package publish

import (
	"fmt"
	"slices"
	"strings"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/hostport-ccm/hostport-ccm/provider/options"
	"github.com/hostport-ccm/hostport-ccm/provider/plan"
	"github.com/hostport-ccm/hostport-ccm/provider/snapshot"
)

// ReasonAllPortsServed is the reason of the condition LoadBalancerPortsError when it is False.
const ReasonAllPortsServed = "AllPortsServed"

// maxConditionMessage is the limit of the API server, in characters: see metav1.Condition.
const maxConditionMessage = 32768

// Ports returns all ports of a Service for its status, with an error for each conflict. The errors
// have the form that the documentation of v1.PortStatus prescribes.
func Ports(svc *v1.Service, conflicts []plan.Conflict) []v1.PortStatus {
	reasons := map[snapshot.Port]*string{}
	for _, c := range conflicts {
		reason := options.Prefix + c.Reason
		reasons[c.Port] = &reason
	}
	var list []v1.PortStatus
	for _, p := range snapshot.PortsOf(svc) {
		list = append(list, v1.PortStatus{Port: p.Number, Protocol: p.Protocol, Error: reasons[p]})
	}
	return list
}

// maxPortEntries limits how often a status repeats ports: 10,000 take at most 0.8 MB with an error
// each. etcd refuses requests of more than 1.5 MiB (--max-request-bytes), and so every later change.
const maxPortEntries = 10_000

// portsOfEntry returns the ports of the address with an index. Addresses beyond maxPortEntries have
// none; where kube-proxy serves the Service by its own status, the first, which shows that they are
// for kube-proxy: see direct.Manager.Current.
func (in Input) portsOfEntry(index int) []v1.PortStatus {
	switch {
	case (index+1)*len(in.Ports) <= maxPortEntries:
		return in.Ports
	case len(in.Direct) > 0 && in.IPMode.Direct != "":
		return in.Ports[:1]
	}
	return nil
}

// Conditions returns a Service's conditions with LoadBalancerPortsError as the conflicts require. A
// Service that never had a conflict does not get the condition.
func Conditions(previous []metav1.Condition, conflicts []plan.Conflict, now time.Time) []metav1.Condition {
	next := slices.Clone(previous)
	condition := metav1.Condition{Type: v1.LoadBalancerPortsError, LastTransitionTime: metav1.Time{Time: now}}
	switch {
	case len(conflicts) > 0:
		condition.Status, condition.Reason, condition.Message = metav1.ConditionTrue, conflicts[0].Reason, options.Cut(messages(conflicts), maxConditionMessage)
	case meta.FindStatusCondition(previous, v1.LoadBalancerPortsError) == nil:
		return next
	default:
		condition.Status, condition.Reason = metav1.ConditionFalse, ReasonAllPortsServed
	}
	meta.SetStatusCondition(&next, condition)
	return next
}

// WithoutConditions returns the conditions that other components set.
func WithoutConditions(previous []metav1.Condition) []metav1.Condition {
	next := slices.Clone(previous)
	meta.RemoveStatusCondition(&next, v1.LoadBalancerPortsError)
	return next
}

// maxSummary is how many conflicts have their message in a summary.
const maxSummary = 3

// Summary joins the first conflicts' messages in one line, for an event.
func Summary(conflicts []plan.Conflict) string {
	if len(conflicts) <= maxSummary {
		return messages(conflicts)
	}
	return fmt.Sprintf("%s; and %d more ports, which the Service's condition %s names",
		messages(conflicts[:maxSummary]), len(conflicts)-maxSummary, v1.LoadBalancerPortsError)
}

// messages joins the conflicts' messages in one line.
func messages(conflicts []plan.Conflict) string {
	var list []string
	for _, c := range conflicts {
		list = append(list, c.Message)
	}
	return strings.Join(list, "; ")
}
