package main

import (
	"fmt"
	"strings"
)

// firstNodePort is the Service's first node port.
const firstNodePort = 30000

// service is a Service whose only endpoint is the backend. Port i of it is firstPort+i.
type service struct {
	ports int
	// loadBalancer is true if the node's address is in the status with ipMode VIP.
	loadBalancer bool
	// local is true for externalTrafficPolicy Local.
	local bool
}

// target is where the i-th host port of a pod leads.
type target func(i int) string

// nodeRules returns the input of iptables-restore for a node that serves a Service and, unless target
// is nil, as many host ports. kube-proxy jumps to its chains before portmap does.
func nodeRules(s service, hostPorts target) string {
	nat := lines{
		"*nat",
		"-N KUBE-SERVICES", "-N KUBE-NODEPORTS", "-N KUBE-MARK-MASQ", "-N KUBE-POSTROUTING",
		"-A PREROUTING -j KUBE-SERVICES", "-A POSTROUTING -j KUBE-POSTROUTING",
		"-A KUBE-MARK-MASQ -j MARK --set-xmark 0x4000/0x4000",
		"-A KUBE-POSTROUTING -m mark ! --mark 0x4000/0x4000 -j RETURN",
		"-A KUBE-POSTROUTING -j MARK --set-xmark 0x4000/0x0",
		"-A KUBE-POSTROUTING -j MASQUERADE --random-fully",
	}
	for i := range s.ports {
		nat.add(s.rules(i))
	}
	nat.add(lines{"-A KUBE-SERVICES -m addrtype --dst-type LOCAL -j KUBE-NODEPORTS"})
	if hostPorts != nil {
		nat.add(portmapRules(s.ports, hostPorts))
	}
	nat.add(lines{
		"COMMIT",
		"*filter", "-N KUBE-FORWARD", "-A FORWARD -j KUBE-FORWARD",
		"-A KUBE-FORWARD -m conntrack --ctstate INVALID -j DROP",
		"-A KUBE-FORWARD -m mark --mark 0x4000/0x4000 -j ACCEPT",
		"-A KUBE-FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT",
		"COMMIT",
	})
	return strings.Join(nat, "\n") + "\n"
}

// rules returns kube-proxy's rules, in mode iptables, for the i-th port.
func (s service) rules(i int) lines {
	const pods = "10.0.0.0/14"
	port := firstPort + i
	svc, sep, svl, ext := fmt.Sprintf("KUBE-SVC-%d", i), fmt.Sprintf("KUBE-SEP-%d", i), fmt.Sprintf("KUBE-SVL-%d", i), fmt.Sprintf("KUBE-EXT-%d", i)
	all := lines{
		"-N " + svc, "-N " + sep, "-N " + svl, "-N " + ext,
		fmt.Sprintf("-A KUBE-SERVICES -d %s -p tcp -m tcp --dport %d -j %s", clusterIP, port, svc),
		fmt.Sprintf("-A KUBE-NODEPORTS -p tcp -m tcp --dport %d -j %s", firstNodePort+i, ext),
		fmt.Sprintf("-A %s ! -s %s -d %s -p tcp -m tcp --dport %d -j KUBE-MARK-MASQ", svc, pods, clusterIP, port),
		fmt.Sprintf("-A %s -j %s", svc, sep),
		fmt.Sprintf("-A %s -s %s -j KUBE-MARK-MASQ", sep, backendIP),
		fmt.Sprintf("-A %s -p tcp -m tcp -j DNAT --to-destination %s:%s", sep, backendIP, backendPort),
	}
	if s.loadBalancer {
		all.add(lines{fmt.Sprintf("-A KUBE-SERVICES -d %s -p tcp -m tcp --dport %d -j %s", nodeIP, port, ext)})
	}
	if !s.local {
		all.add(lines{fmt.Sprintf("-A %s -j KUBE-MARK-MASQ", ext), fmt.Sprintf("-A %s -j %s", ext, svc)})
		return all
	}
	all.add(lines{
		fmt.Sprintf("-A %s -s %s -j %s", ext, pods, svc),
		fmt.Sprintf("-A %s -m addrtype --src-type LOCAL -j KUBE-MARK-MASQ", ext),
		fmt.Sprintf("-A %s -m addrtype --src-type LOCAL -j %s", ext, svc),
		fmt.Sprintf("-A %s -j %s", ext, svl),
		fmt.Sprintf("-A %s -j %s", svl, sep),
	})
	return all
}

// portmapRules returns the rules of the CNI plugin portmap, with backend iptables, for a pod's host
// ports from firstPort on. A rule of its entry chain matches at most 15 ports.
func portmapRules(ports int, to target) lines {
	all := lines{
		"-N CNI-HOSTPORT-DNAT", "-N CNI-HOSTPORT-SETMARK", "-N CNI-HOSTPORT-MASQ", "-N CNI-DN-0",
		"-A PREROUTING -m addrtype --dst-type LOCAL -j CNI-HOSTPORT-DNAT",
		"-A POSTROUTING -j CNI-HOSTPORT-MASQ",
		"-A CNI-HOSTPORT-SETMARK -j MARK --set-xmark 0x2000/0x2000",
		"-A CNI-HOSTPORT-MASQ -m mark --mark 0x2000/0x2000 -j MASQUERADE",
	}
	const atMost = 15
	for i := 0; i < ports; i += atMost {
		var list []string
		for port := i; port < min(ports, i+atMost); port++ {
			list = append(list, fmt.Sprint(firstPort+port))
		}
		all.add(lines{"-A CNI-HOSTPORT-DNAT -p tcp -m multiport --dports " + strings.Join(list, ",") + " -j CNI-DN-0"})
	}
	for i := range ports {
		address := to(i)
		pod, _, _ := strings.Cut(address, ":")
		match := fmt.Sprintf("-A CNI-DN-0 -p tcp -m tcp --dport %d ", firstPort+i)
		all.add(lines{
			match + "-s " + pod + "/24 -j CNI-HOSTPORT-SETMARK",
			match + "-s 127.0.0.1 -j CNI-HOSTPORT-SETMARK",
			match + "-j DNAT --to-destination " + address,
		})
	}
	return all
}

type lines []string

func (l *lines) add(more lines) { *l = append(*l, more...) }
