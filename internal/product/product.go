// Package product says what the two container images have in them, and makes them from this module's
// sources and Debian packages.
package product

import (
	"bytes"
	"context"
	"fmt"
	"strings"

	"github.com/hostport-ccm/hostport-ccm/internal/debs"
	"github.com/hostport-ccm/hostport-ccm/internal/oci"
)

// Registry is where the images are pulled from, unless users have their own.
const Registry = "ghcr.io/hostport-ccm"

const mib = 1 << 20

// Product is one of the images, with the program of its name at the root.
type Product struct {
	Name, Description string
	// User runs the program; empty means root.
	User string
	// Limit is the compressed size that the image may have, in bytes.
	Limit int64
	// Files returns what the program needs, and the packages that it is from.
	Files func(ctx context.Context, arch string) ([]oci.File, []debs.Package, error)
}

// All are the images.
var All = []Product{
	{
		Name:        "hostport-ccm",
		Description: "Cloud controller manager that gives LoadBalancer Services the nodes' addresses.",
		User:        "65532:65532",
		Limit:       35 * mib,
		Files:       ccmFiles,
	},
	{
		Name:        "hostport-nodeproxy",
		Description: "Forwards a Service's ports from the nodes' addresses to its cluster IP.",
		Limit:       15 * mib,
		Files:       nodeproxyFiles,
	},
}

// Reference returns the image's full name, with its tag.
func (p Product) Reference(version string) string { return Registry + "/" + p.Name + ":" + version }

// CheckSize returns an error if the compressed size is larger than the limit.
func (p Product) CheckSize(size int64) error {
	if size <= p.Limit {
		return nil
	}
	return fmt.Errorf("image %s has %.1f MiB compressed, but may have %.0f: look for a new dependency, or raise the limit in internal/product",
		p.Name, float64(size)/mib, float64(p.Limit)/mib)
}

// ccmFiles returns the certificates with which the program verifies the cloud's API, as the bundle
// that the installation script of Debian's package makes, and a user that is not root.
func ccmFiles(ctx context.Context, arch string) ([]oci.File, []debs.Package, error) {
	tree, err := debs.Fetch(ctx, arch, "ca-certificates")
	if err != nil {
		return nil, nil, err
	}
	picked, err := tree.Pick("/usr/share/ca-certificates/mozilla/*.crt")
	if err != nil {
		return nil, nil, err
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
	return append(files, oci.File{Path: "/etc/ssl/certs/ca-certificates.crt", Data: bundle.Bytes()}), tree.Packages(picked), nil
}

// nodeproxyFiles returns both flavours of iptables with all extensions, for IPv4 and IPv6. Plain
// iptables is the nft flavour, as on Debian. There is no shell.
func nodeproxyFiles(ctx context.Context, arch string) ([]oci.File, []debs.Package, error) {
	tree, err := debs.Fetch(ctx, arch, "iptables")
	if err != nil {
		return nil, nil, err
	}
	files, err := tree.Pick(
		"/usr/sbin/ip*tables-nft*", "/usr/sbin/ip*tables-legacy*",
		"/usr/lib/*/xtables/libxt_*.so", "/usr/lib/*/xtables/libipt_*.so", "/usr/lib/*/xtables/libip6t_*.so",
	)
	if err != nil {
		return nil, nil, err
	}
	packages := tree.Packages(files)
	for _, family := range []string{"iptables", "ip6tables"} {
		for _, suffix := range []string{"", "-save", "-restore"} {
			files = append(files, oci.File{Path: "/usr/sbin/" + family + suffix, Symlink: family + "-nft" + suffix})
		}
	}
	// The legacy flavour has its lock file there.
	return append(files, oci.File{Path: "/run", Dir: true}), packages, nil
}
