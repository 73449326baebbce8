package firewall

import (
	"cmp"
	"slices"
)

// OwnersAmong returns the owners within one cluster whose mark is on any of
// the rules, each once, sorted by Service and UID. Rules of other clusters and
// of strangers are not looked at.
func OwnersAmong(rules []Rule, clusterID string) []Owner {
	var owners []Owner
	for _, rule := range rules {
		if owner, err := ParseMark(rule.Description); err == nil && owner.ClusterID == clusterID {
			owners = append(owners, owner)
		}
	}
	slices.SortFunc(owners, compareOwners)
	return slices.Compact(owners)
}

func compareOwners(a, b Owner) int {
	return cmp.Or(
		cmp.Compare(a.Service.Namespace, b.Service.Namespace),
		cmp.Compare(a.Service.Name, b.Service.Name),
		cmp.Compare(a.UID, b.UID),
	)
}
