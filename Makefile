# Every target sets up what it needs: with Python 3 and make there, nothing else has to be.

PYTHON3 ?= python3
BIN := .venv/bin

# More of either: make test PYTEST_ARGS="-n 0 -x tests/test_style.py"
PYTEST_ARGS ?= -n 2
DEMO_ARGS ?=
BENCH_ARGS ?=
SOAK_ARGS ?= -m soak --timeout 1800
CTP_ARGS ?= -n 2 tests/ctp_front

# Without it the wrapper asks the network for its newest release at each run.
export PYRIGHT_PYTHON_IGNORE_WARNINGS := 1

.DEFAULT_GOAL := help
.PHONY: help setup debian ctp demo test test-ctp coverage soak bench format lint types docs reference lock wheel hooks clean distclean

help: ## Show the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: ## Make .venv: uv, Python 3.13, the locked packages, the project itself
	@$(PYTHON3) .ci/setup.py

debian: ## Install, as root, the programs of Debian that some tests need and else skip
	@$(PYTHON3) .ci/setup.py --debian

ctp: setup ## Install vnpy's gateways to CTP into .venv, which takes a compiler
	@$(PYTHON3) .ci/setup.py --ctp

demo: setup ## Start a system, send it orders, kill a node and check the books
	@$(BIN)/aegis demo $(DEMO_ARGS)

test: setup ## Run the tests
	@$(BIN)/pytest $(PYTEST_ARGS)

test-ctp: setup ## Run the feeds over the real vnpy_ctp and a fake front, built into .ctp
	@$(BIN)/python -m tests.ctp_front.build
	@PYTHONPATH=.ctp/packages $(BIN)/pytest -n 0 tests/aegis/marketdata/test_ctp_callbacks.py
	@$(BIN)/pytest $(CTP_ARGS)

coverage: setup ## Run the tests and show which lines they leave out
	@$(BIN)/pytest $(PYTEST_ARGS) --cov

soak: setup ## Run the tests that take minutes, and more seeds of the simulation
	@$(BIN)/pytest $(SOAK_ARGS)

bench: setup ## Measure throughput and latency beside what NATS alone can do
	@$(BIN)/aegis bench $(BENCH_ARGS)

format: setup ## Format the code and fix what ruff can fix
	$(BIN)/ruff check --fix-only --quiet .
	$(BIN)/black --quiet .

lint: setup ## Check the format and the lint rules
	$(BIN)/black --check --quiet --diff .
	$(BIN)/ruff check .
	$(BIN)/oxlint ops/_static aegis/marketdata/_page

types: setup ## Check the types: mypy and pyright, both strict, and the pages' scripts
	$(BIN)/mypy
	$(BIN)/pyright
	$(BIN)/python .ci/check_javascript.py

docs: setup ## Build the documents as a site into site/
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet

reference: setup ## Write the pages of docs/ that are made from the code
	@$(BIN)/python -m tests.docs

# LOCK_ARGS="--upgrade" takes newer versions; without it only what pyproject.toml asks for
# changes. The files hold no addresses, so they serve behind any mirror.
LOCK_ARGS ?=
LOCK = "$$($(PYTHON3) .ci/setup.py --uv)" pip compile --quiet --universal \
	--python-version 3.13 --generate-hashes --no-emit-index-url \
	--custom-compile-command "make lock" $(LOCK_ARGS)
COMPILE = $(LOCK) --extra admin --extra otel --extra top pyproject.toml

lock: ## Write requirements.txt and those for development, builds and gateways anew
	$(COMPILE) --output-file requirements.txt
	$(COMPILE) --constraints requirements.txt --group dev --output-file requirements-dev.txt
	$(LOCK) --constraints requirements-dev.txt --group build --output-file requirements-build.txt
	$(LOCK) --no-deps --group gateways --output-file requirements-ctp.txt
	$(LOCK) --no-deps --constraints requirements-ctp.txt --group vnpy --output-file requirements-vnpy.txt

wheel: setup ## Build the sdist and the wheel into dist/
	$(BIN)/hatchling build

hooks: setup ## Let git check what is committed
	$(BIN)/pre-commit install

clean: ## Remove caches and build results
	rm -rf dist build site htmlcov .coverage .coverage.* .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -not -path './.venv/*' -not -path './.tools/*' -not -path './.ctp/*' -prune -exec rm -rf {} +

distclean: clean ## Remove also .venv, .tools and .ctp
	rm -rf .venv .tools .ctp
