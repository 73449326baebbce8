package kernel

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"strings"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/hostport-ccm/hostport-ccm/nodeproxy/config"
)

// Addresses returns the addresses of all interfaces that are up, except loopback
// and link-local ones.
func (k *Kernel) Addresses() ([]netip.Addr, error) {
	links, err := links()
	if err != nil {
		return nil, err
	}
	var out []netip.Addr
	for _, link := range links {
		addrs, err := link.Addrs()
		if err != nil {
			return nil, fmt.Errorf("listing the addresses of interface %s: %w", link.Name, err)
		}
		for _, addr := range addrs {
			prefix, err := netip.ParsePrefix(addr.String())
			if err == nil && prefix.Addr().IsGlobalUnicast() {
				out = append(out, prefix.Addr().Unmap())
			}
		}
	}
	return out, nil
}

// Forward switches IPv4 forwarding on per interface, and returns the interfaces
// where it was off. For IPv6 it only checks forwarding, which needs privilege to
// be switched on.
func (k *Kernel) Forward(family config.Family) ([]string, error) {
	if family == config.IPv6 {
		return nil, checkIPv6()
	}
	links, err := links()
	if err != nil {
		return nil, err
	}
	var changed []string
	for _, link := range links {
		did, err := forwardIPv4(link)
		if err != nil {
			return changed, fmt.Errorf("switching IPv4 forwarding on for interface %s: %w", link.Name, err)
		}
		if did {
			changed = append(changed, link.Name)
		}
	}
	return changed, nil
}

// links returns the interfaces that are up, without loopback.
func links() ([]net.Interface, error) {
	all, err := net.Interfaces()
	if err != nil {
		return nil, fmt.Errorf("listing the pod's interfaces: %w", err)
	}
	var out []net.Interface
	for _, link := range all {
		if link.Flags&net.FlagUp != 0 && link.Flags&net.FlagLoopback == 0 {
			out = append(out, link)
		}
	}
	return out, nil
}

// Attributes of RTM_SETLINK that package nl does not name: IFLA_AF_SPEC ›
// AF_INET › IFLA_INET_CONF › IPV4_DEVCONF_FORWARDING (uapi/linux/if_link.h and
// uapi/linux/ip.h). They need only NET_ADMIN in the namespace, whereas /proc/sys
// is read-only in a container without privilege.
const (
	iflaAfSpec            = 26
	iflaInetConf          = 1
	ipv4DevconfForwarding = 1
)

func forwardIPv4(link net.Interface) (changed bool, err error) {
	sysctl := "/proc/sys/net/ipv4/conf/" + link.Name + "/forwarding"
	if on, err := isOn(sysctl); on || err != nil {
		return false, err
	}
	request := nl.NewNetlinkRequest(unix.RTM_SETLINK, unix.NLM_F_ACK)
	header := nl.NewIfInfomsg(unix.AF_UNSPEC)
	header.Index = int32(link.Index)
	request.AddData(header)
	spec := nl.NewRtAttr(iflaAfSpec, nil)
	spec.AddRtAttr(unix.AF_INET, nil).AddRtAttr(iflaInetConf, nil).AddRtAttr(ipv4DevconfForwarding, nl.Uint32Attr(1))
	request.AddData(spec)
	_, err = request.Execute(unix.NETLINK_ROUTE, 0)
	if errors.Is(err, unix.EPERM) {
		err = fmt.Errorf("%w; give the container the capability NET_ADMIN", err)
	}
	if err != nil {
		return false, err
	}
	on, err := isOn(sysctl)
	if err == nil && !on {
		err = fmt.Errorf("the kernel accepted the request, but %s is still 0; set the sysctl net.ipv4.ip_forward=1 in the pod's securityContext", sysctl)
	}
	return true, err
}

// forwardingIPv6 is the setting that IPv6 forwarding depends on. Unlike with
// IPv4, an interface's own setting does not make it forward.
const forwardingIPv6 = "/proc/sys/net/ipv6/conf/all/forwarding"

func checkIPv6() error {
	on, err := isOn(forwardingIPv6)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return errors.New("the Service has an IPv6 cluster IP, but this kernel or pod has no IPv6; remove IPv6 from the Service's ipFamilies")
	case err == nil && !on:
		return errors.New("the Service has an IPv6 cluster IP, but IPv6 forwarding is off in this pod and cannot be switched on without privilege; " +
			"let the init container that sets net.ipv6.conf.all.forwarding=1 run, or remove IPv6 from the Service's ipFamilies")
	}
	return err
}

// ForwardIPv6 switches IPv6 forwarding on in this network namespace if it is
// off. This needs a writable /proc/sys, as a privileged container has, or one
// with procMount Unmasked in a user namespace.
func ForwardIPv6() error {
	on, err := isOn(forwardingIPv6)
	if err == nil && !on {
		err = os.WriteFile(forwardingIPv6, []byte("1"), 0)
	}
	if err != nil {
		return fmt.Errorf("switching IPv6 forwarding on: %w", err)
	}
	return nil
}

func isOn(path string) (bool, error) {
	data, err := os.ReadFile(path)
	return strings.TrimSpace(string(data)) == "1", err
}
