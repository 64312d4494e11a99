# `make help` lists what there is. Only Python 3.10 or later is needed; `make parts` needs Go as well.

VENV ?= .venv
PYTHON = $(VENV)/bin/python
PIP = $(PYTHON) -m pip --disable-pip-version-check
PYTEST_ARGS ?=

.DEFAULT_GOAL := help
.PHONY: help demo test lint format bench test-pythons parts collector installed-for-tests clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

demo: $(VENV)/installed-for-demo ## the whole idea in a minute: a small shop under load, its report, one request followed
	$(PYTHON) examples/shop/demo.py

test: lint ## style, types and all tests; real parts that are missing are skipped (with CI set: a failure)
	$(PYTHON) -m pytest $(PYTEST_ARGS)

lint: installed-for-tests ## style and types: ruff, mypy, pyright
	$(PYTHON) -m ruff check .
	$(PYTHON) -m ruff format --check .
	$(PYTHON) -m mypy
	$(PYTHON) -m pyright

format: installed-for-tests ## rewrites the sources in the project's style
	$(PYTHON) -m ruff check --fix .
	$(PYTHON) -m ruff format .

bench: installed-for-tests ## what a measured call costs, against the same by hand
	$(PYTHON) -m benchmarks

test-pythons: ## the tests that need no real parts, on every other Python version found here
	parts/test-pythons.sh

parts: collector ## brings what the end-to-end tests need: the Collector (needs Go), Prometheus (from Debian)
	parts/prometheus.sh

collector: ## builds the OpenTelemetry Collector of collector-config/builder.yaml into build/
	parts/collector.sh

clean: ## removes what was built; the virtual environments too
	rm -rf build dist .venv .venv-3.* .pytest_cache .hypothesis .mypy_cache .ruff_cache

# ------------------------------------------------------------------------------ virtual environments

# Each stamp is newer than all that decides what is installed, so a second run installs nothing.
installed-for-tests: $(VENV)/installed-for-tests

$(VENV)/installed-for-tests: pyproject.toml requirements/test.txt requirements/constraints.txt | $(PYTHON)
	$(PIP) install --quiet -e '.[all]' -r requirements/test.txt -c requirements/constraints.txt
	@touch $@

$(VENV)/installed-for-demo: pyproject.toml examples/shop/requirements.txt requirements/constraints.txt | $(PYTHON)
	$(PIP) install --quiet -e '.[local]' -r examples/shop/requirements.txt -c requirements/constraints.txt
	@touch $@

$(PYTHON):
	python=$$(parts/python.sh) && "$$python" -m venv $(VENV)
