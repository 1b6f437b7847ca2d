# Millrace. `make help` lists what there is to make.
#
# Three tiers run the same tests, only counts differ: `test` (a tenth of every count; Go, make and gcc are enough), `test-all` (adds foreign
# clients; a missing tool is skipped loudly, and is a failure under CI=true), `soak` (the full counts).

SHELL    := /bin/bash
VERSION  := $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)
LDFLAGS  := -s -w -X main.version=$(VERSION)
GO       ?= go
PKGS     ?= ./...
TOOLS    := $(CURDIR)/.tools
export GOFLAGS ?= -buildvcs=false

.PHONY: help build demo test test-all mutants soak check lint cross fuzz bench bench-mqtt bench-kafka bench-log clean kafka-up kafka-down kafka-kill kafka-start

help: ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

build: ## the static binary, ./millrace
	CGO_ENABLED=0 $(GO) build -trimpath -ldflags '$(LDFLAGS)' -o millrace ./cmd/millrace

demo: build ## a node with a city's fleet on a live map; goes on where the last one ended
	./millrace demo

# What costs ten times as much under the race detector does a fifth of its rounds there, and all of them without it (tier.Dear).
DEAR := TestNodePowerLoss

test: ## all tests, races on, a tenth of every count, and every planted bug is caught
	$(GO) vet $(PKGS)
	CGO_ENABLED=1 $(GO) test -race -p 4 -timeout 9m $(PKGS)
	$(GO) test -run '^($(DEAR))$$' -timeout 9m ./app
	@$(MAKE) --no-print-directory mutants

mutants: ## each checker catches the bug planted for it
	$(GO) test -tags mutants -run 'Mutant' -timeout 9m ./eventlog/engine ./kafkawire ./kafkawire/acl ./kafkawire/group ./mqtt/session ./mqtt/broker ./fleet ./verify ./route ./spill ./eventlog/kafka ./app

test-all: build ## test, plus foreign clients of MQTT and Kafka, and a cluster of Apache Kafka
	scripts/test-all

soak: build ## the full counts; appends what ran to docs/soak.md
	scripts/soak

check: lint cross ## format, vet, lint, cross-compile
	@test -z "$$(gofmt -l $$(git ls-files '*.go'))" || { echo "gofmt wants:"; gofmt -l $$(git ls-files '*.go'); exit 1; }
	$(GO) vet $(PKGS)
	$(GO) vet -tags mutants $(PKGS)
	$(GO) test ./internal/arch

GOLANGCI := github.com/golangci/golangci-lint/v2/cmd/golangci-lint@v2.15.0
lint: ## golangci-lint, at a pinned version, built from source the first time
	@[ -x $(TOOLS)/golangci-lint ] || GOBIN=$(TOOLS) GOFLAGS= $(GO) install $(GOLANGCI)
	$(TOOLS)/golangci-lint run

# What compiles here and what has been run: linux/amd64 runs every test; the others are compiled and vetted only.
cross: ## compile for every platform, and say which have been run
	@for t in linux/amd64 linux/arm64 linux/arm darwin/arm64 darwin/amd64 windows/amd64; do \
	  CGO_ENABLED=0 GOOS=$${t%/*} GOARCH=$${t#*/} $(GO) build -o /dev/null ./cmd/millrace && \
	  CGO_ENABLED=0 GOOS=$${t%/*} GOARCH=$${t#*/} $(GO) vet ./... || exit 1; \
	  [ $$t = linux/amd64 ] && echo "$$t: compiled, and run by the tests" || echo "$$t: compiled and vetted, never run"; \
	done

FUZZTIME ?= 20s
fuzz: ## every fuzz target for FUZZTIME
	@set -e; for f in $$(grep -rl --include='*_test.go' '^func Fuzz' . | xargs -n1 dirname | sort -u); do \
	  for t in $$(grep -hoE '^func Fuzz[A-Za-z0-9_]+' $$f/*_test.go | awk '{print $$2}'); do \
	    echo "== $$f $$t"; $(GO) test -run '^$$' -fuzz "^$$t$$" -fuzztime $(FUZZTIME) -fuzzminimizetime 5s $$f; done; done

bench: build ## measure beside other brokers in the same run
	scripts/bench

bench-mqtt: build ## the MQTT part of it: Mosquitto, mochi and NATS beside us, about fifteen minutes. make bench-mqtt ONLY=cf runs two scenarios of it
	scripts/bench -only $(or $(ONLY),abcdefghijmnoq)

bench-kafka: build ## on a Kafka cluster of three brokers, which it starts, about twelve minutes: beside a plain producer, beside Mosquitto with a bridge, kill -9, and a minute's hang
	scripts/bench-kafka -only $(or $(ONLY),tuv)

bench-log: build ## the log beside Apache Kafka (Java; Maven the first time) and NATS JetStream, about twenty-five minutes. make bench-log ONLY=A runs one load of it
	scripts/bench-log -window 2s -only $(or $(ONLY),ABCDEFG)

kafka-up: ## three brokers of Apache Kafka on this machine, for tests (Java; Maven the first time)
	@scripts/kafka up

kafka-down: ## stop them; the data stays in .kafka/
	@scripts/kafka down

kafka-kill: ## kill -9 of one of them: make kafka-kill N=2
	@scripts/kafka kill $(N)

kafka-start: ## start it again: make kafka-start N=2
	@scripts/kafka start $(N)

clean: ## what make made
	rm -rf millrace .tools .bench .soak
