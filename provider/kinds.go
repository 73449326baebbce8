package provider

import (
	appsv1 "k8s.io/api/apps/v1"
	"k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/kubernetes"
	appslisters "k8s.io/client-go/listers/apps/v1"
	corelisters "k8s.io/client-go/listers/core/v1"

	"github.com/hostport-ccm/hostport-ccm/provider/plan"
)

// The kinds of objects that are made for Services.

func configMapsOf(kube kubernetes.Interface, settings plan.Settings, lister corelisters.ConfigMapLister) objects[*v1.ConfigMap] {
	return objects[*v1.ConfigMap]{
		kind: "ConfigMap", settings: settings, namespace: settings.Namespace,
		list:   lister.List,
		cached: func(namespace string) reader[*v1.ConfigMap] { return lister.ConfigMaps(namespace) },
		client: func(namespace string) writer[*v1.ConfigMap] { return kube.CoreV1().ConfigMaps(namespace) },
		update: plan.UpdateConfigMap,
	}
}

func daemonSetsOf(kube kubernetes.Interface, settings plan.Settings, lister appslisters.DaemonSetLister) objects[*appsv1.DaemonSet] {
	return objects[*appsv1.DaemonSet]{
		kind: "DaemonSet", settings: settings, namespace: settings.Namespace,
		list:   lister.List,
		cached: func(namespace string) reader[*appsv1.DaemonSet] { return lister.DaemonSets(namespace) },
		client: func(namespace string) writer[*appsv1.DaemonSet] { return kube.AppsV1().DaemonSets(namespace) },
		update: plan.UpdateDaemonSet,
	}
}

// mirrorsOf are in their Services' namespaces, among all other Services.
func mirrorsOf(kube kubernetes.Interface, settings plan.Settings, lister corelisters.ServiceLister) objects[*v1.Service] {
	return objects[*v1.Service]{
		kind: "mirror Service", settings: settings,
		list: func(selector labels.Selector) ([]*v1.Service, error) {
			marked, err := lister.List(selector)
			var mirrors []*v1.Service
			for _, svc := range marked {
				if plan.IsMirror(svc) {
					mirrors = append(mirrors, svc)
				}
			}
			return mirrors, err
		},
		cached: func(namespace string) reader[*v1.Service] { return lister.Services(namespace) },
		client: func(namespace string) writer[*v1.Service] { return kube.CoreV1().Services(namespace) },
		update: plan.UpdateMirror,
	}
}
