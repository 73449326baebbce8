#!/usr/bin/env bash
# What: kube-proxy of Kubernetes 1.36.3 in mode nftables, beside host ports that the CNI plugin portmap
# programs through iptables (1.8.9, nft and legacy), on Linux 6.18 with nftables 1.0.6.
#
# Both translate packets to a node's ports in base chains of type nat with the same hook and the same
# priority, -100. Among such chains, the kernel asks the one that was registered last first. On a node
# that boots, kube-proxy usually comes before the first host port, so host ports win. But kube-proxy
# deletes and adds its base chains whenever it starts (setupNFTables in pkg/proxy/nftables/proxier.go,
# so that their properties may change). So a restart of kube-proxy reverses the order: node ports,
# externalIPs and load balancer addresses win from then on against every host port, of pods that run
# and of later ones, as the table of iptables stays registered. In mode iptables the order of
# the rules is one of rules in a chain and survives a restart.
#
# Who meets it: whoever has a host port and an external IP or node port of the same number on a node,
# and authors of load balancers on host ports. hostport-ccm treats such a port as kube-proxy's in every
# mode: provider/ports.go, TestAPortOfKubeProxyIsNotServed.
#
# Needs root, util-linux, and the Debian packages iptables, nftables, iproute2 and netcat-openbsd. It
# shows the kernel's order with chains as both programs make them. Exits non-zero if it changes.
set -euo pipefail
for package in iptables nftables iproute2 netcat-openbsd; do
	dpkg -s "$package" >/dev/null 2>&1 || apt-get install -y --no-install-recommends "$package" >/dev/null
done

scenario() {
	unshare --net env PROGRAM="$1" bash -euo pipefail -c '
		start_kube_proxy() {
			nft -f - <<-NFT
				add table ip kube-proxy
				add chain ip kube-proxy nat-output
				delete chain ip kube-proxy nat-output
				add chain ip kube-proxy nat-output { type nat hook output priority -100; }
				add rule ip kube-proxy nat-output tcp dport 8080 counter dnat to 127.0.0.1:9001
			NFT
		}
		seen_by_kube_proxy() { nft list chain ip kube-proxy nat-output | sed -nE "s/.*packets ([0-9]+).*/\1/p"; }
		first() {
			before=$(seen_by_kube_proxy)
			nc -z -w 1 127.0.0.2 8080 || true
			[ "$(seen_by_kube_proxy)" = "$before" ] && echo "host port" || echo "kube-proxy"
		}
		want() {
			got=$(first)
			echo "$PROGRAM, $1: $got"
			[ "$got" = "$2" ] || { echo "changed: want $2"; exit 1; }
		}
		ip link set lo up
		start_kube_proxy
		$PROGRAM -t nat -A OUTPUT -p tcp --dport 8080 -j DNAT --to-destination 127.0.0.1:9002
		want "kube-proxy was first" "host port"
		start_kube_proxy
		want "kube-proxy was restarted" "kube-proxy"
		$PROGRAM -t nat -D OUTPUT 1
		$PROGRAM -t nat -A OUTPUT -p tcp --dport 8080 -j DNAT --to-destination 127.0.0.1:9002
		want "the host port was made again" "kube-proxy"
	'
}
scenario iptables-nft
scenario iptables-legacy
# Seen, for both programs: host port, kube-proxy, kube-proxy.
echo "as seen with Linux 6.18, nftables 1.0.6, iptables 1.8.9"
