# demo   from nothing to an invoice for a real VM (ONCE=1: end after the invoice)
# test   everything CI runs: dependencies, check, all tests with the race detector
# check  formatting, vet, staticcheck, tidy modules, the build without cgo
# chaos  the flow under faults, larger than in test, and two real guests (SEED= and FAULTS= repeat and enlarge it)
# bench  benchmarks; each reports a ratio measured side by side
# clean  removes what was built and the demo's data

SHELL := /bin/bash
DATA ?= /var/lib/usance-demo
PACKAGES := ./...
SEED ?= 1
FAULTS ?= 100

.PHONY: demo build test check chaos bench deps clean

demo: deps build
	bin/usance demo --data $(DATA) $(if $(ONCE),--once)

build:
	CGO_ENABLED=0 go build -trimpath -o bin/usance ./cmd/usance
	go build -trimpath -o bin/usance-agent ./cmd/usance-agent

deps:
	deploy/deps.sh

check:
	@unformatted=$$(gofmt -l $$(git ls-files '*.go')); if [ -n "$$unformatted" ]; then echo "not gofmt-ed:"; echo "$$unformatted"; exit 1; fi
	go vet $(PACKAGES)
	go tool staticcheck $(PACKAGES)
	go mod tidy -diff
	CGO_ENABLED=0 go build -o /dev/null ./cmd/usance

test: deps check build
	go test -race -p 2 -timeout 20m $(PACKAGES)

chaos: deps
	@report=$$(mktemp); go test -run '^TestChaos' -count 1 -timeout 1h . -args \
		-seed $(SEED) -faults $(FAULTS) -instances 200 -pace 3s -report $$report; code=$$?; cat $$report; rm $$report; exit $$code

bench:
	go test -run '^$$' -bench . -benchmem -count 5 -timeout 1h $(PACKAGES)

clean:
	rm -rf bin $(DATA)
