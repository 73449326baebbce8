package main

import (
	"bytes"
	"context"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/hostport-ccm/hostport-ccm/internal/debs"
	"github.com/hostport-ccm/hostport-ccm/internal/oci"
)

// Where the images live, and what they may weigh compressed.
const (
	registry = "ghcr.io/hostport-ccm"

	mib            = 1 << 20
	ccmLimit       = 35 * mib
	nodeProxyLimit = 15 * mib
)

// options say for what machine the images are built.
type options struct {
	// version tags the images and is what their programs report.
	version string
	// arch is the architecture as Go names it.
	arch string
	// module is this module's folder.
	module string
}

// ccm returns the controller manager's image: the program, the certificates
// with which it trusts the cloud's API, and a user that is not root.
func ccm(ctx context.Context, o options) (oci.Image, error) {
	files, err := o.certificates(ctx)
	if err != nil {
		return oci.Image{}, err
	}
	img := o.image("hostport-ccm", "Cloud controller manager that gives LoadBalancer Services the nodes' addresses.")
	img.User = "65532:65532"
	return o.withProgram(ctx, img, append(files,
		oci.File{Path: "/etc/passwd", Data: []byte("root:x:0:0:root:/:/none\nnonroot:x:65532:65532:nonroot:/:/none\n")},
		oci.File{Path: "/etc/group", Data: []byte("root:x:0:\nnonroot:x:65532:\n")},
	))
}

// nodeProxy returns the proxy's image: the program and both flavours of
// iptables. There is no shell in it.
func nodeProxy(ctx context.Context, o options) (oci.Image, error) {
	files, err := o.iptables(ctx)
	if err != nil {
		return oci.Image{}, err
	}
	img := o.image("hostport-nodeproxy", "Forwards a Service's ports from the nodes' addresses to its cluster IP.")
	return o.withProgram(ctx, img, files)
}

func (o options) image(name, description string) oci.Image {
	return oci.Image{
		Name: registry + "/" + name + ":" + o.version,
		Arch: o.arch,
		Labels: map[string]string{
			"org.opencontainers.image.title":       name,
			"org.opencontainers.image.description": description,
			"org.opencontainers.image.version":     o.version,
			"org.opencontainers.image.licenses":    "Apache-2.0",
			"org.opencontainers.image.source":      "https://github.com/hostport-ccm/hostport-ccm",
		},
		Entrypoint: []string{"/" + name},
	}
}

// withProgram builds the command of the image's name and adds it at the root.
func (o options) withProgram(ctx context.Context, img oci.Image, files []oci.File) (oci.Image, error) {
	program, err := o.build(ctx, "./cmd"+img.Entrypoint[0])
	if err != nil {
		return oci.Image{}, err
	}
	img.Files = append(files, oci.File{Path: img.Entrypoint[0], Mode: 0o755, Data: program})
	return img, nil
}

// build compiles a command into a static program whose bytes depend on the
// sources and the Go release only, not on the folder, the clock or git.
func (o options) build(ctx context.Context, command string) ([]byte, error) {
	tmp, err := os.MkdirTemp("", "hostport-image-*")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(tmp)
	program := filepath.Join(tmp, "program")
	const version = "k8s.io/component-base/version."
	ldflags := "-s -w -X main.version=" + o.version + " -X " + version + "gitVersion=" + o.version + " -X " + version + "gitCommit= -X " + version + "gitTreeState="
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-buildvcs=false", "-ldflags", ldflags, "-o", program, command)
	cmd.Dir = o.module
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH="+o.arch, "GOFLAGS=")
	if out, err := cmd.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("building %s: %w\n%s", command, err, out)
	}
	return os.ReadFile(program)
}

// certificates makes of the single ones in Debian's package the bundle that
// its installation script would make: the place where Go programs look.
func (o options) certificates(ctx context.Context) ([]oci.File, error) {
	tree, err := debs.Fetch(ctx, o.arch, "ca-certificates")
	if err != nil {
		return nil, err
	}
	picked, err := tree.Pick("/usr/share/ca-certificates/mozilla/*.crt")
	if err != nil {
		return nil, err
	}
	var bundle bytes.Buffer
	var files []oci.File
	for _, f := range picked {
		if strings.HasSuffix(f.Path, ".crt") {
			bundle.Write(f.Data)
		} else {
			files = append(files, f)
		}
	}
	return append(files, oci.File{Path: "/etc/ssl/certs/ca-certificates.crt", Data: bundle.Bytes()}), nil
}

// iptables takes both flavours and all their extensions, IPv4 and IPv6; those
// for arp and ebtables stay behind. Plain iptables means the nft flavour, as on
// Debian.
func (o options) iptables(ctx context.Context) ([]oci.File, error) {
	tree, err := debs.Fetch(ctx, o.arch, "iptables")
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
	return append(files, oci.File{Path: "/run", Mode: fs.ModeDir}), nil
}
