package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestDefaultsOfFlags(t *testing.T) {
	command, err := newCommand(&leaderLease{}, nil)
	if err != nil {
		t.Fatal(err)
	}
	for flag, want := range map[string]string{
		"cloud-provider":                  "hostport",
		"concurrent-service-syncs":        "10",
		"leader-elect":                    "true",
		"leader-elect-lease-duration":     "8s",
		"leader-elect-renew-deadline":     "7s",
		"leader-elect-retry-period":       "1s",
		"leader-elect-resource-name":      "hostport-ccm",
		"leader-elect-resource-namespace": "hostport-system",
		"node-status-update-frequency":    "15s",
		"secure-port":                     "10258",
		"use-service-account-credentials": "false",
	} {
		if got := command.Flags().Lookup(flag); got == nil || got.DefValue != want {
			t.Errorf("--%s: got %v, want %s", flag, got, want)
		}
	}
	if usage := command.Flags().Lookup("controllers").Usage; strings.Contains(usage, "node-route-controller") {
		t.Errorf("the route controller is offered: %s", usage)
	}
}

func TestAnInvalidConfigIsReportedFirst(t *testing.T) {
	file := filepath.Join(t.TempDir(), "cloud.yaml")
	if err := os.WriteFile(file, []byte("clusterId: a"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		args []string
		want string
	}{
		"no config":        {nil, "--cloud-config"},
		"a mistyped field": {[]string{"--cloud-config", file}, `did you mean "clusterID"?`},
	} {
		command, err := newCommand(&leaderLease{}, nil)
		if err != nil {
			t.Fatal(err)
		}
		command.SetArgs(c.args)
		command.SilenceErrors, command.SilenceUsage = true, true
		if err := command.Execute(); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %v", name, err)
		}
	}
}

// The roles grant the lease where the proxies are.
func TestTheLeaseIsInTheNamespaceOfTheProxies(t *testing.T) {
	file := filepath.Join(t.TempDir(), "cloud.yaml")
	if err := os.WriteFile(file, []byte("{apiVersion: hostport-ccm.io/v1alpha1, kind: CloudConfig, clusterID: a, provider: none, loadBalancer: {proxyImage: p, namespace: load-balancers}}"), 0o600); err != nil {
		t.Fatal(err)
	}
	for want, args := range map[string][]string{"load-balancers": nil, "leases": {"--leader-elect-resource-namespace", "leases"}} {
		command, err := newCommand(&leaderLease{}, nil)
		if err != nil {
			t.Fatal(err)
		}
		command.SetContext(t.Context())
		if err := command.ParseFlags(append([]string{"--cloud-config", file}, args...)); err != nil {
			t.Fatal(err)
		}
		if err := command.PreRunE(command, nil); err != nil {
			t.Fatal(err)
		}
		if got := command.Flags().Lookup("leader-elect-resource-namespace").Value.String(); got != want {
			t.Errorf("with the arguments %v, the lease is in namespace %s, want %s", args, got, want)
		}
	}
}
