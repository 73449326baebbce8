//go:build e2e

package e2e

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/hostport-ccm/hostport-ccm/test/sandbox/cluster"
)

// manifestsOfWebsite is the folder of the manifests of docs/how-to/website.md.
const manifestsOfWebsite = "../../docs/how-to/website"

// Names of the website: one by an Ingress, one by a Gateway.
var siteNames = []string{"www", "api"}

// TestWebsiteWithTraefikAndExternalDNS follows docs/how-to/website.md, with a client that resolves the names.
// `make website` runs it, as to build Traefik and ExternalDNS takes minutes.
func TestWebsiteWithTraefikAndExternalDNS(t *testing.T) {
	site := newWebsite(t)
	all := addressesOf(cluster.Nodes(cluster.GCE), externalIP)
	site.wantRecords(t, 3*time.Minute, all)
	site.wantPages(t, all)
	site.wantRedirect(t)
	site.wantHTTP3(t)

	site.loseNode(t, "the node of ExternalDNS", nodeOfExternalDNS(t), all)
	has := nodeOfExternalDNS(t)
	others := slices.DeleteFunc(cluster.Nodes(cluster.GCE), func(n cluster.Node) bool { return n.Name == has.Name })
	site.loseNode(t, "another node", others[0], all)

	changed := cluster.Nodes(cluster.GCE)[1]
	const fresh = "203.0.113.112"
	setExternalIP(t, changed, fresh)
	t.Cleanup(func() { setExternalIP(t, changed, changed.ExternalIP) })
	moved := append(slices.DeleteFunc(slices.Clone(all), func(ip string) bool { return ip == changed.ExternalIP }), fresh)
	site.wantRecords(t, 2*time.Minute, moved)
	site.wantPages(t, moved)

	site.delete(t, "site.yaml")
	eventually(t, 2*time.Minute, "the names are gone with the website", func(ctx context.Context) error {
		records, err := site.dns.records(ctx)
		if err == nil && len(records) > 0 {
			err = fmt.Errorf("there are %v", records)
		}
		return err
	})
}

// loseNode powers a node off, and waits until it has left DNS, and on again.
func (s website) loseNode(t *testing.T, what string, node cluster.Node, all []string) {
	t.Helper()
	rest := slices.DeleteFunc(slices.Clone(all), func(ip string) bool { return ip == node.ExternalIP || ip == node.IPv6 })
	powerCycle(t, node, func() {
		off := time.Now()
		s.wantPublished(t, rest)
		status := time.Since(off)
		s.wantRecords(t, 90*time.Second, rest) // the limit that docs/how-to/website.md states
		records := time.Since(off)
		s.wantPages(t, rest)
		t.Logf("%s (%s) was powered off: the status is right after %.1fs, DNS after %.1fs, and all addresses answer after %.1fs",
			what, node.Name, status.Seconds(), records.Seconds(), time.Since(off).Seconds())
	})
	s.wantRecords(t, 3*time.Minute, all)
	s.wantPages(t, all)
}

// nodeOfExternalDNS returns the node that ExternalDNS runs on.
func nodeOfExternalDNS(t *testing.T) cluster.Node {
	t.Helper()
	pods, err := client.CoreV1().Pods("external-dns").List(t.Context(), metav1.ListOptions{LabelSelector: "app=external-dns"})
	if err != nil {
		t.Fatal(err)
	}
	for _, node := range cluster.Nodes(cluster.GCE) {
		if slices.ContainsFunc(pods.Items, func(p v1.Pod) bool { return p.Spec.NodeName == node.Name && isReady(p) }) {
			return node
		}
	}
	t.Fatal("ExternalDNS is not running")
	return cluster.Node{}
}

// website is a running website and its name server.
type website struct {
	cluster.Website
	dns nameServer
	// certificate is the path of the one that it has, and that clients trust.
	certificate string
}

// newWebsite does what docs/how-to/website.md says. All is deleted when the test ends.
func newWebsite(t *testing.T) website {
	t.Helper()
	programs, err := sandbox.Website(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	site := website{Website: programs, dns: startNameServer(t)}
	if _, err := sandbox.Kubectl(t.Context(), "apply", "--server-side", "-f", site.GatewayAPI); err != nil {
		t.Fatal(err)
	}
	for _, file := range []string{"traefik.yaml", "external-dns.yaml", "site.yaml"} {
		if _, err := sandbox.Kubectl(t.Context(), "apply", "-f", filepath.Join(manifestsOfWebsite, file)); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { site.delete(t, file) })
	}
	createSecret(t, "external-dns", &v1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "tsig"}, StringData: map[string]string{"secret": site.dns.secret}})
	certificate, key := newCertificate(t, siteNames...)
	createSecret(t, "site", &v1.Secret{
		ObjectMeta: metav1.ObjectMeta{Name: "certificate"}, Type: v1.SecretTypeTLS,
		Data: map[string][]byte{v1.TLSCertKey: certificate, v1.TLSPrivateKeyKey: key},
	})
	site.certificate = filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(site.certificate, certificate, 0o644); err != nil {
		t.Fatal(err)
	}
	return site
}

func createSecret(t *testing.T, namespace string, secret *v1.Secret) {
	t.Helper()
	if _, err := client.CoreV1().Secrets(namespace).Create(t.Context(), secret, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
}

// delete deletes the objects of one of the manifests that are still there.
func (s website) delete(t *testing.T, file string) {
	t.Helper()
	_, err := sandbox.Kubectl(context.WithoutCancel(t.Context()), "delete", "--ignore-not-found", "--timeout=3m", "-f", filepath.Join(manifestsOfWebsite, file))
	if err != nil {
		t.Errorf("deleting %s: %v", file, err)
	}
}

// wantPublished waits until the status of Traefik's Service has these addresses.
func (s website) wantPublished(t *testing.T, want []string) {
	t.Helper()
	svc, err := client.CoreV1().Services("traefik").Get(t.Context(), "traefik", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	wantAddresses(t, svc, time.Minute, want...)
}

// wantRecords waits until the zone has exactly these addresses for the names of the website, and no other
// name with an address, such as that of a mirror.
func (s website) wantRecords(t *testing.T, limit time.Duration, want []string) {
	t.Helper()
	eventually(t, limit, fmt.Sprintf("DNS has %v", want), func(ctx context.Context) error {
		records, err := s.dns.records(ctx)
		if err != nil {
			return err
		}
		for _, name := range siteNames {
			if !sameElements(records[name], want) {
				return fmt.Errorf("%s has %v", name, records[name])
			}
		}
		if len(records) > len(siteNames) {
			return fmt.Errorf("there are other names: %v", records)
		}
		return nil
	})
}

// wantPages waits until the host internet gets both websites by name over both IP families, and from each
// of these addresses alone, and checks that the website knows the client's address.
func (s website) wantPages(t *testing.T, addresses []string) {
	t.Helper()
	for _, name := range siteNames {
		for _, ip := range internetIPs() {
			family := "-4"
			if strings.Contains(ip, ":") {
				family = "-6"
			}
			s.wantPage(t, name, ip, family)
		}
		for _, address := range addresses {
			bracketed := address
			if strings.Contains(address, ":") {
				bracketed = "[" + address + "]"
			}
			s.wantPage(t, name, internetIP(address), "--resolve", fmt.Sprintf("%s.%s:443:%s", name, zone, bracketed))
		}
	}
}

// wantPage waits until curl gets the website and it answers with the client's address.
func (s website) wantPage(t *testing.T, name, clientIP string, options ...string) {
	t.Helper()
	eventually(t, 30*time.Second, fmt.Sprintf("%s answers %v", name, options), func(ctx context.Context) error {
		body, err := s.curl(ctx, append(options, "https://"+name+"."+zone+"/header?key=X-Real-Ip")...)
		if err == nil && body != clientIP {
			err = fmt.Errorf("the website sees the client %q", body)
		}
		return err
	})
}

func (s website) wantRedirect(t *testing.T) {
	t.Helper()
	target, err := s.curl(t.Context(), "--output", "/dev/null", "--write-out", "%{redirect_url}", "http://www."+zone+"/x")
	if want := "https://www." + zone + "/x"; err != nil || target != want {
		t.Errorf("HTTP redirects to %q, not to %q (%v)", target, want, err)
	}
}

// wantHTTP3 checks that a client without TCP gets the website, which needs port 443 for UDP too.
func (s website) wantHTTP3(t *testing.T) {
	t.Helper()
	eventually(t, 30*time.Second, "HTTP/3 answers", func(ctx context.Context) error {
		out, err := s.resolving(ctx, s.HTTP3, s.certificate, "https://www."+zone+"/hostname")
		if err == nil && !strings.HasPrefix(out, "HTTP/3.0 site-") {
			err = fmt.Errorf("the answer is %q", out)
		}
		return err
	})
}

func (s website) curl(ctx context.Context, args ...string) (string, error) {
	curl := []string{"curl", "--silent", "--show-error", "--fail", "--connect-timeout", "3", "--max-time", "10", "--cacert", s.certificate}
	return s.resolving(ctx, append(curl, args...)...)
}

// resolving runs a command on host internet that resolves names by the website's name server.
func (s website) resolving(ctx context.Context, argv ...string) (string, error) {
	cmd, err := sandbox.CommandWithResolver(ctx, cluster.Internet, s.dns.resolvConf, argv...)
	if err != nil {
		return "", err
	}
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		err = errors.Join(err, errors.New(strings.TrimSpace(stderr.String())))
	}
	return string(out), err
}

// newCertificate returns a certificate for names of the zone that signs itself, and its key, in PEM.
func newCertificate(t *testing.T, names ...string) (certificate, key []byte) {
	t.Helper()
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: zone}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
	}
	for _, name := range names {
		template.DNSNames = append(template.DNSNames, name+"."+zone)
	}
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	signed, err := x509.CreateCertificate(rand.Reader, template, template, &private.PublicKey, private)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalECPrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: signed}), pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: der})
}
