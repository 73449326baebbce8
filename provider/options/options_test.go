package options

import (
	"errors"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"
	"pgregory.net/rapid"

	"github.com/hostport-ccm/hostport-ccm/firewall"
)

func selectors(a, b labels.Selector) bool { return a.String() == b.String() }

func TestParseReadsEachAnnotation(t *testing.T) {
	seconds := int64(30)
	for name, c := range map[string]struct {
		annotations map[string]string
		want        func(*Options)
	}{
		"without annotations the defaults apply": {
			annotations: map[string]string{"other.io/max-nodes": "x"},
			want:        func(*Options) {},
		},
		"a node selector with every kind of requirement": {
			annotations: map[string]string{NodeSelector: "a=b,c!=d,e in (f,g),!h,i,j>3"},
			want:        func(o *Options) { o.NodeSelector, _ = labels.Parse("a=b,c!=d,e in (f,g),!h,i,j>3") },
		},
		"simple values": {
			annotations: map[string]string{
				MaxNodes: "3", NodeAddresses: "internal", PriorityClassName: "system-node-critical",
				Firewall: "none", Datapath: "auto", DrainSeconds: "3600", MaxConnectionsPerClient: "64512",
			},
			want: func(o *Options) {
				o.MaxNodes, o.Addresses, o.PriorityClassName, o.Firewall = 3, Internal, "system-node-critical", firewall.None
				o.Datapath, o.DrainSeconds, o.MaxConnectionsPerClient = DatapathAuto, 3600, 64512
			},
		},
		"tolerations in JSON": {
			annotations: map[string]string{Tolerations: `[{"key":"edge","effect":"NoExecute","tolerationSeconds":30}]`},
			want: func(o *Options) {
				o.Tolerations = []v1.Toleration{{Key: "edge", Effect: v1.TaintEffectNoExecute, TolerationSeconds: &seconds}}
			},
		},
		"tolerations in YAML": {
			annotations: map[string]string{Tolerations: "- operator: Exists\n"},
			want:        func(o *Options) { o.Tolerations = []v1.Toleration{{Operator: v1.TolerationOpExists}} },
		},
		"an empty list replaces the default tolerations": {
			annotations: map[string]string{Tolerations: "[]"},
			want:        func(o *Options) { o.Tolerations = []v1.Toleration{} },
		},
	} {
		t.Run(name, func(t *testing.T) {
			defaults := Default()
			defaults.Tolerations = []v1.Toleration{{Key: "default", Operator: v1.TolerationOpExists}}
			want := defaults
			c.want(&want)
			got, err := Parse(c.annotations, defaults)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(want, got, cmp.Comparer(selectors), cmpopts.EquateComparable(netip.Prefix{})); diff != "" {
				t.Errorf("options differ (-want +got):\n%s", diff)
			}
		})
	}
}

func TestAnInvalidAnnotationIsReportedWithItsValueAndTheValidValues(t *testing.T) {
	for _, c := range []struct{ annotation, value, want string }{
		{NodeSelector, "a==b==c", "a label selector"},
		{MaxNodes, "0", "a whole number of at least 1"},
		{MaxNodes, "-1", "a whole number of at least 1"},
		{MaxNodes, "many", "a whole number of at least 1"},
		{NodeAddresses, "public", "one of external, internal, external-or-internal"},
		{Tolerations, "{}", "a JSON or YAML list"},
		{Tolerations, `[{"kee":"a"}]`, "a JSON or YAML list"},
		{Tolerations, `[{"operator":"Is"}]`, "in toleration 1 as operator one of Equal, Exists"},
		{Tolerations, `[{"operator":"Exists"},{"key":"a","effect":"Never"}]`, "in toleration 2 as effect one of"},
		{Tolerations, `[{"value":"a"}]`, "operator Exists, as there is no key"},
		{Tolerations, `[{"key":"a","operator":"Exists","value":"b"}]`, "no value"},
		{Tolerations, `[{"key":"a b"}]`, "as key a label name"},
		{Tolerations, `[{"key":"a","value":"b c"}]`, "as value a label value"},
		{Tolerations, `[{"key":"a","tolerationSeconds":3}]`, "effect NoExecute"},
		{PriorityClassName, "High", "the name of a PriorityClass"},
		{Firewall, "open", "one of managed, report, none"},
		{Datapath, "mirror", "one of proxy, direct, auto"},
		{DrainSeconds, "3601", "from 0 to 3600"},
		{DrainSeconds, "-1", "from 0 to 3600"},
		{DrainSeconds, "30s", "a whole number of seconds"},
		{NodeSelector, "a in (" + values(101) + ")", "at most 100 values, not 101"},
		{NodeSelector, strings.Repeat("a,", 100) + "b", "at most 100 values, not 101"},
		{Tolerations, "[" + strings.Repeat(`{"operator":"Exists"},`, 50) + `{"operator":"Exists"}]`, "at most 50 tolerations, not 51"},
		{NodeSelector, strings.Repeat("a", 4097), "at most 4096 bytes, not 4097"},
		{MaxNodes, strings.Repeat("1", 250_000), "at most 4096 bytes, not 250000"},
		{MaxConnectionsPerClient, "0", "from 1 to 64512"},
		{MaxConnectionsPerClient, "64513", "from 1 to 64512"},
		{MaxConnectionsPerClient, "-1", "from 1 to 64512"},
		{MaxConnectionsPerClient, "many", "a whole number"},
	} {
		_, err := Parse(map[string]string{c.annotation: c.value}, Default())
		var invalid *Error
		if !errors.As(err, &invalid) {
			t.Errorf("%s: %q is accepted", c.annotation, c.value)
			continue
		}
		if invalid.Annotation != c.annotation || invalid.Value != c.value || !strings.Contains(invalid.Want, c.want) {
			t.Errorf("%s: %q: got %q, want %q in it", c.annotation, c.value, err, c.want)
		}
	}
}

func TestAllInvalidAnnotationsAreReportedTogether(t *testing.T) {
	_, err := Parse(map[string]string{MaxNodes: "x", Firewall: "y"}, Default())
	if err == nil || !strings.Contains(err.Error(), MaxNodes) || !strings.Contains(err.Error(), Firewall) {
		t.Errorf("want both annotations named, got %v", err)
	}
}

func TestUnknownReportsEachUnknownAnnotation(t *testing.T) {
	got := Unknown(map[string]string{
		Prefix + "maxnodes": "3",
		Prefix + "colour":   "red",
		MaxNodes:            "3",
		"example.com/x":     "y",
	})
	want := []string{
		"annotation hostport-ccm.io/colour is unknown and has no effect; known are addresses, datapath, drain-seconds, firewall, max-connections-per-client, max-nodes, node-selector, priority-class-name, tolerations",
		"annotation hostport-ccm.io/maxnodes is unknown and has no effect, did you mean hostport-ccm.io/max-nodes?",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("messages differ (-want +got):\n%s", diff)
	}
}

func TestWhatParseAcceptsIsValid(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		annotations := rapid.MapOf(rapid.SampledFrom(Known()), rapid.String()).Draw(t, "annotations")
		got, err := Parse(annotations, Default())
		if err != nil {
			return
		}
		if got.NodeSelector == nil || got.MaxNodes < 0 || got.Addresses.Validate() != nil ||
			ValidateFirewall(got.Firewall) != nil || ValidateTolerations(got.Tolerations) != nil {
			t.Fatalf("accepted %v as %+v", annotations, got)
		}
	})
}

func FuzzParse(f *testing.F) {
	f.Add(NodeSelector, "a in (b,c)")
	f.Add(Tolerations, `[{"operator":"Exists"}]`)
	f.Fuzz(func(t *testing.T, name, value string) {
		got, err := Parse(map[string]string{name: value}, Default())
		if err == nil && got.NodeSelector == nil {
			t.Errorf("%s=%q: no node selector", name, value)
		}
		Unknown(map[string]string{name: value})
	})
}
