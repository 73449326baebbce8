package reachability

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	gocmp "github.com/google/go-cmp/cmp"
	dto "github.com/prometheus/client_model/go"
	"k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/record"
	"pgregory.net/rapid"

	"github.com/hostport-ccm/hostport-ccm/provider/events"
	"github.com/hostport-ccm/hostport-ccm/provider/plan"
)

func TestNextChecksAreTheFirstOfAllThatAreDue(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		now, d := time.Unix(1e9, 0), newDetector()
		var places []place
		for i := range rapid.IntRange(0, 30).Draw(t, "places") {
			where := place{types.UID(fmt.Sprint("u", i%3)), fmt.Sprint("n", i), "1"}
			s := d.at(now, where, "pod")
			s.due = now.Add(time.Duration(rapid.IntRange(-3, 2).Draw(t, "due")) * time.Second)
			if rapid.Bool().Draw(t, "suspected") {
				s.groups[v4TCP] = &groupState{suspicion: &suspicion{failed: 1}}
			}
			places = append(places, where)
		}
		places = rapid.Permutation(places).Draw(t, "order")
		max := rapid.IntRange(0, 12).Draw(t, "max")

		want := slices.DeleteFunc(slices.Clone(places), func(p place) bool { return d.places[p].due.After(now) })
		slices.SortFunc(want, func(a, b place) int {
			rank := map[bool]int{true: 0, false: 1}
			return cmp.Or(cmp.Compare(rank[d.places[a].isSuspected()], rank[d.places[b].isSuspected()]), d.places[a].due.Compare(d.places[b].due), comparePlaces(a, b))
		})
		want = want[:min(max, len(want))]
		if diff := gocmp.Diff(fmt.Sprint(want), fmt.Sprint(d.nextChecks(now, places, max))); diff != "" {
			t.Errorf("nextChecks() (-want +got):\n%s", diff)
		}
	})
}

// quiet answers for proxies without ports.
type quiet struct{}

func (quiet) Metrics(context.Context, *v1.Pod) (map[string]*dto.MetricFamily, error) { return nil, nil }
func (quiet) NotReady(context.Context, *v1.Pod) (string, error)                      { return "", nil }
func (quiet) connect(context.Context, port, string) attempt                          { return attempt{} }

// BenchmarkRound is a round of a large cluster in which nothing is wrong, of which there is one a second.
func BenchmarkRound(b *testing.B) {
	const services, nodes = 300, 100
	var pods []*v1.Pod
	byName, byNode := map[types.NamespacedName]*v1.Service{}, map[string]*v1.Node{}
	for i := range nodes {
		node := &v1.Node{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprint("node-", i)}}
		byNode[node.Name] = node
	}
	for i := range services {
		name := types.NamespacedName{Namespace: "apps", Name: fmt.Sprint("web-", i)}
		svc := &v1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: name.Namespace, Name: name.Name, UID: types.UID(fmt.Sprintf("3e5a7c54-1f1e-4a53-8f0f-%012d", i))}}
		byName[name] = svc
		for node := range byNode {
			pods = append(pods, &v1.Pod{
				ObjectMeta: metav1.ObjectMeta{UID: types.UID(fmt.Sprint(name.Name, "-", node)), Labels: map[string]string{
					plan.LabelServiceNamespace: name.Namespace, plan.LabelServiceName: name.Name, plan.LabelServiceUID: string(svc.UID), plan.LabelProxySet: "1",
				}},
				Spec:   v1.PodSpec{NodeName: node},
				Status: v1.PodStatus{Phase: v1.PodRunning, Conditions: []v1.PodCondition{{Type: v1.PodReady, Status: v1.ConditionTrue}}},
			})
		}
	}
	m := New(Cluster{
		Proxies: func() []*v1.Pod { return pods },
		Service: func(name types.NamespacedName) *v1.Service { return byName[name] },
		Node:    func(name string) *v1.Node { return byNode[name] },
		Direct:  func(*v1.Service) bool { return false },
		Enqueue: func(types.NamespacedName) {},
	}, events.NewRecorder(record.NewFakeRecorder(1), nil))
	m.prober = quiet{}
	for b.Loop() {
		m.round(b.Context())
	}
}
