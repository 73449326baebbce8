package plan

import (
	"slices"
	"testing"

	"k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"pgregory.net/rapid"

	"github.com/hostport-ccm/hostport-ccm/provider/options"
)

func TestADifferenceNamesTheValueThatDiffers(t *testing.T) {
	for name, c := range map[string]struct {
		edit func(*ProxySet)
		want []string
	}{
		"another request": {
			func(p *ProxySet) {
				p.DaemonSet.Spec.Template.Spec.Containers[0].Resources.Requests[v1.ResourceCPU] = resource.MustParse("20m")
			},
			[]string{`spec.template.spec.containers[0].resources.requests.cpu is "20m" instead of "10m"`},
		},
		"a removed label": {
			func(p *ProxySet) { delete(p.DaemonSet.Labels, LabelServiceName) },
			[]string{`metadata.labels["hostport-ccm.io/service-name"] is missing instead of "web"`},
		},
		"removed tolerations and another priority": {
			func(p *ProxySet) {
				spec := &p.DaemonSet.Spec.Template.Spec
				spec.Tolerations, spec.TerminationGracePeriodSeconds = nil, new(int64(1))
			},
			[]string{
				`spec.template.spec.terminationGracePeriodSeconds is 1 instead of 3630`,
				`spec.template.spec.tolerations is missing instead of [{"operator":"Exists"}]`,
			},
		},
	} {
		t.Run(name, func(t *testing.T) {
			o := options.Default()
			o.Tolerations = []v1.Toleration{{Operator: v1.TolerationOpExists}}
			want := mustProxies(t, service(), o)
			have := defaulted(t, want)
			c.edit(have)
			_, differences := UpdateDaemonSet(have.DaemonSet, want.DaemonSet)
			var got []string
			for _, d := range differences {
				got = append(got, d.String())
			}
			if !slices.Equal(got, c.want) {
				t.Errorf("got %q", got)
			}
		})
	}
}

// anyJSON draws a value as decoded from JSON, without null: a Kubernetes object leaves out what is
// not set.
func anyJSON(depth int) *rapid.Generator[any] {
	scalar := rapid.OneOf(rapid.Just(any("a")), rapid.Just(any("b")), rapid.Just(any(1.0)), rapid.Just(any(true)))
	if depth == 0 {
		return scalar
	}
	return rapid.OneOf(
		scalar,
		rapid.Map(rapid.SliceOfN(anyJSON(depth-1), 0, 3), func(list []any) any { return list }),
		rapid.Map(rapid.MapOfN(rapid.SampledFrom([]string{"x", "y", "z"}), anyJSON(depth-1), 1, 3), func(m map[string]any) any { return m }),
	)
}

func TestExactlyEqualValuesHaveNoDifferences(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		have, want := anyJSON(3).Draw(t, "have"), anyJSON(3).Draw(t, "want")
		equal := string(toJSON(have)) == string(toJSON(want))
		if got := differing("", have, want); (len(got) == 0) != equal {
			t.Errorf("%s and %s differ in %v", toJSON(have), toJSON(want), got)
		}
		if got := differing("", have, have); len(got) > 0 {
			t.Errorf("%s differs from itself in %v", toJSON(have), got)
		}
		beyond := map[string]any{"wanted": want, "by others": have}
		if got := lacking("", beyond, map[string]any{"wanted": want}); len(got) > 0 {
			t.Errorf("%s lacks %v", toJSON(beyond), got)
		}
	})
}
