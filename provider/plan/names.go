package plan

import (
	"maps"
	"strings"

	"k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"

	"github.com/hostport-ccm/hostport-ccm/firewall"
	"github.com/hostport-ccm/hostport-ccm/provider/options"
)

// The labels of the objects that are created in the cluster. Owns defines which of them are the
// ownership mark.
const (
	LabelName             = "app.kubernetes.io/name"
	LabelManagedBy        = "app.kubernetes.io/managed-by"
	LabelClusterID        = options.Prefix + "cluster-id"
	LabelServiceNamespace = options.Prefix + "service-namespace"
	LabelServiceName      = options.Prefix + "service-name"
	LabelServiceUID       = options.Prefix + "service-uid"
	// LabelProxies is on mirrors only: see SetProxiesLabel.
	LabelProxies = options.Prefix + "proxies"
	// LabelProxySet distinguishes the proxy sets of a Service.
	LabelProxySet = options.Prefix + "proxy-set"
)

// The values of LabelName and LabelManagedBy.
const (
	ProxyName = "hostport-nodeproxy"
	ManagedBy = "hostport-ccm"
)

// maxName is the maximum length of a DNS label, which the name of a Service, here the mirror, has
// to be.
const maxName = 63

// Name returns the name of a Service's DaemonSet, ConfigMap and mirror. It is unique by the
// Service's UID and starts with the Service's name for readers.
func Name(svc *v1.Service) string { return nameWith(svc, "") }

// SetNames returns the names of the proxy sets of a Service.
func SetNames(svc *v1.Service) []string {
	return []string{Name(svc), nameWith(svc, "-2"), nameWith(svc, "-3")}
}

// setNumbers are the values of LabelProxySet, by the index of a proxy set.
var setNumbers = []string{"1", "2", "3"}

func nameWith(svc *v1.Service, suffix string) string {
	uid := string(svc.UID)
	suffix = "-" + uid[:min(8, len(uid))] + suffix
	name := "hostport-" + svc.Name
	return strings.TrimRight(name[:min(len(name), maxName-len(suffix))], "-.") + suffix
}

// Owner returns a Service as the owner of firewall rules.
func (s Settings) Owner(svc *v1.Service) firewall.Owner {
	return firewall.Owner{
		ClusterID: s.ClusterID,
		Service:   types.NamespacedName{Namespace: svc.Namespace, Name: svc.Name},
		UID:       svc.UID,
	}
}

// Selector matches all objects that were created for this cluster.
func (s Settings) Selector() labels.Selector {
	return labels.SelectorFromSet(labels.Set{LabelManagedBy: ManagedBy, LabelClusterID: s.ClusterID})
}

// Owns reports whether an object has the ownership mark of this Service. For a mirror, its class
// together with its name are a mark too, as users may edit its labels and owner references.
func (s Settings) Owns(svc *v1.Service, obj metav1.Object) bool {
	if mirror, ok := obj.(*v1.Service); ok && MirrorOf(mirror, svc) {
		return true
	}
	have := labels.Set(obj.GetLabels())
	return s.Selector().Matches(have) && have[LabelServiceUID] == string(svc.UID)
}

// IsProxy reports whether a pod was created for this cluster as a proxy. Users may write any labels,
// but only in their own namespaces.
func (s Settings) IsProxy(pod *v1.Pod) bool {
	return pod.Namespace == s.Namespace && s.Selector().Matches(labels.Set(pod.Labels))
}

// ServiceOf returns the Service for which an object was created, by its labels. A mirror, whose
// labels users may write, is always of a Service in its own namespace.
func ServiceOf(obj metav1.Object) types.NamespacedName {
	have := obj.GetLabels()
	namespace := have[LabelServiceNamespace]
	if mirror, ok := obj.(*v1.Service); ok {
		namespace = mirror.Namespace
	}
	return types.NamespacedName{Namespace: namespace, Name: have[LabelServiceName]}
}

// selectorLabels of a proxy set never change: a DaemonSet's selector is immutable.
func (s Settings) selectorLabels(svc *v1.Service, set int) map[string]string {
	return map[string]string{LabelManagedBy: ManagedBy, LabelServiceUID: string(svc.UID), LabelProxySet: setNumbers[set]}
}

func (s Settings) setLabels(svc *v1.Service, set int) map[string]string {
	all := s.labels(svc)
	maps.Copy(all, s.selectorLabels(svc, set))
	return all
}

func (s Settings) labels(svc *v1.Service) map[string]string {
	return map[string]string{
		LabelManagedBy:        ManagedBy,
		LabelServiceUID:       string(svc.UID),
		LabelName:             ProxyName,
		LabelClusterID:        s.ClusterID,
		LabelServiceNamespace: svc.Namespace,
		LabelServiceName:      svc.Name,
	}
}
