package product

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	specs "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/hostport-ccm/hostport-ccm/internal/debs"
	"github.com/hostport-ccm/hostport-ccm/internal/oci"
)

// Build says how to build an image.
type Build struct {
	// Module is the folder of the sources.
	Module string
	// Version is the tag of the image, and the version that its program reports.
	Version string
	// Arch is the architecture as Go names it.
	Arch string
	// Env is added to the environment of the Go command.
	Env []string
}

// Built is what an image is made of.
type Built struct {
	oci.Image
	Program  []byte
	Packages []debs.Package
}

// Build compiles the program and finds the files that it needs.
func (p Product) Build(ctx context.Context, b Build) (Built, error) {
	files, packages, err := p.Files(ctx, b.Arch)
	if err != nil {
		return Built{}, err
	}
	program, err := compile(ctx, b, "./cmd/"+p.Name)
	if err != nil {
		return Built{}, err
	}
	img := oci.Image{
		Arch:   b.Arch,
		Config: v1.Config{Entrypoint: []string{"/" + p.Name}, User: p.User, Labels: p.Labels(b.Version)},
		Files:  append(files, oci.File{Path: "/" + p.Name, Mode: 0o755, Data: program}),
	}
	return Built{Image: img, Program: program, Packages: packages}, nil
}

// Labels returns what tools show of an image.
func (p Product) Labels(version string) map[string]string {
	return map[string]string{
		specs.AnnotationTitle:       p.Name,
		specs.AnnotationDescription: p.Description,
		specs.AnnotationVersion:     version,
		specs.AnnotationLicenses:    "Apache-2.0",
		specs.AnnotationSource:      "https://github.com/hostport-ccm/hostport-ccm",
	}
}

// compile returns a command as a static program. Its bytes depend on the sources, the version and
// the Go release only, not on the folder, the time, git or the machine.
func compile(ctx context.Context, b Build, command string) ([]byte, error) {
	tmp, err := os.MkdirTemp("", "hostport-image-*")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(tmp)
	program := filepath.Join(tmp, "program")
	const version = "k8s.io/component-base/version."
	ldflags := "-s -w -X main.version=" + b.Version + " -X " + version + "gitVersion=" + b.Version + " -X " + version + "gitCommit= -X " + version + "gitTreeState="
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-gcflags=all=-dwarf=false", "-buildvcs=false", "-ldflags", ldflags, "-o", program, command)
	cmd.Dir = b.Module
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH="+b.Arch, "GOAMD64=v1", "GOARM64=v8.0", "GOFLAGS=")
	cmd.Env = append(cmd.Env, b.Env...)
	if out, err := cmd.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("compiling %s: %w\n%s", command, err, out)
	}
	return os.ReadFile(program)
}
