# Two words for a newcomer: `make demo`, `make test`. `make help` lists the rest.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
MAKEFLAGS += --no-builtin-rules

PYTHON ?= python3
export PYTHON
PIP_FLAGS := --quiet --disable-pip-version-check --no-input --require-hashes
BIN := .venv/bin
PYTEST_ARGS ?=
SHARD ?= 1/1
SECONDS ?= 60
PARSERS ?=
PARTS ?=
TARGETS ?= demo test
VENV_STAMP := .venv/.stamp
PROTOS_STAMP := .venv-protos/.stamp
FUZZ_STAMP := .venv/.fuzz-stamp

.PHONY: help
help: ## List the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):[^#]*## /\1\t/' | expand -t 18

.PHONY: demo
demo: venv ## Build a TUF repository with keys on a SoftHSM token and download from it
	$(BIN)/python -m demo

.PHONY: demo-rotation
demo-rotation: venv ## Replace keys of every role on a live repository, watched by stock clients
	$(BIN)/python -m demo.rotation

# Tests mostly wait: more of them at once than there are cores.
.PHONY: test
test: JOBS ?= 4
test: venv test-tools ## Run the tests, except the slow ones
	tally="$$($(BIN)/python -m tests.shards --quick-tally)"; KEYD_TALLY="$$tally" \
		$(BIN)/python -m pytest tests -m "not slow" -n $(JOBS) --dist worksteal \
		--junitxml="$$tally/report.xml" $(PYTEST_ARGS)

# Some measure: shards share the machine only when asked to.
.PHONY: test-all
test-all: JOBS ?= 1
test-all: venv test-tools ## Run the slow tests, in resumable shards of ten minutes, JOBS=1 at a time (SHARD=n/m: every mth); writes build/faults.md
	$(BIN)/python -m tests.shards --shard $(SHARD) --jobs $(JOBS)

.PHONY: test-fresh
test-fresh: ## Run make demo and make test in a minimal Debian tree (needs root)
	scripts/fresh.sh $(TARGETS)

.PHONY: fuzz
fuzz: $(FUZZ_STAMP) ## Fuzz the parsers, or some (PARSERS="payload policy"), each for SECONDS=60
	$(BIN)/python -m tests.fuzz --seconds $(SECONDS) $(PARSERS)

.PHONY: lint
lint: lint-style lint-types lint-imports lint-words lint-tree lint-protos ## Run every static check

.PHONY: lint-style lint-types lint-imports lint-words lint-tree lint-protos
lint-style: venv
	$(BIN)/ruff check
	$(BIN)/ruff format --check

lint-types: venv
	$(BIN)/mypy

lint-imports: venv
	$(BIN)/lint-imports --no-logo

lint-words: venv
	$(BIN)/codespell

lint-tree: venv
	$(BIN)/python scripts/check_tree.py

lint-protos: $(PROTOS_STAMP)
	scripts/lint-protos.sh

.PHONY: docs
docs: venv ## Build the documentation into build/docs
	$(BIN)/sphinx-build --builder html --fail-on-warning --keep-going --quiet docs build/docs
	@echo "docs: build/docs/index.html"

.PHONY: bench
bench: venv ## Measure speed and memory (FULL=1: half an hour; PARTS="unary batch": some)
	$(BIN)/python -m bench $(if $(FULL),--full) $(if $(PARTS),--parts $(PARTS))

# --- set-up -------------------------------------------------------------------------------------

.PHONY: system
system:
	@scripts/system-packages.sh

# The order of writes and flushes is read from system calls; libnss3 has the second PKCS#11 module.
.PHONY: test-tools
test-tools: | system
	@scripts/system-packages.sh strace libnss3

.PHONY: venv
venv: $(VENV_STAMP) ## Make .venv with everything pinned in requirements/dev.txt

# uv_build finds its own executable on PATH only.
$(VENV_STAMP): requirements/dev.txt pyproject.toml client_sdk/pyproject.toml | system
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/pip install $(PIP_FLAGS) -r requirements/dev.txt
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/pip install --quiet --no-deps --no-build-isolation \
		-e ./client_sdk -e .
	touch $@

$(FUZZ_STAMP): requirements/fuzz.txt $(VENV_STAMP)
	$(BIN)/pip install $(PIP_FLAGS) -r requirements/fuzz.txt
	touch $@

# The generator's own packages would hold back the runtime's, hence a second environment.
$(PROTOS_STAMP): requirements/protos.txt | system
	test -x .venv-protos/bin/python || $(PYTHON) -m venv .venv-protos
	.venv-protos/bin/pip install $(PIP_FLAGS) -r requirements/protos.txt
	touch $@

.PHONY: protos
protos: $(PROTOS_STAMP) ## Generate the checked-in stubs from the .proto files
	scripts/protos.sh

.PHONY: proto-baseline
proto-baseline: ## Make the contract as it is now the one that breaking changes are judged by
	scripts/buf.sh build protos --exclude-source-info --output protos/baseline.binpb

LOCK := build/lock-venv/bin/uv pip compile --quiet --upgrade --python-version 3.11.2 \
	--python-platform linux --exclude-newer '1 week' --generate-hashes --no-header --no-annotate \
	--no-emit-package keyd --no-emit-package keyd-client

.PHONY: requirements
requirements: | system ## Resolve requirements/*.in again
	$(PYTHON) -m venv build/lock-venv
	build/lock-venv/bin/pip install $(PIP_FLAGS) -r requirements/lock.txt
	for name in runtime dev fuzz protos lock; do \
		$(LOCK) requirements/$$name.in --output-file requirements/$$name.txt; done

.PHONY: clean
clean: ## Remove everything that make made
	rm -rf build .venv .venv-protos .mypy_cache .pytest_cache .ruff_cache .hypothesis
