//go:build e2e

package e2e

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hostport-ccm/hostport-ccm/internal/debs"
	"github.com/hostport-ccm/hostport-ccm/test/sandbox/cluster"
)

// nameServer is Debian's BIND on host internet2, with the zone example.org.
type nameServer struct {
	packages debs.Root
	// secret of the TSIG key external-dns, which may change and transfer the zone.
	secret string
	// resolvConf is the path of a resolv.conf with this server.
	resolvConf string
}

const (
	zone    = "example.org"
	keyName = "external-dns"
	named   = "named"
)

// startNameServer starts a name server with an empty zone, until the test ends.
func startNameServer(t *testing.T) nameServer {
	t.Helper()
	dir := t.TempDir()
	packages, err := debs.Unpack(t.Context(), filepath.Join(dir, "root"), map[string][]string{
		"bind9":          {"/usr/sbin/named"},
		"bind9-dnsutils": {"/usr/bin/dig"},
	})
	if err != nil {
		t.Fatal(err)
	}
	random := make([]byte, 32)
	_, _ = rand.Read(random)
	n := nameServer{packages, base64.StdEncoding.EncodeToString(random), filepath.Join(dir, "resolv.conf")}
	for file, content := range map[string]string{
		n.resolvConf:                     "nameserver " + cluster.Internet2IP + "\n",
		filepath.Join(dir, "zone"):       "$TTL 30\n@ SOA ns." + zone + ". admin." + zone + ". 1 3600 600 86400 30\n@ NS ns." + zone + ".\nns A " + cluster.Internet2IP + "\n",
		filepath.Join(dir, "named.conf"): n.config(dir),
	} {
		if err := os.WriteFile(file, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	program, err := packages.Command("/usr/sbin/named", "-g", "-n", "1", "-c", filepath.Join(dir, "named.conf"))
	if err != nil {
		t.Fatal(err)
	}
	log, stop, err := sandbox.Daemon(cluster.Internet2, named, program.Args...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := stop(context.WithoutCancel(t.Context())); err != nil {
			t.Error(err)
		}
	})
	eventually(t, 20*time.Second, "the name server answers, its log is "+log, func(ctx context.Context) error {
		_, err := n.records(ctx)
		return err
	})
	return n
}

// config returns the server's named.conf.
func (n nameServer) config(dir string) string {
	return fmt.Sprintf(`options {
  directory %q;
  listen-on { %s; };
  listen-on-v6 { none; };
  recursion no;
  dnssec-validation no;
  pid-file none;
  session-keyfile none;
};
controls { };
key %q { algorithm hmac-sha256; secret %q; };
zone %q {
  type primary;
  file "zone";
  allow-transfer { key %q; };
  update-policy { grant %q zonesub ANY; };
};
`, dir, cluster.Internet2IP, keyName, n.secret, zone, keyName, keyName)
}

// records returns the sorted IPv4 and IPv6 addresses of all names of the zone below it, without its own.
func (n nameServer) records(ctx context.Context) (map[string][]string, error) {
	lines, err := n.dig(ctx, "-y", "hmac-sha256:"+keyName+":"+n.secret, zone, "AXFR")
	if err != nil {
		return nil, err
	}
	if !strings.Contains(lines, "\tSOA\t") {
		return nil, fmt.Errorf("no transfer of the zone: %s", lines)
	}
	names := map[string][]string{}
	for line := range strings.Lines(lines) {
		// NAME TTL IN TYPE DATA
		fields := strings.Fields(line)
		if len(fields) != 5 || fields[3] != "A" && fields[3] != "AAAA" || fields[0] == "ns."+zone+"." {
			continue
		}
		name, _, _ := strings.Cut(fields[0], "."+zone)
		names[name] = append(names[name], fields[4])
	}
	for _, addresses := range names {
		slices.Sort(addresses)
	}
	return names, nil
}

// dig asks the server from host internet and returns the answers.
func (n nameServer) dig(ctx context.Context, args ...string) (string, error) {
	dig, err := n.packages.Command("/usr/bin/dig", append([]string{"@" + cluster.Internet2IP, "+noall", "+answer", "+time=2", "+tries=1"}, args...)...)
	if err != nil {
		return "", err
	}
	return sandbox.Exec(ctx, cluster.Internet, dig.Args...)
}
