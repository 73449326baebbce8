package tools

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// kubernetesOf returns the module with Kubernetes' programs of another version than KubernetesVersion.
// They are upstream's own, as the packages that the one program of module "programs" calls differ.
func kubernetesOf(version string) module {
	return module{dir: "kubernetes-" + version, otherVersion: version, ldflags: versionFlags(version)}
}

// derive writes the module to a temporary folder, with the modules that this version of Kubernetes
// requires. There are no sums of them in the project; the Go command compares with the checksum
// database. The folder is to be removed also after an error.
func (m module) derive(ctx context.Context, progress Progress) (dir string, err error) {
	defer func(done func(error)) { done(err) }(progress("resolving the modules of Kubernetes " + m.otherVersion))
	if dir, err = os.MkdirTemp("", "hostport-kubernetes-"); err != nil {
		return "", err
	}
	kubernetes, err := goModOf(ctx, dir, m.otherVersion)
	if err != nil {
		return dir, err
	}
	mod, err := derivedGoMod(m.otherVersion, kubernetes)
	if err != nil {
		return dir, err
	}
	if err := os.WriteFile(filepath.Join(dir, "go.mod"), []byte(mod), 0o644); err != nil {
		return dir, err
	}
	if output, err := goCommand(ctx, dir, "mod", "tidy").CombinedOutput(); err != nil {
		return dir, fmt.Errorf("modules of Kubernetes %s: %w\n%s", m.otherVersion, err, output)
	}
	return dir, nil
}

// goModOf returns the go.mod of a version of Kubernetes as JSON.
func goModOf(ctx context.Context, dir, version string) ([]byte, error) {
	out, err := goCommand(ctx, dir, "mod", "download", "-json", "k8s.io/kubernetes@"+version).Output()
	var downloaded struct{ GoMod, Error string }
	if jsonErr := json.Unmarshal(out, &downloaded); err != nil || jsonErr != nil {
		return nil, fmt.Errorf("download Kubernetes %s: %w: %s", version, errors.Join(err, jsonErr), downloaded.Error)
	}
	out, err = goCommand(ctx, dir, "mod", "edit", "-json", downloaded.GoMod).Output()
	if err != nil {
		return nil, fmt.Errorf("reading go.mod of Kubernetes %s: %w", version, err)
	}
	return out, nil
}

// derivedGoMod returns a go.mod for the programs of a version of Kubernetes, given its go.mod as JSON.
// Kubernetes replaces its staging modules by folders of its own repository, which its module zip does
// not hold, so they are replaced by the published ones here.
func derivedGoMod(version string, kubernetes []byte) (string, error) {
	var mod goMod
	if err := json.Unmarshal(kubernetes, &mod); err != nil {
		return "", err
	}
	var b strings.Builder
	fmt.Fprintf(&b, "module kubernetes\n\ngo 1.26.0\n\nrequire k8s.io/kubernetes %s\n\n", version)
	for _, program := range []string{"kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubelet", "kube-proxy", "kubectl"} {
		fmt.Fprintf(&b, "tool k8s.io/kubernetes/cmd/%s\n", program)
	}
	for _, r := range mod.Replace {
		if path, isStaging := strings.CutPrefix(r.New.Path, "./staging/src/"); isStaging {
			fmt.Fprintf(&b, "\nreplace %s => %[1]s v0.%s", path, strings.TrimPrefix(version, "v1."))
		}
	}
	return b.String() + "\n", nil
}
