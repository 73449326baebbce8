//go:build e2e

package e2e

import (
	"slices"
	"strings"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/hostport-ccm/hostport-ccm/test/sandbox/cluster"
)

func TestDatapathProxiesInUserNamespaces(t *testing.T) {
	t.Parallel()
	ns, port, all := newNamespace(t), freePort(), addressesOf(cluster.Nodes(cluster.GCE), externalIP)
	newBackend(t, ns, "web")
	svc := newService(t, ns, "web", inAllFamilies, bothProtocols(port)...)
	wantAddresses(t, svc, time.Minute, all...)
	wantBothOpen(t, cluster.Internet, port, all...)
	var want []string // privileged containers
	if slices.Contains(families(), v1.IPv6Protocol) && !*userNamespaces {
		want = []string{"forward-ipv6"}
	}
	for _, p := range proxies(t, svc) {
		// A line has the first user inside, the first one outside, and how many there are.
		uids := p.processFile(t, "uid_map")
		fields := strings.Fields(uids)
		if len(fields) != 3 || fields[0] != "0" || (fields[1] != "0") != *userNamespaces {
			t.Errorf("the users of proxy %s are those of %s from %q", p.name, p.node, uids)
		}
		if privileged := privilegedContainers(t, p); !slices.Equal(privileged, want) {
			t.Errorf("the privileged containers of proxy %s are %q, want %q", p.name, privileged, want)
		}
	}
}

// privilegedContainers names the containers of a proxy that are privileged or may become so.
func privilegedContainers(t *testing.T, p proxy) (names []string) {
	t.Helper()
	pod, err := client.CoreV1().Pods(cluster.ProductNamespace).Get(t.Context(), p.name, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range append(pod.Spec.InitContainers, pod.Spec.Containers...) {
		if security := c.SecurityContext; security.Privileged != nil || *security.AllowPrivilegeEscalation {
			names = append(names, c.Name)
		}
	}
	return names
}
