package tools

import (
	"testing"
)

// A module in two versions is compiled twice.
func TestProgramsAndProductHaveTheSameVersions(t *testing.T) {
	product, err := readGoMod(t.Context(), "../../..")
	if err != nil {
		t.Fatal(err)
	}
	programs, err := readGoMod(t.Context(), "programs")
	if err != nil {
		t.Fatal(err)
	}
	version, shared := map[string]string{}, 0
	for _, m := range programs.Require {
		version[m.Path] = m.Version
	}
	for _, m := range product.Require {
		if version[m.Path] == m.Version {
			shared++
		} else if version[m.Path] != "" {
			t.Errorf("%s: the product has %s, the programs have %s: `go get` the later one in both", m.Path, m.Version, version[m.Path])
		}
	}
	if shared < 50 {
		t.Errorf("the modules share %d modules, which is hard to believe", shared)
	}
	if version["k8s.io/kubernetes"] != KubernetesVersion {
		t.Errorf("the programs are built from Kubernetes %s, and report %s", version["k8s.io/kubernetes"], KubernetesVersion)
	}
}
