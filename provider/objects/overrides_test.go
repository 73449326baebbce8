package objects

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes/fake"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"
	"pgregory.net/rapid"

	"github.com/hostport-ccm/hostport-ccm/internal/apitest"
	"github.com/hostport-ccm/hostport-ccm/provider/plan"
)

// noQueue ignores what is enqueued: the tests make passes themselves.
type noQueue struct{}

func (noQueue) EnqueueAfter(types.NamespacedName, time.Duration) {}

// testStore is a Store of ConfigMaps with a cache that is never stale, and a clock.
type testStore struct {
	Store[*v1.ConfigMap]
	t    *testing.T
	kube *fake.Clientset
	want *v1.ConfigMap
	now  time.Time
	step time.Duration // between two passes
	// key is the key of the data that others change.
	key string
	// suffix, if set, is what a policy appends to the data in each write.
	suffix func() string
}

func newTestStore(t *testing.T, want *v1.ConfigMap) *testStore {
	s := &testStore{t: t, kube: apitest.NewClientset(), want: want, now: time.Now(), step: time.Second}
	for s.key = range want.Data {
	}
	apitest.Admit(s.kube, "configmaps", func(obj runtime.Object) {
		if s.suffix != nil {
			obj.(*v1.ConfigMap).Data[s.key] += s.suffix()
		}
	})
	s.restart()
	return s
}

func (s *testStore) restart() {
	tracker := &liveConfigMaps{kube: s.kube}
	s.Store = ConfigMaps(s.kube, settings, tracker, noQueue{})
	s.overrides.now = func() time.Time { return s.now }
}

// liveConfigMaps lists ConfigMaps as the API server has them.
type liveConfigMaps struct {
	corelisters.ConfigMapLister
	kube *fake.Clientset
}

func (l *liveConfigMaps) ConfigMaps(namespace string) corelisters.ConfigMapNamespaceLister {
	cached := cache.NewIndexer(cache.MetaNamespaceKeyFunc, cache.Indexers{})
	resource := v1.SchemeGroupVersion.WithResource("configmaps")
	if obj, err := l.kube.Tracker().Get(resource, namespace, plan.Name(svc)); err == nil {
		cached.Add(obj)
	}
	return corelisters.NewConfigMapLister(cached).ConfigMaps(namespace)
}

// always is the suffix of a policy that sets the same in each write.
func always() string { return "x" }

// passes ensures the object again and again for a time, and returns the number of writes.
func (s *testStore) passes(d time.Duration) (writes int) {
	for end := s.now.Add(d); s.now.Before(end); s.now = s.now.Add(s.step) {
		_, change, err := s.Ensure(s.t.Context(), svc, s.want)
		if err != nil {
			s.t.Fatal(err)
		}
		if change != Unchanged {
			writes++
		}
	}
	return writes
}

// edit changes the stored object without admission, as an exempt user does.
func (s *testStore) edit(change func(*v1.ConfigMap)) {
	cm := s.stored().DeepCopy()
	change(cm)
	cm.ResourceVersion = fmt.Sprint("of ", s.now)
	if err := s.kube.Tracker().Update(v1.SchemeGroupVersion.WithResource("configmaps"), cm, cm.Namespace); err != nil {
		s.t.Fatal(err)
	}
}

func (s *testStore) stored() *v1.ConfigMap {
	cm, err := s.kube.CoreV1().ConfigMaps(settings.Namespace).Get(s.t.Context(), s.want.Name, metav1.GetOptions{})
	if err != nil {
		s.t.Fatal(err)
	}
	return cm
}

func TestWhatAdmissionChangesIsNotWrittenAgainAndAgain(t *testing.T) {
	n := 0
	for name, c := range map[string]struct {
		suffix     func(write int) string
		writes     int
		overridden bool
	}{
		"no policy": {func(int) string { return "" }, 1, false},
		"a policy that sets the same at every write":     {func(int) string { return "x" }, 2, true},
		"a policy that sets another value at each write": {func(int) string { n++; return fmt.Sprint(n) }, 2, true},
		"a policy that sets two values in turn":          {func(write int) string { return []string{"x", "y"}[write%2] }, 2, true},
		"a policy for new objects alone":                 {func(write int) string { return map[bool]string{true: "x"}[write == 0] }, 2, false},
	} {
		t.Run(name, func(t *testing.T) {
			s, write := newTestStore(t, wanted(t)), 0
			s.suffix = func() string { write++; return c.suffix(write - 1) }
			if writes := s.passes(2 * time.Minute); writes != c.writes {
				t.Errorf("%d writes, want %d", writes, c.writes)
			}
			if got := s.Overridden(svc); len(got) > 0 != c.overridden {
				t.Errorf("messages %q", got)
			}
		})
	}
}

func TestAMessageNamesObjectFieldAndRemedy(t *testing.T) {
	s := newTestStore(t, wanted(t))
	apitest.Admit(s.kube, "configmaps", func(obj runtime.Object) { obj.(*v1.ConfigMap).Data["more"] = "x" })
	s.passes(time.Minute)
	want := `ConfigMap hostport-system/hostport-web-web-uid: an admission policy or webhook changes what is written, and it is left so: data.more is "x" instead of missing. Unless that is wanted, exempt objects with the label app.kubernetes.io/managed-by=hostport-ccm`
	if got := s.Overridden(svc); len(got) != 1 || got[0] != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestOtherChangesAreUndoneInSpiteOfAPolicy(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*testStore)
		writes int
	}{
		"nothing":                 {func(*testStore) {}, 0},
		"the plan":                {func(s *testStore) { s.want.Labels["more"] = "wanted" }, 1},
		"a user's edit":           {func(s *testStore) { s.edit(func(cm *v1.ConfigMap) { cm.Data["more"] = "x" }) }, 1},
		"a user's, of that field": {func(s *testStore) { s.edit(func(cm *v1.ConfigMap) { cm.Data[s.key] = "x" }) }, 1},
		"a restart":               {func(s *testStore) { s.restart() }, 1},
		"another object":          {func(s *testStore) { s.edit(func(cm *v1.ConfigMap) { cm.UID = "other" }) }, 1},
		"the object, by a user": {func(s *testStore) {
			s.kube.Tracker().Delete(v1.SchemeGroupVersion.WithResource("configmaps"), s.want.Namespace, s.want.Name)
		}, 2},
		"the end of the policy": {func(s *testStore) { s.suffix = nil }, 0},
	} {
		t.Run(name, func(t *testing.T) {
			s := newTestStore(t, wanted(t))
			s.suffix = always
			s.passes(time.Minute)
			c.change(s)
			if writes := s.passes(2 * time.Minute); writes != c.writes {
				t.Errorf("%d writes, want %d", writes, c.writes)
			}
			stored := s.stored()
			if stored.Data[s.key] != s.want.Data[s.key]+"x" || len(stored.Data) > 1 || stored.Labels["more"] != s.want.Labels["more"] {
				t.Errorf("stored: %v", stored)
			}
			if got := s.Overridden(svc); len(got) != 1 {
				t.Errorf("messages %q", got)
			}
		})
	}
}

func TestTheObjectIsAsWantedWithinAnHourAfterThePolicyIsGone(t *testing.T) {
	s := newTestStore(t, wanted(t))
	s.step = time.Minute
	s.suffix = always
	if writes := s.passes(10 * time.Hour); writes > 14 {
		t.Errorf("%d writes in 10 hours", writes)
	}
	s.suffix = nil
	s.passes(time.Hour)
	if got := s.stored().Data[s.key]; got != s.want.Data[s.key] || len(s.Overridden(svc)) > 0 {
		t.Errorf("stored %q, messages %q", got, s.Overridden(svc))
	}
}

func TestAControllerThatRepliesIsAnsweredAfterDelays(t *testing.T) {
	for _, every := range []time.Duration{0, 15 * time.Second} {
		t.Run(fmt.Sprint("it replies after ", every), func(t *testing.T) {
			s, writes := newTestStore(t, wanted(t)), 0
			for range 12 {
				writes += s.passes(time.Second + every)
				s.edit(func(cm *v1.ConfigMap) { cm.Data["more"] = fmt.Sprint(s.now) })
			}
			if writes > 10 {
				t.Errorf("%d writes for 12 replies", writes)
			}
			if got := s.Overridden(svc); len(got) != 1 || !strings.Contains(got[0], "another component") || !strings.Contains(got[0], "data.more") {
				t.Errorf("messages %q", got)
			}
			s.passes(5 * time.Minute)
			if got := s.stored().Data["more"]; got != "" || len(s.Overridden(svc)) > 0 {
				t.Errorf("after it has ended, stored %q, messages %q", got, s.Overridden(svc))
			}
		})
	}
}

func TestAnyPolicyAndAnyControllerCauseFewWrites(t *testing.T) {
	want := &v1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "web"}}
	differences := func(have string) []plan.Difference {
		if have == "wanted" {
			return nil
		}
		return []plan.Difference{{Path: "data", Have: have, Want: "wanted"}}
	}
	rapid.Check(t, func(t *rapid.T) {
		o, now, have, writes := newOverrides(), time.Now(), "old", 0
		o.now = func() time.Time { return now }
		values := rapid.SampledFrom([]string{"wanted", "x", "y"})
		for range 120 {
			now = now.Add(time.Second)
			if different := differences(have); len(different) == 0 {
				o.isAsWanted("uid", want.Name)
			} else if o.delay("uid", want, want, different) == 0 {
				writes++
				have = values.Draw(t, "what admission makes of it")
				o.wrote("uid", want, want, different, differences(have))
			}
			if rapid.Bool().Draw(t, "a controller replies") {
				have = values.Draw(t, "what it writes")
			}
		}
		if writes > 10 {
			t.Errorf("%d writes in two minutes", writes)
		}
	})
}

func TestNothingIsRememberedOfObjectsThatAreGone(t *testing.T) {
	for name, end := range map[string]func(*testStore) error{
		"deleted": func(s *testStore) error { return s.Delete(t.Context(), svc, s.want.Name) },
		"deleted after the cache": func(s *testStore) error {
			s.kube.Tracker().Delete(v1.SchemeGroupVersion.WithResource("configmaps"), s.want.Namespace, s.want.Name)
			return s.Delete(t.Context(), svc, s.want.Name)
		},
		"deleted as an orphan": func(s *testStore) error {
			s.list = corelisters.NewConfigMapLister(cache.NewIndexer(cache.MetaNamespaceKeyFunc, cache.Indexers{})).List
			_, err := s.DeleteAll(t.Context(), settings.Owner(svc))
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := newTestStore(t, wanted(t))
			s.suffix = always
			s.passes(time.Minute)
			if err := end(s); err != nil {
				t.Fatal(err)
			}
			if len(s.overrides.writes) > 0 || len(s.Overridden(svc)) > 0 {
				t.Errorf("it remembers %v", s.overrides.writes)
			}
		})
	}
}
