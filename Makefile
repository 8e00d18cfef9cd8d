# `make` lists the targets: every target with a `##` comment.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PYTEST := $(BIN)/python -m pytest
# A file's tests stay together: namespaces, cgroups and mounts belong to a process. Files in their order, the longest are not last.
WORKERS ?= 2
PARALLEL := -n $(WORKERS) --dist loadfile --no-loadscope-reorder -p no:benchmark

.DEFAULT_GOAL := help
.PHONY: help venv tools demo test test-unit test-kill test-l7 soak fuzz fuzz-http fuzz-input kernels bench-quick lint types fmt clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-11s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

venv: $(VENV)/.installed ## make .venv with the package and the tools to work on it

$(VENV)/.installed: pyproject.toml
	@echo "setting up $(VENV): the package, its dependencies and the test tools, from the package index"
	@scripts/find-python "$(PYTHON)" >/dev/null 2>&1 || scripts/install-tools python3-venv
	@python=$$(scripts/find-python "$(PYTHON)") && "$$python" -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[test]'
	@touch $@

tools:
	@scripts/install-tools

demo: venv tools ## compile the Star Wars policies, load them into a private namespace (or an emulated machine), run real clients
	$(BIN)/python examples/demo.py

test: venv tools ## all tests; where bpf() is not permitted what needs it is skipped, and some of it run in an emulated machine
	$(PYTEST) $(PARALLEL)
	@$(BIN)/python tests/kernels/matrix.py --instead

test-unit: venv ## the tests that need neither root nor bpf()
	$(PYTEST) $(PARALLEL) -m 'not bpf'

test-kill: venv tools ## kill load, unload and endpoint commands before each of their system calls (half an hour; root, bpf())
	POLICYC_KILL_POINTS=all $(PYTEST) tests/e2e/test_killed.py

test-l7: venv tools ## HTTP judged in the kernel: real servers and clients, the corpus, evasions (root, bpf())
	$(PYTEST) tests/l7

REQUESTS ?= 1000000
soak: venv tools soak-tools ## REQUESTS through a judged server, with connection churn and the loader killed meanwhile; nothing may leak (root, bpf())
	$(BIN)/python -m tests.l7.soak --requests $(REQUESTS)

SECONDS ?= 60
fuzz: venv tools ## random packets through kernel and reference for SECONDS, from SEED on; or CASE=FILE once more (needs root and bpf())
	$(BIN)/python tests/kernel/fuzz.py --seconds $(SECONDS) $(if $(SEED),--seed $(SEED)) $(if $(CASE),--case $(CASE))

fuzz-http: venv tools ## random HTTP rules and streams on real sockets and through the reference for SECONDS, from SEED on; or CASE=FILE (root, bpf())
	$(BIN)/python -m tests.l7.differential_fuzz --seconds $(SECONDS) $(if $(SEED),--seed $(SEED)) $(if $(CASE),--case $(CASE))

fuzz-input: venv ## random bad policies, objects, endpoints files and flows for SECONDS, from SEED on
	$(BIN)/python -m tests.robustness.fuzz --seconds $(SECONDS) $(if $(SEED),--seed $(SEED))

kernels: venv tools ## the same objects, packets and HTTP streams on the running kernel, on Debian's 6.1 and 6.12, and on arm64, emulated; on the Debian ones evasions, too (an hour)
	@scripts/install-tools --emulators
	$(BIN)/python tests/kernels/matrix.py

bench: $(VENV)/.bench bench-tools ## measure everything beside its peers, bring README and docs/performance.md up to date (root, bpf())
	$(BIN)/python -m benchmarks

bench-quick: $(VENV)/.bench bench-tools ## the same in less than five minutes; the results go to benchmarks/results only
	$(BIN)/python -m benchmarks --quick

$(VENV)/.bench: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[test,bench]'
	@touch $@

soak-tools: tools
	@command -v wrk >/dev/null 2>&1 || scripts/install-tools wrk

bench-tools: tools
	@for tool in nft:nftables iptables:iptables ipset:ipset wrk:wrk h2load:nghttp2-client; do \
		command -v $${tool%:*} >/dev/null 2>&1 || [ -x /usr/sbin/$${tool%:*} ] || scripts/install-tools $${tool#*:}; \
	done

lint: venv ## style and common mistakes
	$(BIN)/ruff check
	$(BIN)/ruff format --check

types: venv ## the type checker
	$(BIN)/mypy

fmt: venv ## format the code
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

clean: ## remove what the other targets made
	rm -rf $(VENV) build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .benchmarks benchmarks/results
