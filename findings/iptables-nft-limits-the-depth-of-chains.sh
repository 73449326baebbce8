#!/usr/bin/env bash
# What: iptables 1.8.9 of Debian 12, iptables-restore of both flavours, on Linux 6.18.
#
# A rule set that the flavour legacy accepts may be refused by the flavour nft, because a chain is
# reached through too many others: 15 user-defined chains below a built-in one are accepted, and the
# 16th is not. nf_tables has room for 16 return addresses for a packet (NFT_JUMP_STACK_SIZE in
# include/net/netfilter/nf_tables.h) and checks the depth of all chains whenever rules change. It counts
# a goto (-g) as it counts a jump (-j), although no packet returns from a goto. x_tables sizes its stack
# by the rule set, so legacy has no such limit. The message says "Too many links" about the last rules of the path.
#
# Who meets it: whoever orders many rules as a tree of chains, so that a packet passes few of them, and
# tests with one flavour. hostport-nodeproxy splits source ranges so that no path is that long:
# nodeproxy/rules/tree.go, TestTheRulesThatAPacketPassesGrowWithTheLogarithmOfPortsAndRanges.
#
# Needs root, util-linux and the Debian package iptables. Exits non-zero if the behaviour changes.
set -euo pipefail
dpkg -s iptables >/dev/null 2>&1 || apt-get install -y --no-install-recommends iptables >/dev/null

# rules DEPTH VERB prints a rule set with DEPTH chains, one below the other.
rules() {
	echo "*filter"
	for i in $(seq "$1"); do echo ":C$i - [0:0]"; done
	echo "-A FORWARD -j C1"
	for i in $(seq $(($1 - 1))); do echo "-A C$i $2 C$((i + 1))"; done
	printf '%s\n' "-A C$1 -j ACCEPT" COMMIT
}

try() { # FLAVOUR DEPTH VERB WANT
	got=accepted
	error=$(rules "$2" "$3" | unshare --net "iptables-$1-restore" 2>&1) || got=refused
	echo "$1, $2 chains, $3: $got" $error
	[ "$got" = "$4" ] || { echo "changed: want $4"; exit 1; }
}

for verb in -j -g; do
	try legacy 200 "$verb" accepted
	try nft 15 "$verb" accepted
	try nft 16 "$verb" refused
done
# Seen: with 16 chains, "RULE_APPEND failed (Too many links): rule in chain C15", and the same of C16.
echo "as seen with iptables 1.8.9 and Linux 6.18"
