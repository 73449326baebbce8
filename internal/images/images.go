package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/hostport-ccm/hostport-ccm/internal/debs"
	"github.com/hostport-ccm/hostport-ccm/internal/oci"
)

const (
	registry = "ghcr.io/hostport-ccm"
	mib      = 1 << 20
)

// product is one of the images, with the program of its name at the root.
type product struct {
	name, description string
	// user runs the program; empty means root.
	user string
	// limit is the compressed size that the image may have, in bytes.
	limit int64
	// files returns what the program needs.
	files func(ctx context.Context, arch string) ([]oci.File, error)
}

var products = []product{
	{
		name:        "hostport-ccm",
		description: "Cloud controller manager that gives LoadBalancer Services the nodes' addresses.",
		user:        "65532:65532",
		limit:       35 * mib,
		files:       ccmFiles,
	},
	{
		name:        "hostport-nodeproxy",
		description: "Forwards a Service's ports from the nodes' addresses to its cluster IP.",
		limit:       15 * mib,
		files:       nodeproxyFiles,
	},
}

// ccmFiles returns the certificates with which the program verifies the cloud's API, as the bundle
// that the installation script of Debian's package makes, and a user that is not root.
func ccmFiles(ctx context.Context, arch string) ([]oci.File, error) {
	tree, err := debs.Fetch(ctx, arch, "ca-certificates")
	if err != nil {
		return nil, err
	}
	picked, err := tree.Pick("/usr/share/ca-certificates/mozilla/*.crt")
	if err != nil {
		return nil, err
	}
	files := []oci.File{
		{Path: "/etc/passwd", Data: []byte("root:x:0:0:root:/:/none\nnonroot:x:65532:65532:nonroot:/:/none\n")},
		{Path: "/etc/group", Data: []byte("root:x:0:\nnonroot:x:65532:\n")},
	}
	var bundle bytes.Buffer
	for _, f := range picked {
		if strings.HasSuffix(f.Path, ".crt") {
			bundle.Write(f.Data)
		} else {
			files = append(files, f)
		}
	}
	return append(files, oci.File{Path: "/etc/ssl/certs/ca-certificates.crt", Data: bundle.Bytes()}), nil
}

// nodeproxyFiles returns both flavours of iptables with all extensions, for IPv4 and IPv6. Plain
// iptables is the nft flavour, as on Debian. There is no shell.
func nodeproxyFiles(ctx context.Context, arch string) ([]oci.File, error) {
	tree, err := debs.Fetch(ctx, arch, "iptables")
	if err != nil {
		return nil, err
	}
	files, err := tree.Pick(
		"/usr/sbin/ip*tables-nft*", "/usr/sbin/ip*tables-legacy*",
		"/usr/lib/*/xtables/libxt_*.so", "/usr/lib/*/xtables/libipt_*.so", "/usr/lib/*/xtables/libip6t_*.so",
	)
	if err != nil {
		return nil, err
	}
	for _, family := range []string{"iptables", "ip6tables"} {
		for _, suffix := range []string{"", "-save", "-restore"} {
			files = append(files, oci.File{Path: "/usr/sbin/" + family + suffix, Symlink: family + "-nft" + suffix})
		}
	}
	// The legacy flavour has its lock file there.
	return append(files, oci.File{Path: "/run", Dir: true}), nil
}

func (p product) image(ctx context.Context, o options) (oci.Image, error) {
	files, err := p.files(ctx, o.arch)
	if err != nil {
		return oci.Image{}, err
	}
	program, err := compile(ctx, o, "./cmd/"+p.name)
	if err != nil {
		return oci.Image{}, err
	}
	return oci.Image{
		Arch: o.arch,
		Config: v1.Config{
			Entrypoint: []string{"/" + p.name},
			User:       p.user,
			Labels: map[string]string{
				"org.opencontainers.image.title":       p.name,
				"org.opencontainers.image.description": p.description,
				"org.opencontainers.image.version":     o.version,
				"org.opencontainers.image.licenses":    "Apache-2.0",
				"org.opencontainers.image.source":      "https://github.com/hostport-ccm/hostport-ccm",
			},
		},
		Files: append(files, oci.File{Path: "/" + p.name, Mode: 0o755, Data: program}),
	}, nil
}

// compile returns a command as a static program. Its bytes depend on the sources, the version and
// the Go release only, not on the folder, the time or git.
func compile(ctx context.Context, o options, command string) ([]byte, error) {
	tmp, err := os.MkdirTemp("", "hostport-image-*")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(tmp)
	program := filepath.Join(tmp, "program")
	const version = "k8s.io/component-base/version."
	ldflags := "-s -w -X main.version=" + o.version + " -X " + version + "gitVersion=" + o.version + " -X " + version + "gitCommit= -X " + version + "gitTreeState="
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-gcflags=all=-dwarf=false", "-buildvcs=false", "-ldflags", ldflags, "-o", program, command)
	cmd.Dir = o.module
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH="+o.arch, "GOFLAGS=")
	if out, err := cmd.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("compiling %s: %w\n%s", command, err, out)
	}
	return os.ReadFile(program)
}
