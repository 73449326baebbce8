package cluster

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"time"

	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
	"k8s.io/client-go/util/cert"
	"k8s.io/client-go/util/keyutil"
)

// makePKI creates the certificates, the key that signs service account tokens, and a kubeconfig for
// each client of the API server.
func (c *Cluster) makePKI() error {
	a, err := newAuthority(c.pki(""))
	if err != nil {
		return fmt.Errorf("make the cluster's certificate authority: %w", err)
	}
	if err := a.issue("apiserver", pkix.Name{CommonName: "kube-apiserver"}, controlIP, machineControl, apiService, "127.0.0.1",
		"localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc."+clusterZone); err != nil {
		return err
	}
	if err := a.issue("front-proxy-client", pkix.Name{CommonName: "front-proxy-client"}); err != nil {
		return err
	}
	clients := map[string]pkix.Name{
		"admin":                   {CommonName: "admin", Organization: []string{"system:masters"}},
		"kube-controller-manager": {CommonName: "system:kube-controller-manager"},
		"kube-scheduler":          {CommonName: "system:kube-scheduler"},
		foreignProgram:            {CommonName: foreignProgram, Organization: []string{"system:masters"}},
		"kube-proxy":              {CommonName: "system:kube-proxy"},
		"kubelet-client":          {CommonName: "kube-apiserver-kubelet-client", Organization: []string{"system:masters"}},
	}
	if c.shape.Profile == Simulated {
		clients[productProgram] = pkix.Name{CommonName: productUser, Organization: []string{"system:serviceaccounts", "system:serviceaccounts:" + ProductNamespace}}
	}
	for _, n := range Nodes(c.shape.Profile) {
		clients["kubelet-"+n.Name] = pkix.Name{CommonName: "system:node:" + n.Name, Organization: []string{"system:nodes"}}
	}
	for name, subject := range clients {
		if err := a.issue(name, subject); err != nil {
			return err
		}
		if err := c.writeKubeconfig(c.kubeconfig(name), name, controlIP); err != nil {
			return err
		}
	}
	return c.writeKubeconfig(c.Kubeconfig(), "admin", machineControl)
}

// authority signs the cluster's certificates, which are valid for a year.
type authority struct {
	dir  string
	cert *x509.Certificate
	key  crypto.Signer
}

func newAuthority(dir string) (*authority, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	ca, err := cert.NewSelfSignedCACert(cert.Config{CommonName: "hostport-sandbox"}, key)
	if err != nil {
		return nil, err
	}
	a := &authority{dir: dir, cert: ca, key: key}
	return a, a.write("ca", ca.Raw, key)
}

// issue writes NAME.crt and NAME.key for a client or a server.
func (a *authority) issue(name string, subject pkix.Name, hosts ...string) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if err != nil {
		return err
	}
	template := &x509.Certificate{
		SerialNumber: serial,
		Subject:      subject,
		NotBefore:    a.cert.NotBefore,
		NotAfter:     time.Now().AddDate(1, 0, 0),
		KeyUsage:     x509.KeyUsageDigitalSignature | x509.KeyUsageKeyEncipherment,
		ExtKeyUsage:  []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth},
	}
	for _, h := range hosts {
		if ip := net.ParseIP(h); ip != nil {
			template.IPAddresses = append(template.IPAddresses, ip)
		} else {
			template.DNSNames = append(template.DNSNames, h)
		}
	}
	raw, err := x509.CreateCertificate(rand.Reader, template, a.cert, key.Public(), a.key)
	if err != nil {
		return err
	}
	return a.write(name, raw, key)
}

func (a *authority) write(name string, raw []byte, key crypto.Signer) error {
	block := pem.EncodeToMemory(&pem.Block{Type: cert.CertificateBlockType, Bytes: raw})
	if err := cert.WriteCert(filepath.Join(a.dir, name+".crt"), block); err != nil {
		return err
	}
	data, err := keyutil.MarshalPrivateKeyToPEM(key)
	if err != nil {
		return err
	}
	return keyutil.WriteKey(filepath.Join(a.dir, name+".key"), data)
}

// kubeconfig returns the path of a client's kubeconfig for use on a host.
func (c *Cluster) kubeconfig(client string) string { return c.pki(client + ".kubeconfig") }

// Kubeconfig returns the path of the administrator's kubeconfig, for use on the machine.
func (c *Cluster) Kubeconfig() string { return filepath.Join(c.dir, "kubeconfig") }

// writeKubeconfig writes a kubeconfig with embedded certificates, so that the file can be copied.
func (c *Cluster) writeKubeconfig(file, client, server string) error {
	const name = "hostport-sandbox"
	var data [3][]byte
	for i, f := range []string{"ca.crt", client + ".crt", client + ".key"} {
		var err error
		if data[i], err = os.ReadFile(c.pki(f)); err != nil {
			return err
		}
	}
	config := clientcmdapi.NewConfig()
	config.Clusters[name] = &clientcmdapi.Cluster{Server: "https://" + server + ":6443", CertificateAuthorityData: data[0]}
	config.AuthInfos[client] = &clientcmdapi.AuthInfo{ClientCertificateData: data[1], ClientKeyData: data[2]}
	config.Contexts[name] = &clientcmdapi.Context{Cluster: name, AuthInfo: client}
	config.CurrentContext = name
	return clientcmd.WriteToFile(*config, file)
}

func (c *Cluster) pki(name string) string { return filepath.Join(c.dir, "pki", name) }
