# Every target does its own set-up (tools/set-up), which is quick from the second time on.
#
#   make demo         record two example drivers; see the log, the statistics and where to go on
#   make test         unit and integration tests, and those of the agent
#   make test-guest   tests in a guest: a real kernel and real device models in QEMU
#   make test-long    tests that take minutes
#   make bench        all goals in docs/performance.md, measured here and now
#   make lint         style, types
#   make clean        remove what was built, .venv too; what was downloaded for the guest stays

BIN := .venv/bin
READY := .venv/.set-up
AGENT := .venv/.agent
CARGO = PATH=$$(tools/rust-path) cargo

.PHONY: demo test test-guest test-long bench lint clean agent

agent: $(AGENT)

demo: $(AGENT)
	PATH=$(CURDIR)/$(BIN):$$PATH tools/demo

test: $(AGENT)
	tools/set-up screens
	$(CARGO) test --locked --quiet
	$(BIN)/python -m pytest -n 2 --dist loadfile -m "not guest and not long" tests/unit
	$(BIN)/python -m pytest -m "not guest and not long" tests/integration tests/fuzz

test-guest: $(AGENT)
	tools/set-up guest
	$(BIN)/python -m pytest -n 2 --dist loadfile -m guest tests/guest

test-long: $(AGENT)
	tools/set-up screens
	$(BIN)/python -m pytest -m long

bench: $(AGENT)
	$(BIN)/python -m benchmarks

lint: $(AGENT)
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/mypy
	tools/lint-rust

clean:
	$(MAKE) -s -C examples clean
	rm -rf .venv target build src/mmiotap.egg-info src/mmiotap/_agent*.so
	find . -name __pycache__ -prune -exec rm -rf {} +

$(READY): pyproject.toml tools/set-up tools/rust-path
	tools/set-up
	@touch $@

$(AGENT): $(READY) Cargo.toml Cargo.lock agent/Cargo.toml $(shell find agent/src -name '*.rs') tools/build-agent
	tools/build-agent
	@touch $@
