package proxies

import (
	"context"
	"maps"
	"testing"
	"testing/synctest"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	"k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/fake"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"

	"github.com/hostport-ccm/hostport-ccm/provider/objects"
	"github.com/hostport-ccm/hostport-ccm/provider/plan"
)

func TestPodsAreTouchedTwice(t *testing.T) {
	for name, tc := range map[string]struct {
		meanwhile func(configMaps cache.Indexer, config *v1.ConfigMap, stop func())
		again     bool
	}{
		"while the set exists":          {func(cache.Indexer, *v1.ConfigMap, func()) {}, true},
		"not after the set was deleted": {func(configMaps cache.Indexer, config *v1.ConfigMap, _ func()) { configMaps.Delete(config) }, false},
		"not after the context ended":   {func(_ cache.Indexer, _ *v1.ConfigMap, stop func()) { stop() }, false},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				svc, settings := testService(80), plan.Settings{ClusterID: "tests", Namespace: system}
				meta := metav1.ObjectMeta{Namespace: system, Name: plan.Name(svc), Labels: map[string]string{
					plan.LabelManagedBy: plan.ManagedBy, plan.LabelClusterID: settings.ClusterID, plan.LabelServiceUID: string(svc.UID),
				}}
				ds := &appsv1.DaemonSet{ObjectMeta: meta, Spec: appsv1.DaemonSetSpec{Selector: &metav1.LabelSelector{MatchLabels: maps.Clone(meta.Labels)}}}
				config, pod := &v1.ConfigMap{ObjectMeta: meta}, &v1.Pod{ObjectMeta: meta}
				kube := fake.NewClientset(pod)
				pods := cache.NewIndexer(cache.MetaNamespaceKeyFunc, indexers)
				configMaps := cache.NewIndexer(cache.MetaNamespaceKeyFunc, cache.Indexers{cache.NamespaceIndex: cache.MetaNamespaceIndexFunc})
				pods.Add(pod)
				configMaps.Add(config)
				m := &Manager{kube: kube, pods: pods, ConfigMaps: objects.ConfigMaps(kube, settings, corelisters.NewConfigMapLister(configMaps), nil)}
				ctx, stop := context.WithCancel(t.Context())
				defer stop()
				touched := func() string {
					have, err := kube.CoreV1().Pods(system).Get(t.Context(), pod.Name, metav1.GetOptions{})
					if err != nil {
						t.Fatal(err)
					}
					return have.Annotations[configChangedAnnotation]
				}

				m.reloadConfig(ctx, svc, ds)
				first := touched()
				tc.meanwhile(configMaps, config, stop)
				time.Sleep(touchAgain)
				synctest.Wait()
				if again := touched() != first; first == "" || again != tc.again {
					t.Errorf("first %q, again: %t", first, again)
				}
			})
		})
	}
}
