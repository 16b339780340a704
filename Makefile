# The front door. Everything sets itself up on a fresh machine that has Rust, Node and Debian's packages.

CARGO ?= cargo
NPM := npm --no-audit --no-fund --loglevel=error
export CARGO_TERM_COLOR ?= auto
# one fetch of a crate that fails for a moment must not fail a build
export CARGO_NET_RETRY ?= 5

.PHONY: help run cluster frontend test soak test-manifests check bench cost setup clean fallback image-test rollout fuzz siege audit

help:
	@echo "make run     build everything and serve the whiteboard at http://localhost:3000"
	@echo "make cluster Redis and two nodes, on ports 3000 and 3001, that draw together"
	@echo "make test    all tests: Rust, official clients, real browsers (installs what it needs)"
	@echo "make fallback  time to the first event where UDP or WebSocket is blocked, against the official client"
	@echo "make image-test  the Dockerfile, built without a registry (root; installs buildah)"
	@echo "make rollout deploys, crashes and cuts under load, Node's and ours: the tables of docs/recovery.md"
	@echo "make soak    recovery simulated with new seeds: MINUTES=10 or SEEDS=0..100000"
	@echo "make fuzz    every decoder, SECONDS=60 each; TARGET=socketio_json only one (docs/fuzzing.md)"
	@echo "make siege   attacks on the release binary under normal traffic (SIEGE=quick, UPDATE_DOCS=1; docs/siege.md)"
	@echo "make audit   known vulnerabilities in dependencies (needs RustSec's database from GitHub)"
	@echo "make check   formatting, lints, docs, licences"
	@echo "make bench   servers side by side; writes docs/benchmark.md (BENCH=quick: minutes, writes nothing)"
	@echo "make cost    instructions a delivery and a client take, against what is on record (UPDATE_DOCS=1)"
	@echo "PORT=8080 make run takes another port; the other settings are in docs/configuration.md"

run: frontend
	$(CARGO) build --release --bin quicket
	RECOVERY_WINDOW=$${RECOVERY_WINDOW:-2m} exec ./target/release/quicket

cluster: frontend
	scripts/debian-packages redis-server
	$(CARGO) build --release --bin quicket
	exec scripts/cluster

# --- the page that the binary embeds

frontend: frontend/dist/index.html

FRONTEND_SOURCES := $(shell find frontend/src frontend/public frontend/scripts -type f 2>/dev/null) \
	frontend/index.html frontend/vite.config.js frontend/tsconfig.json

frontend/node_modules/.installed: frontend/package.json frontend/package-lock.json
	cd frontend && $(NPM) ci
	@touch $@

frontend/dist/index.html: frontend/node_modules/.installed $(FRONTEND_SOURCES)
	cd frontend && $(NPM) run check && $(NPM) run build
	@touch src/app/page.rs # cargo does not hear of files that were not there when it built last
	@touch $@

# --- tests

tests/%/node_modules/.installed: tests/%/package.json tests/%/package-lock.json
	cd tests/$* && $(NPM) ci
	@touch $@

setup: tests/interop/node_modules/.installed tests/browser/node_modules/.installed
	scripts/debian-packages chromium firefox-esr redis-server redis-sentinel haproxy nginx openssl \
		nftables iproute2 conntrack valgrind
	scripts/valkey
	scripts/python-tools

# the official clients' tests drive the examples, which the debug build has already
EXAMPLES := $(CURDIR)/target/debug/examples
INTEROP := QUICKET_INTEROP=$(EXAMPLES)/interop QUICKET_CHAT=$(EXAMPLES)/chat QUICKET_EMBED=$(EXAMPLES)/embed \
	QUICKET_CLUSTER_PEER=$(EXAMPLES)/cluster_peer QUICKET_ROLLOUT=$(EXAMPLES)/rollout
NODE_TEST := node --test --test-reporter=spec

test: frontend setup
	$(CARGO) test --no-fail-fast
	cd frontend && $(NPM) test
	$(CARGO) build --examples
	cd tests/interop && $(INTEROP) $(NODE_TEST)
	$(CARGO) build --release --bin quicket
	cd tests/interop && $(NODE_TEST) cost.mjs
	cd tests/browser && $(NODE_TEST) --test-concurrency=2
	$(MAKE) test-manifests

# the overlays against schemas, each other and the server; see docs/kubernetes.md
test-manifests: frontend
	$(CARGO) build --bin quicket
	QUICKET=$(CURDIR)/target/debug/quicket $$(scripts/python-tools)/pytest -q -p no:cacheprovider tests/manifests

# Real browsers on networks that drop or refuse; UPDATE_DOCS=1 writes docs/fallback.md.
fallback: frontend setup
	$(CARGO) build --release --bin quicket
	cd tests/browser && node fallback.mjs

# both images by buildah; minutes of compiling, and root, which is why it is no part of `make test`
image-test: frontend
	scripts/image-test

# some minutes; both columns of the tables come from the same run
rollout: tests/interop/node_modules/.installed
	scripts/debian-packages redis-server haproxy
	$(CARGO) build --release --example rollout
	cd tests/interop && node rollout.mjs

# faults of the network, of nodes and of Redis, in virtual time; says which seed failed
soak: frontend
	SEEDS=$(SEEDS) MINUTES=$(or $(MINUTES),$(if $(SEEDS),,10)) \
		$(CARGO) test --release --lib simulation::recovery -- --nocapture

# libFuzzer on the stable toolchain; `make test` has a short run of the same targets without it
SECONDS ?= 60
fuzz:
	scripts/fuzz $(SECONDS) $(TARGET)

# every attack against the release binary, under the traffic of official clients; ATTACKS="junk-udp ..." only these
siege: frontend tests/interop/node_modules/.installed tests/browser/node_modules/.installed
	scripts/debian-packages chromium
	$(CARGO) build --release --bin quicket
	cd bench && $(CARGO) build --release -p quicket-siege
	cd tests/interop && ulimit -n $$(ulimit -Hn) && node siege.mjs $(ATTACKS)

audit:
	AUDIT=required scripts/audit

# part of `make test`
cost: frontend tests/interop/node_modules/.installed
	scripts/debian-packages valgrind
	$(CARGO) build --release --bin quicket
	cd tests/interop && $(NODE_TEST) cost.mjs

# --- static checks

check: frontend
	$(CARGO) fmt --all --check
	$(CARGO) fmt --manifest-path bench/Cargo.toml --all --check
	$(CARGO) fmt --manifest-path fuzz/Cargo.toml --all --check
	$(CARGO) clippy --all-targets -- -D warnings
	# as the fuzzers see it: not as a test, and without building what it depends on once more
	$(CARGO) rustc --lib --profile check -- --cfg fuzzing -D warnings
	$(CARGO) test --test tidy
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --no-deps --document-private-items
	scripts/cargo-deny check licenses bans sources
	scripts/audit

# --- the benchmark, a package of its own: what it compares with is no business of the product's lock file

# quick: a few minutes, for a look; full: what docs/benchmark.md shows, and it is written
BENCH ?= full
BENCH_FLAGS := $(if $(filter full,$(BENCH)),--document)

bench/node/node_modules/.installed: bench/node/package.json bench/node/package-lock.json
	cd bench/node && $(NPM) ci
	@touch $@

bench: bench/node/node_modules/.installed
	scripts/debian-packages redis-server
	cd bench && $(CARGO) build --release --workspace
	cd bench && ulimit -n $$(ulimit -Hn) && target/release/bench run --mode $(BENCH) $(BENCH_FLAGS)

clean:
	$(CARGO) clean
	rm -rf bench/target bench/node/node_modules
	rm -rf frontend/dist frontend/node_modules tests/*/node_modules
