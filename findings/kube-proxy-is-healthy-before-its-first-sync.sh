#!/usr/bin/env bash
# What: /healthz and /livez of kube-proxy of Kubernetes 1.37.2 on port 10256, before it has written any rule.
#
# kube-proxy listens as soon as it has read its Node. From then on, both endpoints answer 200 and "healthy", although
# it knows no Services yet and no rule for them is in the kernel. The body does not tell either: each IP family has
# a recent "lastUpdated", as that is set when the sync loop begins, before the first sync. If the API server is slow
# with the lists of Services and EndpointSlices, this lasts as long as that takes, here until the script ends.
# (pkg/proxy/healthcheck/proxy_health.go, SyncLoop in pkg/proxy/iptables/proxier.go)
#
# Who meets it: load balancers whose health check of nodes is this port, such as Azure's for policy Cluster in mode
# Shared: a node that has just booted gets packets before it can forward them. hostport-ccm, which reads only whether
# the port is open, waits until it has been for more than three seconds: docs/explanation/failover.md.
#
# Needs root, Go, curl, python3, util-linux, iproute2 and the Debian packages iptables and conntrack. Takes some
# minutes to build kube-proxy. A small server in place of the API server serves the Node, and nothing else.
# Exits non-zero if the behaviour changes.
set -euo pipefail
VERSION=v1.37.2
for package in iptables conntrack iproute2 python3 curl; do
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
import http.server, json, threading
from urllib.parse import parse_qs, urlsplit

node = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": "node", "uid": "node", "resourceVersion": "1"}, "spec": {"podCIDR": "10.244.0.0/24", "podCIDRs": ["10.244.0.0/24"]},
        "status": {"addresses": [{"type": "InternalIP", "address": "10.0.0.1"}]}}

class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def log_message(self, *args): pass
    def do_POST(self): self.send_response(201); self.send_header("Content-Length", "0"); self.end_headers()
    def do_GET(self):
        url = urlsplit(self.path)
        query = parse_qs(url.query)
        if url.path == "/api/v1/nodes/node": reply = node
        elif url.path == "/api/v1/nodes" and "watch" not in query:
            reply = {"apiVersion": "v1", "kind": "NodeList", "metadata": {"resourceVersion": "1"}, "items": [node]}
        elif url.path == "/api/v1/nodes":
            self.send_response(200); self.send_header("Content-Type", "application/json"); self.send_header("Connection", "close"); self.end_headers()
            if "sendInitialEvents" in query:
                bookmark = {"apiVersion": "v1", "kind": "Node", "metadata": {"resourceVersion": "1", "annotations": {"k8s.io/initial-events-end": "true"}}}
                for kind, item in (("ADDED", node), ("BOOKMARK", bookmark)):
                    self.wfile.write(json.dumps({"type": kind, "object": item}).encode() + b"\n")
                self.wfile.flush()
            threading.Event().wait()
        else: threading.Event().wait() # a slow list
        data = json.dumps(reply).encode()
        self.send_response(200); self.send_header("Content-Type", "application/json"); self.send_header("Content-Length", str(len(data))); self.end_headers()
        self.wfile.write(data)

server = http.server.ThreadingHTTPServer(("127.0.0.1", 8001), Handler)
server.daemon_threads = True
server.serve_forever()
PYTHON

(build)
unshare --net --mount --pid --fork --kill-child --mount-proc env DIR="$dir" bash -euo pipefail -c '
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
		mode: iptables
		hostnameOverride: node
		clientConnection: {kubeconfig: "$DIR/kubeconfig", contentType: application/json}
		clusterCIDR: 10.244.0.0/16
		conntrack: {maxPerCore: 0, min: 0, tcpEstablishedTimeout: 0s, tcpCloseWaitTimeout: 0s}
	YAML
	python3 "$DIR/api.py" &
	sleep 1
	"$DIR/kube-proxy" --config "$DIR/config" >"$DIR/log" 2>&1 &
	for path in healthz livez; do
		answer=$(curl -s --retry 30 --retry-delay 1 --retry-connrefused --max-time 60 -w " %{http_code}" "http://127.0.0.1:10256/$path") || { tail -5 "$DIR/log"; exit 1; }
		echo "$path: $answer"
		case "$answer" in
		*\"healthy\":true*" 200") ;;
		*) echo "changed: it is not healthy before its first sync"; exit 1 ;;
		esac
	done
	services=$(iptables-save -t nat | grep -c KUBE-SERVICES || true)
	echo "rules of Services in the kernel: $services"
	[ "$services" = 0 ] || { echo "changed: rules are written before Services are known"; exit 1; }
'
# Seen: both answer 200 with "healthy":true and a "lastUpdated" of the second before for IPv4 and IPv6, and no rule of
# a Service is in the kernel.
