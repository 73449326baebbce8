package provider

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/hostport-ccm/hostport-ccm/firewall"
	"github.com/hostport-ccm/hostport-ccm/provider/events"
)

func TestOrphansAreDeletedAtTheStart(t *testing.T) {
	c := twoNodes(t)
	stop := c.start()
	c.serve(service("web"))
	c.serve(service("kept", tcp(81)))
	stop()
	theirs := firewall.Rule{Name: "hostport-theirs", Description: firewall.FormatMark(firewall.Owner{ClusterID: "beta", Service: types.NamespacedName{Namespace: "default", Name: "web"}, UID: "web-uid"})}
	c.firewall.SetRule(theirs)
	if err := c.kube.Tracker().Delete(v1.SchemeGroupVersion.WithResource("services"), "default", "web"); err != nil {
		t.Fatal(err)
	}
	c.start()
	c.eventually("everything made for the Service is deleted", func() bool {
		return c.daemonSet("web") == nil && c.configMap("web") == nil && !c.firewallAllows("web")
	})
	c.eventually("an event reports it", func() bool { return c.hasEvent("Normal", events.OrphanedResourcesDeleted, "web:") })
	if c.daemonSet("kept") == nil || c.configMap("kept") == nil || !c.firewallAllows("kept") {
		t.Error("resources of a Service that exists were deleted")
	}
	if diff := cmp.Diff(theirs, c.firewall.Rules()[theirs.Name]); diff != "" {
		t.Errorf("another cluster's rule (-want +got):\n%s", diff)
	}
}
