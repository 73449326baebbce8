package objects

import (
	appsv1 "k8s.io/api/apps/v1"
	"k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/kubernetes"
	appslisters "k8s.io/client-go/listers/apps/v1"
	corelisters "k8s.io/client-go/listers/core/v1"

	"github.com/hostport-ccm/hostport-ccm/provider/plan"
)

// ConfigMaps returns the store of the proxies' configs.
func ConfigMaps(kube kubernetes.Interface, settings plan.Settings, configMaps corelisters.ConfigMapLister, queue Enqueuer) Store[*v1.ConfigMap] {
	return Store[*v1.ConfigMap]{
		Kind: "ConfigMap", settings: settings, namespace: settings.Namespace,
		list:   configMaps.List,
		lister: func(namespace string) lister[*v1.ConfigMap] { return configMaps.ConfigMaps(namespace) },
		client: func(namespace string) client[*v1.ConfigMap] { return kube.CoreV1().ConfigMaps(namespace) },
		update: plan.UpdateConfigMap,
		queue:  queue, remembered: newRemembered(),
	}
}

// DaemonSets returns the store of the proxies' DaemonSets.
func DaemonSets(kube kubernetes.Interface, settings plan.Settings, daemonSets appslisters.DaemonSetLister, queue Enqueuer) Store[*appsv1.DaemonSet] {
	return Store[*appsv1.DaemonSet]{
		Kind: "DaemonSet", settings: settings, namespace: settings.Namespace,
		list:   daemonSets.List,
		lister: func(namespace string) lister[*appsv1.DaemonSet] { return daemonSets.DaemonSets(namespace) },
		client: func(namespace string) client[*appsv1.DaemonSet] { return kube.AppsV1().DaemonSets(namespace) },
		update: plan.UpdateDaemonSet,
		queue:  queue, remembered: newRemembered(),
	}
}

// Mirrors returns the store of mirror Services. services lists all Services of the cluster.
func Mirrors(kube kubernetes.Interface, settings plan.Settings, services corelisters.ServiceLister, queue Enqueuer) Store[*v1.Service] {
	return Store[*v1.Service]{
		Kind: "mirror Service", settings: settings,
		list: func(selector labels.Selector) ([]*v1.Service, error) {
			marked, err := services.List(selector)
			var mirrors []*v1.Service
			for _, svc := range marked {
				if plan.IsMirror(svc) {
					mirrors = append(mirrors, svc)
				}
			}
			return mirrors, err
		},
		lister: func(namespace string) lister[*v1.Service] { return services.Services(namespace) },
		client: func(namespace string) client[*v1.Service] { return kube.CoreV1().Services(namespace) },
		update: plan.UpdateMirror,
		queue:  queue, remembered: newRemembered(),
	}
}
