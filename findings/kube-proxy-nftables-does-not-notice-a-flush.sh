#!/usr/bin/env bash
# What: kube-proxy of Kubernetes 1.37.2 after all rules of its node were deleted, in modes iptables and
# nftables, on Linux 6.18 with nftables 1.0.6 and iptables 1.8.9.
#
# In mode iptables, kube-proxy keeps chains named KUBE-PROXY-CANARY, looks for one every syncPeriod (30 s by
# default), and writes all its rules again when it is gone. Mode nftables has nothing like it: nothing
# is written until a Service, an endpoint or the node changes, or an hour has passed since the last full
# sync (FullSyncPeriod). The sync that a change causes is a partial one, which fails, because its chains are
# gone; the full one comes syncPeriod later. (pkg/proxy/nftables/proxier.go, pkg/proxy/runner.)
# On a node where nothing changes, no cluster IP and no load balancer's address works for an hour.
#
# Who meets it: `nft flush ruleset` is the first line of Debian's /etc/nftables.conf, so it is a restart of
# nftables.service, and of many firewall scripts. hostport-ccm with datapath direct keeps publishing the
# node: docs/explanation/reachability.md.
#
# Needs root, Go, python3, util-linux, iproute2 and the Debian packages iptables, nftables and conntrack. Takes
# some minutes to build kube-proxy, and three to run. A small server in place of the API server serves one Service.
# Exits non-zero if the behaviour changes.
set -euo pipefail
VERSION=v1.37.2
for package in iptables nftables conntrack iproute2 python3; do
	dpkg -s "$package" >/dev/null 2>&1 || apt-get install -y --no-install-recommends "$package" >/dev/null
done
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
export PATH=$PATH:/usr/sbin:/sbin

build() {
	cd "$dir"
	mod=$(go mod download -json "k8s.io/kubernetes@$VERSION" | python3 -c 'import json, sys; print(json.load(sys.stdin)["GoMod"])')
	{
		printf 'module finding\n\ngo 1.26.0\n\nrequire k8s.io/kubernetes %s\n\ntool k8s.io/kubernetes/cmd/kube-proxy\n' "$VERSION"
		# Kubernetes replaces its own modules by folders that its module zip does not hold.
		sed -nE "s#^\s*(\S+) => ./staging/src/.*#replace \1 => \1 v0.${VERSION#v1.}#p" "$mod"
	} >go.mod
	go mod tidy >/dev/null 2>&1
	CGO_ENABLED=0 go build -mod=mod -trimpath -gcflags=all=-dwarf=false -ldflags='-s -w' -o kube-proxy k8s.io/kubernetes/cmd/kube-proxy
}

cat >"$dir/api.py" <<'PYTHON'
import http.server, json, queue, sys, threading
from urllib.parse import parse_qs, urlsplit

def service(name, ip):
    return {"apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": "default", "uid": name, "resourceVersion": "2"},
            "spec": {"type": "ClusterIP", "clusterIP": ip, "clusterIPs": [ip], "ipFamilies": ["IPv4"], "ipFamilyPolicy": "SingleStack", "internalTrafficPolicy": "Cluster",
                     "ports": [{"name": "http", "port": 80, "protocol": "TCP", "targetPort": 80}]}}

node = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": "node", "uid": "node", "resourceVersion": "1"}, "spec": {"podCIDR": "10.244.0.0/24", "podCIDRs": ["10.244.0.0/24"]},
        "status": {"addresses": [{"type": "InternalIP", "address": "10.0.0.1"}]}}
lists = {"/api/v1/services": ("v1", "ServiceList", [service("web", "10.96.0.10")]), "/api/v1/nodes": ("v1", "NodeList", [node]),
         "/apis/discovery.k8s.io/v1/endpointslices": ("discovery.k8s.io/v1", "EndpointSliceList", []),
         "/apis/networking.k8s.io/v1/servicecidrs": ("networking.k8s.io/v1", "ServiceCIDRList", [])}

class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def log_message(self, *args): pass
    def reply(self, code, value):
        data = json.dumps(value).encode()
        self.send_response(code); self.send_header("Content-Type", "application/json"); self.send_header("Content-Length", str(len(data))); self.end_headers()
        self.wfile.write(data)
    def do_POST(self):
        if self.path == "/change":
            events.put({"type": "ADDED", "object": service("other", "10.96.0.20")})
        self.reply(200, {})
    def do_GET(self):
        url = urlsplit(self.path)
        if url.path == "/api/v1/nodes/node": return self.reply(200, node)
        if url.path not in lists: return self.reply(404, {"apiVersion": "v1", "kind": "Status", "status": "Failure", "reason": "NotFound", "code": 404})
        version, kind, items = lists[url.path]
        if "watch" not in parse_qs(url.query):
            return self.reply(200, {"apiVersion": version, "kind": kind, "metadata": {"resourceVersion": "1"}, "items": items})
        self.send_response(200); self.send_header("Content-Type", "application/json"); self.send_header("Connection", "close"); self.end_headers()
        send = lambda event: (self.wfile.write(json.dumps(event).encode() + b"\n"), self.wfile.flush())
        if "sendInitialEvents" in parse_qs(url.query):
            for item in items: send({"type": "ADDED", "object": item})
            send({"type": "BOOKMARK", "object": {"apiVersion": version, "kind": kind.removesuffix("List"), "metadata": {"resourceVersion": "1", "annotations": {"k8s.io/initial-events-end": "true"}}}})
        event = events.get() if url.path == "/api/v1/services" else threading.Event().wait()
        send(event)
        threading.Event().wait()

events = queue.Queue()
server = http.server.ThreadingHTTPServer(("127.0.0.1", 8001), Handler)
server.daemon_threads = True
server.serve_forever()
PYTHON

# scenario MODE prints how many seconds after the flush the cluster IP was back, without a change and, if it
# was not back after a minute, after one.
scenario() {
	unshare --net --mount --pid --fork --kill-child --mount-proc env MODE="$1" DIR="$dir" bash -euo pipefail -c '
		ip link set lo up
		ip link add eth0 type veth peer name peer0 && ip link set peer0 up && ip addr add 10.0.0.1/24 dev eth0 && ip link set eth0 up
		cat >"$DIR/kubeconfig" <<-YAML
			apiVersion: v1
			kind: Config
			clusters: [{name: c, cluster: {server: "http://127.0.0.1:8001"}}]
			contexts: [{name: c, context: {cluster: c, user: ""}}]
			current-context: c
		YAML
		cat >"$DIR/config" <<-YAML
			apiVersion: kubeproxy.config.k8s.io/v1alpha1
			kind: KubeProxyConfiguration
			mode: $MODE
			hostnameOverride: node
			clientConnection: {kubeconfig: "$DIR/kubeconfig", contentType: application/json}
			clusterCIDR: 10.244.0.0/16
			conntrack: {maxPerCore: 0, min: 0, tcpEstablishedTimeout: 0s, tcpCloseWaitTimeout: 0s}
		YAML
		python3 "$DIR/api.py" & 
		sleep 1
		"$DIR/kube-proxy" --config "$DIR/config" >"$DIR/log" 2>&1 &
		present() { nft list ruleset 2>/dev/null | grep -q "10\.96\.0\.10"; }
		after() { # seconds until the rules are there, at most $1
			for ((i = 0; i < $1; i++)); do
				if present; then echo "$i"; return; fi
				sleep 1
			done
			echo never
		}
		started=$(after 30)
		[ "$started" != never ] || { echo "kube-proxy wrote no rules:"; tail -5 "$DIR/log"; exit 1; }
		sleep 5
		nft flush ruleset
		idle=$(after 75)
		changed=-
		if [ "$idle" = never ]; then
			python3 -c "import urllib.request; urllib.request.urlopen(urllib.request.Request(\"http://127.0.0.1:8001/change\", method=\"POST\"))"
			changed=$(after 75)
		fi
		echo "$MODE: $idle $changed"
	'
}

(build)
iptables=$(scenario iptables)
nftables=$(scenario nftables)
echo "seconds after the flush, without a change and after one:"
echo "$iptables"
echo "$nftables"
read -r _ idle _ <<<"$iptables"
[ "$idle" != never ] || { echo "changed: mode iptables did not notice"; exit 1; }
read -r _ idle changed <<<"$nftables"
[ "$idle" = never ] || { echo "changed: mode nftables noticed without a change"; exit 1; }
[ "$changed" != never ] && [ "$changed" -gt 5 ] || { echo "changed: after a change of a Service, mode nftables needed $changed seconds"; exit 1; }
# Seen: iptables 25 and 27 seconds; nftables never within 75 seconds, and 30 and 31 seconds after a Service was added.
