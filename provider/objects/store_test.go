package objects

import (
	"testing"

	"k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/fake"
	corelisters "k8s.io/client-go/listers/core/v1"
	clienttesting "k8s.io/client-go/testing"
	"k8s.io/client-go/tools/cache"

	"github.com/hostport-ccm/hostport-ccm/internal/apitest"
	"github.com/hostport-ccm/hostport-ccm/provider/options"
	"github.com/hostport-ccm/hostport-ccm/provider/plan"
	"github.com/hostport-ccm/hostport-ccm/provider/snapshot"
)

var (
	settings = plan.Settings{ClusterID: "alpha", Namespace: "hostport-system"}
	svc      = &v1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "web", UID: "web-uid"},
		Spec: v1.ServiceSpec{
			Type: v1.ServiceTypeLoadBalancer, ClusterIPs: []string{"10.96.0.7"},
			Ports: []v1.ServicePort{{Protocol: v1.ProtocolTCP, Port: 80}},
		},
	}
)

// configMaps returns a Store whose cache contains only the stale ConfigMaps.
func configMaps(t *testing.T, kube *fake.Clientset, stale ...*v1.ConfigMap) Store[*v1.ConfigMap] {
	t.Helper()
	cached := cache.NewIndexer(cache.MetaNamespaceKeyFunc, cache.Indexers{})
	for _, cm := range stale {
		if err := cached.Add(cm); err != nil {
			t.Fatal(err)
		}
	}
	return ConfigMaps(kube, settings, corelisters.NewConfigMapLister(cached), nil)
}

func wanted(t *testing.T) *v1.ConfigMap {
	t.Helper()
	p, err := settings.Build(plan.Input{Service: svc, Options: options.Default(), Cluster: snapshot.New(nil, nil, nil, nil)})
	if err != nil {
		t.Fatal(err)
	}
	return p.ProxySets(plan.AssignPorts(snapshot.PortsOf(p.Service), plan.Assignment{}))[0].ConfigMap
}

func TestEnsureCorrectsAStaleCache(t *testing.T) {
	version := func(cm *v1.ConfigMap, version string) *v1.ConfigMap { cm.ResourceVersion = version; return cm }
	old := func() *v1.ConfigMap {
		cm := version(wanted(t), "1")
		cm.Data = map[string]string{"old": "x"}
		return cm
	}
	current := version(wanted(t), "2")
	for name, c := range map[string]struct {
		stored, cached *v1.ConfigMap
		want           Change
	}{
		"missing":                        {nil, nil, Created},
		"stored, not yet cached":         {current, nil, Unchanged},
		"outdated, not yet cached":       {old(), nil, Updated},
		"deleted, still cached":          {nil, old(), Created},
		"outdated, with a current cache": {old(), old(), Updated},
		"stored, with an outdated cache": {current, old(), Unchanged},
		"stored, with a current cache":   {current, current, Unchanged},
	} {
		t.Run(name, func(t *testing.T) {
			var stored []runtime.Object
			if c.stored != nil {
				stored = append(stored, c.stored.DeepCopy())
			}
			kube := apitest.NewClientset(stored...)
			var cached []*v1.ConfigMap
			if c.cached != nil {
				cached = append(cached, c.cached.DeepCopy())
			}
			_, got, err := configMaps(t, kube, cached...).Ensure(t.Context(), svc, wanted(t))
			if err != nil || got != c.want {
				t.Fatalf("got %q, %v, want %q", got, err, c.want)
			}
			current, err := kube.CoreV1().ConfigMaps(settings.Namespace).Get(t.Context(), wanted(t).Name, metav1.GetOptions{})
			if err != nil || current.Data["old"] != "" {
				t.Errorf("stored: %v, %v", current, err)
			}
		})
	}
}

func TestAFailingAPIServerIsAnErrorAndNotAMissingObject(t *testing.T) {
	kube := fake.NewClientset()
	kube.PrependReactor("get", "*", func(clienttesting.Action) (bool, runtime.Object, error) {
		return true, nil, apierrors.NewServiceUnavailable("down")
	})
	if _, found, err := configMaps(t, kube).Live(t.Context(), svc, plan.Name(svc)); found || err == nil {
		t.Errorf("got %t, %v", found, err)
	}
	store := configMaps(t, kube)
	store.uncertain.add(wanted(t))
	if err := store.Delete(t.Context(), svc, plan.Name(svc)); err == nil {
		t.Error("a failed deletion returns no error")
	}
}
