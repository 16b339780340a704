# The front door. Everything sets itself up on a fresh machine that has Rust, Node and Debian's packages.

CARGO ?= cargo
NPM := npm --no-audit --no-fund --loglevel=error
export CARGO_TERM_COLOR ?= auto

.PHONY: help run frontend test check setup suites clean

help:
	@echo "make run     build everything and serve the whiteboard at http://localhost:3000"
	@echo "make test    all tests: Rust, official clients, real browsers (installs what it needs)"
	@echo "make check   formatting, lints, docs, licences"
	@echo "PORT=8080 make run takes another port; the other settings are in docs/configuration.md"

run: frontend
	$(CARGO) build --release --bin quicket
	exec ./target/release/quicket

# --- the page that the binary embeds

frontend: frontend/dist/index.html

FRONTEND_SOURCES := $(shell find frontend/src frontend/public frontend/scripts -type f 2>/dev/null) \
	frontend/index.html frontend/vite.config.js frontend/tsconfig.json

frontend/node_modules/.installed: frontend/package.json frontend/package-lock.json
	cd frontend && $(NPM) ci
	@touch $@

frontend/dist/index.html: frontend/node_modules/.installed $(FRONTEND_SOURCES)
	cd frontend && $(NPM) run check && $(NPM) run build
	@touch $@

# --- tests

tests/%/node_modules/.installed: tests/%/package.json tests/%/package-lock.json
	cd tests/$* && $(NPM) ci
	@touch $@

setup: tests/interop/node_modules/.installed tests/browser/node_modules/.installed
	scripts/debian-packages chromium firefox-esr

test: frontend setup
	$(CARGO) build --release --bin quicket --examples
	$(CARGO) test --workspace --no-fail-fast
	cd tests/interop && node --test --test-reporter=spec
	cd tests/browser && node --test --test-reporter=spec

# --- static checks

check: frontend
	$(CARGO) fmt --all --check
	$(CARGO) clippy --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --no-deps --document-private-items
	$(CARGO) test --test tidy
	scripts/cargo-deny

clean:
	$(CARGO) clean
	rm -rf frontend/dist frontend/node_modules tests/*/node_modules
