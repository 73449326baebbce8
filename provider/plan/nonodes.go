package plan

import (
	"fmt"
	"strings"

	"k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/hostport-ccm/hostport-ccm/provider/options"
)

// whyNone says, of nodes none of which was chosen, what is in the way on how
// many of them.
func whyNone(nodes []*v1.Node, o options.Options) string {
	included, selected := chosenBy(labels.Everything()), chosenBy(o.NodeSelector)
	var excluded, deselected, tainted int
	for _, node := range nodes {
		switch {
		case !included(node):
			excluded++
		case !selected(node):
			deselected++
		default:
			tainted++
		}
	}
	var causes []string
	for _, c := range []struct {
		nodes int
		words string
	}{
		{excluded, "are kept from load balancers by label " + v1.LabelNodeExcludeBalancers + ", or do not run Linux"},
		{deselected, "do not match annotation " + options.NodeSelector},
		{tainted, "have taints that annotation " + options.Tolerations + " does not tolerate"},
	} {
		if c.nodes > 0 {
			causes = append(causes, fmt.Sprintf("%d %s", c.nodes, c.words))
		}
	}
	return fmt.Sprintf("no node serves the Service: of %d nodes, %s", len(nodes), strings.Join(causes, ", "))
}
