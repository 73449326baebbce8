package edge

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netns"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/hostport-ccm/hostport-ccm/test/gcesim"
)

// world is an internet host, a gateway and two VMs, each in a network namespace.
type world struct {
	prefix string
	hosts  []string
}

const (
	client    = "198.51.100.2"
	externalA = "203.0.113.11"
	externalB = "203.0.113.12"
	internalA = "10.142.0.11"
	internalB = "10.142.0.12"

	client6   = "2001:db8:51:100::2"
	external6 = "2001:db8:142:0:11::"
	// unknown6 is in the VPC, but Compute Engine has not assigned it to a VM.
	unknown6 = "2001:db8:142:0:12::"
)

func TestPacketsAreFilteredAndTranslatedAsByComputeEngine(t *testing.T) {
	w := newWorld(t)
	atOnce := gcesim.Settings{OperationLatency: &metav1.Duration{}}
	sim, err := gcesim.New(gcesim.Config{
		Settings:  atOnce,
		Instances: []gcesim.Instance{machine("a", internalA, externalA), machine("b", internalB, externalB)},
	}, nil, w.edge(t))
	if err != nil {
		t.Fatal(err)
	}
	for _, port := range []string{":80", ":81"} {
		w.echo(t, "a", internalA+port)
	}
	w.echo(t, "net", client+":7")

	w.check(t, "no rule", "net", externalA+":80", "")
	send(t, sim, "POST", "", `{"name":"web","allowed":[{"IPProtocol":"tcp","ports":["80"]}],"targetTags":["node"]}`)
	w.check(t, "open to all", "net", externalA+":80", client)
	w.check(t, "another port", "net", externalA+":81", "")
	w.check(t, "past the translation", "net", internalA+":80", "")
	w.check(t, "out to the internet", "b", client+":7", externalB)
	w.check(t, "between VMs on external addresses", "b", externalA+":80", externalB)
	w.check(t, "between VMs on external addresses, another port", "b", externalA+":81", "")
	w.check(t, "between VMs on internal addresses", "b", internalA+":81", internalB)

	send(t, sim, "PATCH", "/web", `{"sourceRanges":["`+externalB+`"]}`)
	w.check(t, "only the other VM allowed", "net", externalA+":80", "")
	w.check(t, "the VM has its external address as source", "b", externalA+":80", externalB)

	send(t, sim, "PATCH", "/web", `{"sourceRanges":["198.51.100.0/24"]}`)
	w.check(t, "the client's range allowed", "net", externalA+":80", client)
	send(t, sim, "POST", "", `{"name":"no","denied":[{"IPProtocol":"all"}],"sourceRanges":["198.51.100.2/32"]}`)
	w.check(t, "deny wins a tie", "net", externalA+":80", "")
	send(t, sim, "DELETE", "/no", "")

	send(t, sim, "PATCH", "/web", `{"sourceRanges":["0.0.0.0/0"]}`)
	w.checkDestinations(t, sim)
	w.checkAddressChange(t, sim)
}

// checkDestinations checks that a rule that allows has to name both addresses of a VM, and that for
// one that denies one is enough.
func (w *world) checkDestinations(t *testing.T, sim *gcesim.Sim) {
	t.Helper()
	for _, c := range []struct{ what, destinations, want string }{
		{"only the internal address", `"` + internalA + `"`, ""},
		{"only the external address", `"` + externalA + `/32"`, ""},
		{"the addresses of another VM", `"` + internalB + `","` + externalB + `"`, ""},
		{"both addresses", `"` + internalA + `/32","` + externalA + `/32"`, client},
		{"ranges with both addresses", `"10.0.0.0/8","203.0.113.0/24"`, client},
	} {
		send(t, sim, "PATCH", "/web", `{"destinationRanges":[`+c.destinations+`]}`)
		w.check(t, c.what, "net", externalA+":80", c.want)
	}
	for _, c := range []struct{ what, destination, want string }{
		{"the internal address denied", internalA, ""},
		{"the external address denied", externalA, ""},
		{"another VM denied", externalB, client},
	} {
		send(t, sim, "POST", "", `{"name":"no","denied":[{"IPProtocol":"all"}],"destinationRanges":["`+c.destination+`"]}`)
		w.check(t, c.what, "net", externalA+":80", c.want)
		send(t, sim, "DELETE", "/no", "")
	}
	send(t, sim, "PATCH", "/web", `{"destinationRanges":null}`)
}

func TestIPv6PacketsAreFilteredAndNotTranslated(t *testing.T) {
	w := newWorld(t)
	w.addIPv6(t)
	a := machine("a", internalA, externalA)
	a.ExternalIPv6 = external6
	sim, err := gcesim.New(gcesim.Config{
		Settings:  gcesim.Settings{OperationLatency: &metav1.Duration{}},
		Instances: []gcesim.Instance{a, machine("b", internalB, externalB)},
	}, nil, w.edge(t))
	if err != nil {
		t.Fatal(err)
	}
	const served, other, answers = "[" + external6 + "]:80", "[" + external6 + "]:81", "[" + client6 + "]:7"
	for _, address := range []string{served, other} {
		w.echo(t, "a", address)
	}
	w.echo(t, "net", answers)

	w.check(t, "no rule", "net", served, "")
	send(t, sim, "POST", "", `{"name":"four","allowed":[{"IPProtocol":"tcp"}]}`)
	w.check(t, "a rule for IPv4", "net", served, "")
	send(t, sim, "POST", "", `{"name":"web","allowed":[{"IPProtocol":"tcp","ports":["80"]}],"targetTags":["node"],"sourceRanges":["::/0"]}`)
	w.check(t, "open to all", "net", served, client6)
	w.check(t, "another port", "net", other, "")
	w.check(t, "out to the internet", "a", answers, external6)
	w.check(t, "out to the internet without an external address", "b", answers, "")

	send(t, sim, "PATCH", "/web", `{"sourceRanges":["2001:db8:51:100::3/128"]}`)
	w.check(t, "another client allowed", "net", served, "")
	send(t, sim, "PATCH", "/web", `{"sourceRanges":["2001:db8:51:100::/64"]}`)
	w.check(t, "the client's range allowed", "net", served, client6)
	send(t, sim, "PATCH", "/web", `{"destinationRanges":["`+unknown6+`/128"]}`)
	w.check(t, "another destination", "net", served, "")
	send(t, sim, "PATCH", "/web", `{"destinationRanges":["`+external6+`/128"]}`)
	w.check(t, "the VM's address", "net", served, client6)
	send(t, sim, "DELETE", "/web", "")
	w.check(t, "closed again", "net", served, "")
}

// checkAddressChange gives a VM another external address while a connection is open.
func (w *world) checkAddressChange(t *testing.T, sim *gcesim.Sim) {
	t.Helper()
	const moved = "203.0.113.99"
	conn, err := w.dial("net", externalA+":80")
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if seen, err := ask(conn); err != nil || seen != client {
		t.Fatalf("before the change: %q, %v", seen, err)
	}
	if err := sim.UpdateInstance("z-a", "a", func(in *gcesim.Instance) { in.NatIP = moved }); err != nil {
		t.Fatal(err)
	}
	if _, err := ask(conn); err == nil {
		t.Error("a connection to the removed address still works")
	}
	w.check(t, "the old address", "net", externalA+":80", "")
	w.check(t, "the new address", "net", moved+":80", client)

	if err := sim.UpdateInstance("z-a", "b", func(in *gcesim.Instance) { in.NatIP = "" }); err != nil {
		t.Fatal(err)
	}
	w.check(t, "a VM without external address", "b", client+":7", "")
	w.check(t, "a VM without external address to another's", "b", moved+":80", "")
}

func newWorld(t *testing.T) *world {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("real packets need network namespaces, which need root")
	}
	w := &world{prefix: fmt.Sprintf("gcesim%d", os.Getpid())}
	t.Cleanup(func() {
		for _, host := range w.hosts {
			if out, err := exec.Command("ip", "netns", "delete", w.name(host)).CombinedOutput(); err != nil {
				t.Errorf("deleting namespace of %s: %v: %s", host, err, out)
			}
		}
	})
	for _, host := range []string{"net", "gw", "a", "b"} {
		w.ip(t, "netns", "add", w.name(host))
		w.hosts = append(w.hosts, host)
		// Without duplicate address detection an IPv6 address is usable at once.
		if err := w.on(host, func() error { return writeSysctl("ipv6/conf/default/accept_dad", "0") }); err != nil {
			t.Fatal(err)
		}
		w.ip(t, "-n", w.name(host), "link", "set", "lo", "up")
	}
	w.ip(t, "-n", w.name("gw"), "link", "add", "vpc", "type", "bridge")
	w.ip(t, "-n", w.name("gw"), "address", "add", "10.142.0.1/24", "dev", "vpc")
	w.ip(t, "-n", w.name("gw"), "link", "set", "vpc", "up")
	w.connect(t, "net", client+"/24", "198.51.100.1", "inet")
	w.ip(t, "-n", w.name("gw"), "address", "add", "198.51.100.1/24", "dev", "inet")
	w.connect(t, "a", internalA+"/24", "10.142.0.1", "porta")
	w.connect(t, "b", internalB+"/24", "10.142.0.1", "portb")
	for _, port := range []string{"porta", "portb"} {
		w.ip(t, "-n", w.name("gw"), "link", "set", port, "master", "vpc")
	}
	return w
}

// addIPv6 adds an IPv6 address to each host.
func (w *world) addIPv6(t *testing.T) {
	t.Helper()
	const gateway, vpcGateway = "2001:db8:51:100::1", "2001:db8:142::1"
	for _, at := range []struct{ host, device, address, via string }{
		{"gw", "inet", gateway, ""},
		{"gw", "vpc", vpcGateway, ""},
		{"net", "eth0", client6, gateway},
		{"a", "eth0", external6, vpcGateway},
		{"b", "eth0", unknown6, vpcGateway},
	} {
		w.ip(t, "-n", w.name(at.host), "address", "add", at.address+"/64", "dev", at.device)
		if at.via != "" {
			w.ip(t, "-n", w.name(at.host), "route", "add", "default", "via", at.via)
		}
	}
}

func (w *world) name(host string) string { return w.prefix + host }

func (w *world) ip(t *testing.T, args ...string) {
	t.Helper()
	if out, err := exec.Command("ip", args...).CombinedOutput(); err != nil {
		t.Fatalf("ip %s: %v: %s", strings.Join(args, " "), err, out)
	}
}

// connect links a host to the gateway, with a default route.
func (w *world) connect(t *testing.T, host, address, gateway, port string) {
	t.Helper()
	w.ip(t, "-n", w.name("gw"), "link", "add", port, "type", "veth", "peer", "name", "eth0", "netns", w.name(host))
	w.ip(t, "-n", w.name("gw"), "link", "set", port, "up")
	w.ip(t, "-n", w.name(host), "address", "add", address, "dev", "eth0")
	w.ip(t, "-n", w.name(host), "link", "set", "eth0", "up")
	w.ip(t, "-n", w.name(host), "route", "add", "default", "via", gateway)
}

// on runs f in a host's network namespace, on a thread that ends afterwards.
func (w *world) on(host string, f func() error) error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread()
		ns, err := netns.GetFromName(w.name(host))
		if err == nil {
			defer ns.Close()
			err = netns.Set(ns)
		}
		if err != nil {
			done <- err
			return
		}
		done <- f()
	}()
	return <-done
}

func machine(name, internal, external string) gcesim.Instance {
	return gcesim.Instance{Name: name, Zone: "z-a", Tags: []string{"node"}, Interface: gcesim.Interface{NetworkIP: internal, NatIP: external}}
}

// edge returns a function that enforces snapshots on the gateway.
func (w *world) edge(t *testing.T) func(gcesim.Snapshot) {
	t.Helper()
	var enforcer *Enforcer
	err := w.on("gw", func() (err error) {
		enforcer, err = NewEnforcer(Config{Internet: "inet", VPC: "vpc"})
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return func(snapshot gcesim.Snapshot) {
		if err := w.on("gw", func() error { return enforcer.Apply(snapshot) }); err != nil {
			t.Error(err)
		}
	}
}

// echo starts a server on a host that sends to each client the address that it sees as the
// client's.
func (w *world) echo(t *testing.T, host, address string) {
	t.Helper()
	err := w.on(host, func() error {
		listener, err := net.Listen("tcp", address)
		if err != nil {
			return err
		}
		t.Cleanup(func() { listener.Close() })
		go func() {
			for {
				conn, err := listener.Accept()
				if err != nil {
					return
				}
				go answer(conn)
			}
		}()
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// answer sends the client's address for every byte received.
func answer(conn net.Conn) {
	defer conn.Close()
	seen, _, _ := net.SplitHostPort(conn.RemoteAddr().String())
	for {
		if _, err := io.ReadFull(conn, make([]byte, 1)); err != nil {
			return
		}
		fmt.Fprintln(conn, seen)
	}
}

func (w *world) check(t *testing.T, what, from, address, want string) {
	t.Helper()
	if got := w.seenBy(t, from, address); got != want {
		t.Errorf("%s: from %s to %s the server saw %q, want %q (empty: no connection)", what, from, address, got, want)
	}
}

// seenBy returns the client's address as a server sees it on a new connection; "" if there is none.
func (w *world) seenBy(t *testing.T, from, address string) string {
	t.Helper()
	conn, err := w.dial(from, address)
	if err != nil {
		return ""
	}
	defer conn.Close()
	seen, err := ask(conn)
	if err != nil {
		return ""
	}
	return seen
}

// ask sends a byte and returns the reply.
func ask(conn net.Conn) (string, error) {
	if err := conn.SetDeadline(time.Now().Add(400 * time.Millisecond)); err != nil {
		return "", err
	}
	if _, err := conn.Write([]byte{'?'}); err != nil {
		return "", err
	}
	line := make([]byte, 0, 64)
	for !bytes.HasSuffix(line, []byte("\n")) {
		one := make([]byte, 1)
		if _, err := conn.Read(one); err != nil {
			return "", err
		}
		line = append(line, one...)
	}
	return strings.TrimSpace(string(line)), nil
}

// dial opens a connection from a host.
func (w *world) dial(host, address string) (conn net.Conn, err error) {
	err = w.on(host, func() (err error) {
		conn, err = net.DialTimeout("tcp", address, 400*time.Millisecond)
		return err
	})
	return conn, err
}

// send sends a request to the Compute API, and fails the test unless it is accepted.
func send(t *testing.T, sim *gcesim.Sim, method, path, body string) {
	t.Helper()
	if err := request(sim, method, path, body); err != nil {
		t.Fatal(err)
	}
}

func request(sim *gcesim.Sim, method, path, body string) error {
	r, err := http.NewRequest(method, "http://sim/compute/v1/projects/sandbox/global/firewalls"+path, strings.NewReader(body))
	if err != nil {
		return err
	}
	reply, err := sim.Client().Do(r)
	if err != nil {
		return err
	}
	text, err := io.ReadAll(reply.Body)
	if reply.StatusCode != 200 {
		err = errors.Join(err, fmt.Errorf("%s %s: %s", method, path, text))
	}
	return err
}
