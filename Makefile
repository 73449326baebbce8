# Targets are short; the programs that they run are in test/ and internal/.
# Empty for that of the tree, which is in internal/version.
VERSION ?=
ARCH ?= amd64
PROFILE ?= gce
KUBE_PROXY_MODE ?= iptables
IP_FAMILY ?= ipv4
KUBERNETES ?=
SETTINGS ?=
VERSIONS ?= 1.36.3 1.33.13 1.30.14
SEEDS ?= $(shell date +%s)
DURATION ?= 10m

LINT := test/sandbox/tools/lint/go.mod
# The flags of the images, so that a first run compiles no package twice.
SANDBOX := CGO_ENABLED=0 GOFLAGS="-trimpath -gcflags=all=-dwarf=false" go run ./test/sandbox
SHAPE := -profile $(PROFILE) -kube-proxy-mode $(KUBE_PROXY_MODE) -ip-family $(IP_FAMILY) $(if $(KUBERNETES),-kubernetes $(KUBERNETES))
SUMMARY := go run ./test/summary

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.NOTPARALLEL:

.PHONY: help
help: ## Print this list
	@sed -nE 's/^([a-z0-9-]+):.*## (.*)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 22
	@echo "Variables: PROFILE=gce|gke|baremetal, KUBE_PROXY_MODE=iptables|nftables, IP_FAMILY=ipv4|dual and KUBERNETES=1.36.3"
	@echo "           for the sandbox, VERSION= and ARCH= for the images, SETTINGS='gce/iptables/proxy ...' for conformance,"
	@echo "           VERSIONS='1.30.14 ...' for versions, SEEDS='1 2 ...' and DURATION=10m for chaos."

.PHONY: chart
chart: ## Package the Helm chart into dist/
	@CGO_ENABLED=0 GOFLAGS="-trimpath -gcflags=all=-dwarf=false" go tool -modfile=test/sandbox/tools/helm/go.mod helm package manifests/helm/hostport-ccm --destination dist $(if $(VERSION),--version $(VERSION:v%=%) --app-version $(VERSION))

.PHONY: demo
demo: ## Start the sandbox cluster and show a Service being served (as root)
	@$(SANDBOX) demo $(SHAPE)

.PHONY: test
test: lint unit alerts images e2e ## Run all checks and tests, set-up included (as root)

.PHONY: lint
lint: ## Check sums of modules and format; run vet, staticcheck and unparam
	@echo "== lint"
	@go mod verify >/dev/null
	@files=$$(gofmt -l .); if [ -n "$$files" ]; then echo "run gofmt -w on:" $$files; exit 1; fi
	@go vet -tags e2e ./...
	@go run -modfile=$(LINT) honnef.co/go/tools/cmd/staticcheck -tags e2e ./...
	@GOFLAGS=-tags=e2e go run -modfile=$(LINT) mvdan.cc/unparam ./...

# Without the race detector, with which they take minutes.
SCHEDULES := go test -json -count=1 -run '^TestWhateverFails' ./firewall/gce -schedules=10000

.PHONY: unit
unit: ## Run the unit tests with the race detector
	@echo "== unit tests"
	@{ status=0; go test -json -race ./... || status=1; $(SCHEDULES) || status=1; exit $$status; } | $(SUMMARY)

.PHONY: alerts
alerts: ## Test the alerts, monitors and dashboard with Prometheus' own code
	@echo "== alerts"
	@CGO_ENABLED=0 GOFLAGS="-trimpath -gcflags=all=-dwarf=false" go -C test/monitoring test -json -timeout 30m ./... | $(SUMMARY)

.PHONY: images
images: ## Build both images into dist/ as OCI archives
	@echo "== images"
	@go run ./internal/images -out dist -arch $(ARCH) $(if $(VERSION),-version $(VERSION))

.PHONY: release
release: ## Make all that a release has, twice, and compare: VERSION=v0.2.0
	@go run ./internal/release $(if $(VERSION),-version $(VERSION))

.PHONY: set-version
set-version: ## Write VERSION into manifests, chart and pages
	@go run ./internal/release -set -version $(VERSION)

# Tests that change nothing for others run four at a time: their time is mostly waiting.
E2E := go test -json -tags e2e -count=1 -timeout 60m -parallel 4

# What is independent of the mode of kube-proxy: mirrors as objects, and node ports in the plan.
WITHOUTMODE := ^Test(DirectMirror|DirectServiceIsDeleted|DirectAuto|DatapathNodePorts)

.PHONY: e2e
e2e: ## Run the end-to-end tests in their own sandboxes (as root)
	@echo "== end-to-end tests"
	@$(SANDBOX) down
	@status=0; total=$$({ set +e; \
	$(E2E) ./test/sandbox/cluster; $(E2E) ./test/scale; \
	$(SANDBOX) up -profile baremetal -kube-proxy-mode nftables -ip-family dual >&2; $(E2E) -run '^TestBareMetal' ./test/e2e; $(SANDBOX) down >&2; \
	$(SANDBOX) up -profile baremetal >&2; $(E2E) -run '^TestBareMetalDirect' ./test/e2e; $(SANDBOX) down >&2; \
	$(SANDBOX) up -profile gke >&2; $(E2E) -run '^TestGKE' ./test/e2e; $(SANDBOX) down >&2; \
	$(SANDBOX) up -profile gce -ip-family dual >&2; $(E2E) -skip '^Test(BareMetal|GKE|Website|Monitoring)' ./test/e2e; $(E2E) -run '^TestUpstream' ./test/conformance; $(SANDBOX) down >&2; \
	$(SANDBOX) up -profile gce -kube-proxy-mode nftables -ip-family dual >&2; $(E2E) -run '^Test(Datapath|Direct|DualStack)' -skip '$(WITHOUTMODE)' ./test/e2e -user-namespaces; $(SANDBOX) down >&2; \
	} | $(SUMMARY) -each) || status=1; \
	echo "$$total"; exit $$status

.PHONY: bench
bench: ## Measure the time from an event to the status, and the datapaths' speed, costs and limits (as root)
	@go test -count=1 -v -run '^TestEveryCause' ./provider -latency-services=50 -latency-nodes=20 -latency-rounds=10 | grep -v '^[IWE][0-9]'
	@go run ./test/bench

.PHONY: bench-peers
bench-peers: ## Compare the datapaths with kube-proxy, host ports, and what else forwards in pods (as root)
	@go run ./test/bench -peers -rounds 12 -connections 80000 -page docs/reference

.PHONY: scale
scale: ## Measure 1,000 Services on 1,000 simulated nodes, and how costs grow until there (as root)
	@go run ./test/scale -page docs/reference

.PHONY: conformance
conformance: ## Run Kubernetes' own tests of load balancers, for hours unless SETTINGS names some (as root)
	@go run ./test/conformance -settings "$(SETTINGS)" -page docs/reference/conformance.md

# The tests of what a version of Kubernetes can break.
CORE := ^Test(NodesAre|Service[^s]|TwoServices|Rollout|PortConflict|PolicyLocal|Clients|Orphans|StoppedLeader|Datapath|Direct)

.PHONY: versions
versions: ## Run the core of the end-to-end tests on older versions of Kubernetes (as root)
	@$(SANDBOX) down
	@{ status=0; for v in $(VERSIONS); do \
	$(SANDBOX) up -kubernetes $$v >&2; $(E2E) -run '$(CORE)' ./test/e2e || status=1; $(SANDBOX) down >&2; \
	done; exit $$status; } | $(SUMMARY) -each

.PHONY: chaos
chaos: ## Inject faults at random under traffic, and print what clients noticed (as root)
	@$(SANDBOX) down
	@$(SANDBOX) up -profile gce -ip-family dual; status=0; for seed in $(SEEDS); do \
	go test -tags e2e -count=1 -v -timeout 24h -run '^TestChaos$$' ./test/e2e -chaos-seed=$$seed -chaos-duration=$(DURATION) || status=1; \
	done; $(SANDBOX) down; exit $$status

.PHONY: website
website: ## Run a website with Traefik, ExternalDNS and a name server, and get it by name (as root)
	@$(SANDBOX) down
	@$(SANDBOX) up -profile gce -ip-family dual -kube-proxy-mode $(KUBE_PROXY_MODE); status=0; \
	go test -tags e2e -count=1 -v -timeout 60m -run '^TestWebsite' ./test/e2e || status=1; $(SANDBOX) down; exit $$status

.PHONY: monitoring
monitoring: ## Run Prometheus in the sandbox, with the documented config, and the queries of the dashboard (as root)
	@$(SANDBOX) down
	@$(SANDBOX) up; status=0; go test -tags e2e -count=1 -v -timeout 60m -run '^TestMonitoring' ./test/e2e || status=1; $(SANDBOX) down; exit $$status

.PHONY: sandbox-up
sandbox-up: ## Start the sandbox cluster without a demo (as root)
	@$(SANDBOX) up $(SHAPE)

.PHONY: sandbox-down
sandbox-down: ## Stop the sandbox cluster and remove all that it created (as root)
	@$(SANDBOX) down
