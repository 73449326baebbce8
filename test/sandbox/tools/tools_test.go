package tools

import (
	"strings"
	"testing"
)

// A module in two versions is compiled twice.
func TestAllProgramsAndProductHaveTheSameVersions(t *testing.T) {
	version, shared := map[string]string{}, map[string]int{}
	for _, dir := range append([]string{"../../.."}, modulesWithKubernetes()...) {
		mod, err := readGoMod(t.Context(), dir)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range mod.Require {
			switch have := version[m.Path]; have {
			case "":
				version[m.Path] = m.Version
			case m.Version:
				shared[dir]++
			default:
				t.Errorf("%s: %s has %s, another has %s: `go get` the later one in all", m.Path, dir, m.Version, have)
			}
		}
	}
	for _, dir := range modulesWithKubernetes() {
		if shared[dir] < 50 {
			t.Errorf("%s shares %d modules with others, which is hard to believe", dir, shared[dir])
		}
	}
	if version["k8s.io/kubernetes"] != KubernetesVersion {
		t.Errorf("the programs are built from Kubernetes %s, and report %s", version["k8s.io/kubernetes"], KubernetesVersion)
	}
}

// modulesWithKubernetes returns the folders of the modules with Kubernetes' programs.
func modulesWithKubernetes() []string {
	var dirs []string
	for _, m := range modules {
		if m.ldflags != "" {
			dirs = append(dirs, m.dir)
		}
	}
	return dirs
}

func TestDerivedGoMod(t *testing.T) {
	kubernetes := `{"Replace": [
		{"Old": {"Path": "k8s.io/api"}, "New": {"Path": "./staging/src/k8s.io/api"}},
		{"Old": {"Path": "example.com/a"}, "New": {"Path": "example.com/b", "Version": "v1.0.0"}}]}`
	got, err := derivedGoMod("v1.36.3", []byte(kubernetes))
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"require k8s.io/kubernetes v1.36.3\n", "tool k8s.io/kubernetes/cmd/kubelet\n", "replace k8s.io/api => k8s.io/api v0.36.3\n"} {
		if !strings.Contains(got, want) {
			t.Errorf("it lacks %q:\n%s", want, got)
		}
	}
	if strings.Contains(got, "example.com") {
		t.Errorf("it replaces more than staging modules:\n%s", got)
	}
}
