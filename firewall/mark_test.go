package firewall

import (
	"fmt"
	"maps"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/types"
	"pgregory.net/rapid"
)

func TestOwnersAreThoseWithAMarkOfThisClusterEachOnce(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var rules []Rule
		wanted := map[string]Owner{}
		for i := range rapid.IntRange(0, 12).Draw(t, "rules") {
			uid := rapid.SampledFrom([]string{"u1", "u2", "u3"}).Draw(t, "uid")
			o := Owner{
				ClusterID: rapid.SampledFrom([]string{"a", "ab", "b"}).Draw(t, "cluster"),
				Service:   types.NamespacedName{Namespace: "default", Name: "of-" + uid}, UID: types.UID(uid),
			}
			description := FormatMark(o)
			if rapid.IntRange(0, 3).Draw(t, "edited") == 0 {
				description += " "
			} else if o.ClusterID == "a" {
				wanted[uid] = o
			}
			rules = append(rules, Rule{Name: fmt.Sprint("rule-", i), Description: description})
		}
		got := OwnersAmong(rules, "a")
		var want []Owner
		for _, uid := range slices.Sorted(maps.Keys(wanted)) {
			want = append(want, wanted[uid])
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("owners (-want +got):\n%s", diff)
		}
	})
}
