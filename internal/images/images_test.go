package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/hostport-ccm/hostport-ccm/internal/product"
	"github.com/hostport-ccm/hostport-ccm/nodeproxy/config"
	"github.com/hostport-ccm/hostport-ccm/nodeproxy/rules"
)

const testVersion = "v1.2.3-test"

// The archives of two runs of this command.
var first, second string

func TestMain(m *testing.M) {
	code, err := buildAndRun(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

// buildAndRun runs the command as `make images` does: the tests' own binary has
// the race detector in it, and would compress for minutes.
func buildAndRun(m *testing.M) (int, error) {
	dir, err := os.MkdirTemp("", "hostport-images-*")
	if err != nil {
		return 1, err
	}
	defer os.RemoveAll(dir)
	program := filepath.Join(dir, "images")
	if out, err := exec.Command("go", "build", "-o", program, ".").CombinedOutput(); err != nil {
		return 1, fmt.Errorf("building the command: %w\n%s", err, out)
	}
	first, second = filepath.Join(dir, "first"), filepath.Join(dir, "second")
	for _, out := range []string{first, second} {
		printed, err := exec.Command(program, "-module", "../..", "-version", testVersion, "-out", out).CombinedOutput()
		if err != nil {
			return 1, fmt.Errorf("building the images: %w\n%s", err, printed)
		}
	}
	return m.Run(), nil
}

func TestSameSourcesGiveTheSameArchives(t *testing.T) {
	for _, p := range product.All {
		a, err := os.ReadFile(filepath.Join(first, p.Name+".tar"))
		if err != nil {
			t.Fatal(err)
		}
		b, err := os.ReadFile(filepath.Join(second, p.Name+".tar"))
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(a, b) {
			t.Errorf("%s: built twice, the bytes differ", p.Name)
		}
	}
}

// unpack writes the root file system of an archive's image into a folder.
func unpack(t *testing.T, archive string) string {
	t.Helper()
	archive = filepath.Join(first, archive)
	var contents []struct{ Layers []string }
	if err := json.Unmarshal(output(t, exec.Command("tar", "-xOf", archive, "manifest.json")), &contents); err != nil {
		t.Fatal(err)
	}
	root := t.TempDir()
	untar := exec.Command("tar", "-xz", "-C", root)
	untar.Stdin = bytes.NewReader(output(t, exec.Command("tar", "-xOf", archive, contents[0].Layers[0])))
	output(t, untar)
	return root
}

// output returns the command's output, and fails the test if the command fails.
func output(t *testing.T, cmd *exec.Cmd) []byte {
	t.Helper()
	var problems strings.Builder
	cmd.Stderr = &problems
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s: %v: %s", cmd, err, problems.String())
	}
	return out
}

// inImage prepares a command inside the unpacked image, with a network of its
// own.
func inImage(root, name string, args ...string) *exec.Cmd {
	cmd := exec.Command(name, args...)
	cmd.Dir = "/"
	cmd.Env = []string{"PATH=/usr/sbin:/usr/bin"}
	cmd.SysProcAttr = &syscall.SysProcAttr{Chroot: root, Cloneflags: syscall.CLONE_NEWNET}
	return cmd
}

func needRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: it changes into the image's root folder, in a network namespace of its own")
	}
}

// proxyRules is what the proxy feeds to iptables-restore: every match and target
// in it is a library of its own, which the image must have.
func proxyRules(family config.Family, own, target string) string {
	c := config.Config{
		Ports:        []config.Port{{Protocol: "TCP", Port: 80}, {Protocol: "UDP", Port: 53}, {Protocol: "SCTP", Port: 9}},
		ClusterIPs:   []string{target},
		SourceRanges: []string{own + "/32"},
	}
	return rules.Wanted(c, family, []netip.Addr{netip.MustParseAddr(own)}).Restore(nil)
}

func TestBothFlavoursOfIptablesRunInTheImage(t *testing.T) {
	needRoot(t)
	root := unpack(t, "hostport-nodeproxy.tar")
	for family, text := range map[string]string{
		"iptables":  proxyRules(config.IPv4, "10.244.1.2", "10.96.0.7"),
		"ip6tables": proxyRules(config.IPv6, "fd00:1::2", "fd00:2::7"),
	} {
		for _, flavour := range []string{"nft", "legacy"} {
			t.Run(family+"-"+flavour, func(t *testing.T) {
				program := "/usr/sbin/" + family + "-" + flavour
				output(t, inImage(root, program, "-n", "-L"))
				wantPrintedAsWritten(t, text, restoredIn(t, root, program, text))
			})
		}
	}
	if out := output(t, inImage(root, "/usr/sbin/iptables", "--version")); !strings.Contains(string(out), "nf_tables") {
		t.Errorf("iptables --version: %s; want the nft flavour", out)
	}
}

// restoredIn returns what iptables-save of the image prints after iptables-restore has read text.
// The namespace that both run in ends with the thread.
func restoredIn(t *testing.T, root, program, text string) (printed string) {
	t.Helper()
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // never unlocked, so the thread ends with the goroutine
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			t.Error(err)
			return
		}
		save := program + "-save"
		// Without -t, the legacy flavour reads the names of tables in /proc, which is not there.
		for _, args := range [][]string{{program + "-restore"}, {save, "-t", "mangle"}, {save, "-t", "filter"}, {save, "-t", "nat"}} {
			cmd := inImage(root, args[0], args[1:]...)
			cmd.SysProcAttr.Cloneflags = 0
			cmd.Stdin = strings.NewReader(text)
			out, err := cmd.CombinedOutput()
			if err != nil {
				t.Errorf("%q: %v: %s", args, err, out)
			}
			printed += string(out)
		}
	}()
	<-done
	return printed
}

// wantPrintedAsWritten checks that the proxy does not need a process per kind of rule to confirm its
// rules.
func wantPrintedAsWritten(t *testing.T, written, printed string) {
	t.Helper()
	lines := strings.Split(printed, "\n")
	for line := range strings.Lines(written) {
		if line = strings.TrimSpace(line); strings.HasPrefix(line, "-A ") && !slices.Contains(lines, line) {
			t.Errorf("iptables-save does not print %q, but:\n%s", line, printed)
		}
	}
}

func TestProgramsRunInTheirImagesAndKnowTheirVersion(t *testing.T) {
	needRoot(t)
	for _, p := range product.All {
		program := "/" + p.Name
		if out := output(t, inImage(unpack(t, p.Name+".tar"), program, "--version")); !strings.Contains(string(out), testVersion) {
			t.Errorf("%s --version: %s; want %s", program, out, testVersion)
		}
	}
}

func TestCCMImageHoldsCertificatesAndItsUser(t *testing.T) {
	root := unpack(t, "hostport-ccm.tar")
	for path, want := range map[string]string{
		"etc/ssl/certs/ca-certificates.crt":       "-----BEGIN CERTIFICATE-----",
		"etc/passwd":                              "nonroot:x:65532:65532:",
		"usr/share/doc/ca-certificates/copyright": "MPL-2.0",
	} {
		data, err := os.ReadFile(filepath.Join(root, path))
		if err != nil || !strings.Contains(string(data), want) {
			t.Errorf("%s (%v) does not hold %q", path, err, want)
		}
	}
}

func TestProxyImageHoldsNoShellAndAllLicences(t *testing.T) {
	root := unpack(t, "hostport-nodeproxy.tar")
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		data, err := os.ReadFile(path)
		if bytes.HasPrefix(data, []byte("#!")) {
			t.Errorf("%s is a script, but there is no shell", strings.TrimPrefix(path, root))
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, shell := range []string{"sh", "bash", "dash", "busybox"} {
		if _, err := os.Lstat(filepath.Join(root, "usr/bin", shell)); err == nil {
			t.Errorf("the image holds %s", shell)
		}
	}
	var missing []string
	for _, pkg := range []string{"iptables", "libc6", "libip4tc2", "libip6tc2", "libmnl0", "libnftnl11", "libxtables12"} {
		if _, err := os.Stat(filepath.Join(root, "usr/share/doc", pkg, "copyright")); err != nil {
			missing = append(missing, pkg)
		}
	}
	if diff := cmp.Diff([]string(nil), missing); diff != "" {
		t.Errorf("packages without copyright file (-want +got):\n%s", diff)
	}
}
