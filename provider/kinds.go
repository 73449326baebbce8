package provider

import (
	appsv1 "k8s.io/api/apps/v1"
	"k8s.io/api/core/v1"
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
