//go:build e2e

package e2e

import (
	"context"
	"fmt"
	"net"
	"strconv"
	"strings"
	"testing"
	"time"
)

func TestTheHealthPortAnswersTheKubeletAndNoOtherPod(t *testing.T) {
	t.Parallel()
	svc, _ := newWeb(t)
	// That the proxies are ready shows that the kubelet is answered.
	all := proxies(t, svc)
	asked, other := all[0], all[1]
	for _, tc := range []struct {
		port       int
		path, want string
		header     string
	}{
		{asked.health, "/readyz", "403", ""},
		{asked.health, "/healthz", "403", "Authorization: Bearer guess"},
		{asked.health, "/readyz", "200", "Authorization: " + asked.token},
		{asked.health, "/metrics", "403", ""},
		{asked.metricsPort, "/metrics", "200", ""},
		{asked.metricsPort, "/readyz", "404", ""},
	} {
		url := "http://" + net.JoinHostPort(asked.ip, strconv.Itoa(tc.port)) + tc.path
		eventually(t, 30*time.Second, "another pod gets an answer from "+url, func(ctx context.Context) error {
			got, err := other.inNamespace(ctx, "curl", "-s", "-m", "5", "-o", "/dev/null", "-w", "%{http_code}", "-H", tc.header, url)
			if err != nil {
				return fmt.Errorf("%w: %s", err, got)
			}
			if strings.TrimSpace(got) != tc.want {
				t.Errorf("%s with header %q answers %s, want %s", url, tc.header, got, tc.want)
			}
			return nil
		})
	}
}
