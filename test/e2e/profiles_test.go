//go:build e2e

package e2e

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/hostport-ccm/hostport-ccm/test/sandbox/cluster"
)

// As docs/how-to/troubleshoot.md has it.
func TestProfilesNeedARightOfTheirOwn(t *testing.T) {
	t.Parallel()
	kubectl := func(args ...string) string {
		t.Helper()
		out, err := sandbox.Kubectl(t.Context(), args...)
		if err != nil {
			t.Fatal(err)
		}
		return strings.TrimSpace(out)
	}
	const name = "profiler"
	namespace := "--namespace=" + cluster.ProductNamespace
	t.Cleanup(func() {
		ctx := context.WithoutCancel(t.Context())
		for _, object := range []string{"clusterrolebinding", "clusterrole", "serviceaccount"} {
			if _, err := sandbox.Kubectl(ctx, "delete", object, name, namespace, "--ignore-not-found"); err != nil {
				t.Error(err)
			}
		}
	})
	kubectl("create", "serviceaccount", name, namespace)
	token := kubectl("create", "token", name, namespace)
	node := leadersNode(t)
	status := func(ctx context.Context, path, token string) (string, error) {
		out, err := sandbox.Exec(ctx, node.Name, "curl", "-sk", "-m", "20", "-o", "/dev/null", "-w", "%{http_code}",
			"-H", "Authorization: "+token, "https://localhost:10258"+path)
		return strings.TrimSpace(out), err
	}
	paths := []string{"/metrics", "/configz", "/debug/pprof/", "/debug/pprof/heap", "/debug/pprof/profile?seconds=1", "/debug/pprof/goroutine?debug=2"}
	for _, path := range paths {
		for _, tc := range []struct{ token, want string }{{"", "403"}, {"Bearer guess", "401"}, {"Bearer " + token, "403"}} {
			if got, err := status(t.Context(), path, tc.token); got != tc.want {
				t.Errorf("%s with token %.12q answers %s, %v, want %s", path, tc.token, got, err, tc.want)
			}
		}
	}
	kubectl("create", "clusterrole", name, "--verb=get", "--non-resource-url=/debug/pprof/*")
	kubectl("create", "clusterrolebinding", name, "--clusterrole="+name, "--serviceaccount="+cluster.ProductNamespace+":"+name)
	// A refusal is cached for some seconds.
	eventually(t, time.Minute, "profiles with the right", func(ctx context.Context) error {
		for _, path := range paths {
			want := "403"
			if strings.HasPrefix(path, "/debug/pprof/") {
				want = "200"
			}
			if got, err := status(ctx, path, "Bearer "+token); got != want {
				return fmt.Errorf("%s answers %s, %v, want %s", path, got, err, want)
			}
		}
		return nil
	})
}
