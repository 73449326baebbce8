#!/usr/bin/env bash
# What: an open TCP connection through DNAT when rules are deleted, on Linux 6.18 with nftables 1.0.6.
#
# It is well known that connections outlive the deletion of their DNAT rule, as connection tracking remembers the
# translation. That holds while the network namespace has two other things: a rule that needs tracking (ct, NAT),
# as the kernel tracks packets of a namespace only then, and a base chain of type nat in the same hook, from
# which it translates tracked packets. When the last of either is deleted, packets of open connections arrive
# untranslated, the node itself answers them with a reset, and the connections end, although the table of
# conntrack still lists them as established. Loading the same rules a second later is too late.
#
# Who meets it: whoever reloads a node's firewall by `nft flush ruleset` (Debian's nftables.service does) under
# node ports, host ports or load balancers. hostport-ccm says so in docs/explanation/reachability.md, and
# TestChaos lets connections of all datapaths end then.
#
# Needs root, iproute2, python3 and the Debian package nftables. Exits non-zero if the behaviour changes.
set -euo pipefail
for package in nftables iproute2 python3; do
	dpkg -s "$package" >/dev/null 2>&1 || apt-get install -y --no-install-recommends "$package" >/dev/null
done
export PATH=$PATH:/usr/sbin:/sbin
id=finding$$
trap 'for host in client node server; do ip netns del $id-$host 2>/dev/null || true; done' EXIT
for host in client node server; do
	ip netns add $id-$host
	ip -n $id-$host link set lo up
done
link() { # HOST ADDRESS NODE-ADDRESS
	ip -n $id-node link add "$1" type veth peer name eth0 netns $id-"$1"
	ip -n $id-node addr add "$3/24" dev "$1"
	ip -n $id-node link set "$1" up
	ip -n $id-"$1" addr add "$2/24" dev eth0
	ip -n $id-"$1" link set eth0 up
	ip -n $id-"$1" route add default via "$3"
}
link client 192.0.2.2 192.0.2.1
link server 198.51.100.2 198.51.100.1
ip netns exec $id-node sh -c 'echo 1 >/proc/sys/net/ipv4/ip_forward'

# lives WHAT COMMAND prints whether a connection through the node answers after a command there.
lives() {
	ip netns exec $id-node nft -f - <<-NFT
		table ip nat { chain prerouting { type nat hook prerouting priority dstnat; tcp dport 80 dnat to 198.51.100.2:8080; }; }
	NFT
	result=$(ID=$id COMMAND="$2" python3 - <<-'PYTHON'
		import ctypes, os, socket, subprocess, threading

		def enter(host):
		    with open(f"/run/netns/{os.environ['ID']}-{host}") as ns:
		        assert ctypes.CDLL(None).setns(ns.fileno(), 0) == 0
		def serve(listener):
		    conn, _ = listener.accept()
		    while data := conn.recv(100): conn.sendall(data)
		enter("server")
		listener = socket.create_server(("198.51.100.2", 8080))
		threading.Thread(target=serve, args=(listener,), daemon=True).start()
		enter("client")
		conn = socket.create_connection(("192.0.2.1", 80), timeout=5)
		conn.sendall(b"before")
		assert conn.recv(100) == b"before"
		subprocess.run(["ip", "netns", "exec", os.environ["ID"] + "-node", "sh", "-c", os.environ["COMMAND"]], check=True)
		try:
		    conn.sendall(b"after")
		    print("answers" if conn.recv(100) == b"after" else "closed")
		except OSError as err:
		    print("ends:", err.strerror or err)
	PYTHON
	)
	ip netns exec $id-node nft flush ruleset
	echo "$1: the connection $result"
	case $result in "$3"*) ;; *) echo "changed: want $3"; exit 1 ;; esac
}
other="add table ip other; add chain ip other filter { type filter hook prerouting priority 0; }; add rule ip other filter"
nat="add table ip other; add chain ip other prerouting { type nat hook prerouting priority -90; }"
lives "the rule is deleted, another rule needs tracking" "nft '$other ct state established counter'; nft flush chain ip nat prerouting" "answers"
lives "the rule is deleted, another rule needs none" "nft '$other counter'; nft flush chain ip nat prerouting" "ends: Connection reset by peer"
lives "the table is deleted, another rule needs tracking" "nft '$other ct state established counter'; nft delete table ip nat" "ends: Connection reset by peer"
lives "the table is deleted, another has a chain of type nat and a rule that needs tracking" \
	"nft '$nat; $other ct state established counter'; nft delete table ip nat" "answers"
# Seen: answers, ends, ends, answers; the ends by "Connection reset by peer".
