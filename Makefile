# `make help` lists what there is. Only Python 3.10 or later is needed; `make parts` needs Go as well.

VENV ?= .venv
CONTRIB_VENV ?= .venv-contrib
BENCH_VENV ?= .venv-bench
PYTHON = $(VENV)/bin/python
PIP = $(PYTHON) -m pip --disable-pip-version-check
# Of the files in requirements/: what the environment of the tests has.
REQUIREMENTS ?= test lint docs
PYTEST_ARGS ?=
BENCH_ARGS ?=
# A choice of tests may leave none of those beside contrib, which pytest ends with 5 for.
OR_NONE = $(if $(strip $(PYTEST_ARGS)),|| [ $$? -eq 5 ])
# What runs beside something prints when it is done, where this `make` can do that.
KEPT_APART = $(if $(filter output-sync,$(.FEATURES)),--output-sync=target)

# The tests start thousands of Python processes, which would compile `clew` anew.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help demo test quick lint ruff mypy pyright format bench docs test-contrib test-pythons parts collector prometheus3 debian-parts uwsgi installed-for-tests clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

demo: $(VENV)/installed-for-demo ## the whole idea in a minute: a small shop under load, its report, one request followed
	$(PYTHON) examples/shop/demo.py

test: ## style, types and all tests; real parts that are missing are skipped (with CI set: a failure)
	$(MAKE) --no-print-directory -j 2 $(KEPT_APART) ruff mypy pyright $(CONTRIB_VENV)/installed
	$(PYTHON) -m pytest -n auto --ignore=tests/integrations/contrib --ignore=tests/workers/test_contrib_celery.py $(PYTEST_ARGS)
	$(MAKE) --no-print-directory test-contrib

quick: installed-for-tests ## the core's tests alone, in 40 seconds: what to run while you write
	$(PYTHON) -m pytest -q -x -n auto -m "not real" tests/core tests/metrics tests/settings $(PYTEST_ARGS)

test-contrib: $(CONTRIB_VENV)/installed ## the core and the integrations beside contrib's own, on the oldest SDK that clew supports
	$(CONTRIB_VENV)/bin/python -m pytest -q -n auto -m "not real" tests/core tests/metrics tests/integrations \
	    $(PYTEST_ARGS) $(OR_NONE)
	$(CONTRIB_VENV)/bin/python -m pytest -q tests/workers/test_contrib_celery.py $(PYTEST_ARGS) $(OR_NONE)

lint: ## style and types: ruff, mypy, pyright
	$(MAKE) --no-print-directory -j 2 $(KEPT_APART) ruff mypy pyright

ruff: installed-for-tests
	$(PYTHON) -m ruff check .
	$(PYTHON) -m ruff format --check .

mypy: installed-for-tests
	$(PYTHON) -m mypy

pyright: installed-for-tests
	$(PYTHON) -m pyright --project pyproject.toml --pythonpath $(PYTHON)

format: installed-for-tests ## rewrites the sources in the project's style
	$(PYTHON) -m ruff check --fix .
	$(PYTHON) -m ruff format .

docs: installed-for-tests ## the pages and the reference as a site in build/site, a warning is an error
	$(PYTHON) -m sphinx --fail-on-warning --keep-going -q -c docs -d build/doctrees . build/site
	@echo "The site is there: build/site/index.html"

bench: $(BENCH_VENV)/installed ## what a measured call costs, against the same by hand and others; takes about four minutes
	$(BENCH_VENV)/bin/python -m benchmarks $(BENCH_ARGS)

test-pythons: ## the tests that need no real parts, on every other Python version found here; 3.14 is brought (root on Debian)
	parts/test-pythons.sh

parts: ## brings what the end-to-end tests need: the Collector and Prometheus 3 (need Go), Prometheus and redis-server (from Debian)
	$(MAKE) --no-print-directory -j 3 collector prometheus3 debian-parts # compiling waits for the network at times
	$(MAKE) --no-print-directory uwsgi

debian-parts:
	parts/prometheus.sh
	parts/redis.sh

uwsgi: installed-for-tests ## builds uWSGI, which is a part of the Python that it is built with
	parts/uwsgi.sh $(PYTHON)

prometheus3: ## builds Prometheus 3, which takes OTLP itself, into build/
	parts/prometheus3.sh

collector: ## builds the OpenTelemetry Collector of collector-config/builder.yaml into build/
	parts/collector.sh

clean: ## removes what was built; the virtual environments too
	rm -rf build dist .venv .venv-3.* .venv-contrib .venv-bench .pytest_cache .hypothesis .mypy_cache .ruff_cache

# ------------------------------------------------------------------------------ virtual environments

# Each stamp is newer than all that decides what is installed, so a second run installs nothing.
installed-for-tests: $(VENV)/installed-for-tests

$(VENV)/installed-for-tests: pyproject.toml $(REQUIREMENTS:%=requirements/%.txt) requirements/constraints.txt | $(PYTHON)
	$(PIP) install --quiet -e '.[all]' $(REQUIREMENTS:%=-r requirements/%.txt) -c requirements/constraints.txt
	@touch $@

# contrib pins its SDK exactly, so it has an environment of its own, where only OpenTelemetry is another version
$(CONTRIB_VENV)/installed: pyproject.toml requirements/test.txt requirements/contrib.txt requirements/constraints.txt
	python=$$(parts/python.sh) && "$$python" -m venv $(CONTRIB_VENV)
	grep -v '^opentelemetry' requirements/constraints.txt > $(CONTRIB_VENV)/constraints.txt
	$(CONTRIB_VENV)/bin/python -m pip --disable-pip-version-check install --quiet -e '.[all]' \
	    -r requirements/test.txt -r requirements/contrib.txt -c $(CONTRIB_VENV)/constraints.txt
	@touch $@

$(BENCH_VENV)/installed: pyproject.toml requirements/bench.txt
	python=$$(parts/python.sh) && "$$python" -m venv $(BENCH_VENV)
	$(BENCH_VENV)/bin/python -m pip --disable-pip-version-check install --quiet -e . -r requirements/bench.txt
	@touch $@

$(VENV)/installed-for-demo: pyproject.toml examples/shop/requirements.txt requirements/constraints.txt | $(PYTHON)
	$(PIP) install --quiet -e '.[local]' -r examples/shop/requirements.txt -c requirements/constraints.txt
	@touch $@

$(PYTHON):
	python=$$(parts/python.sh) && "$$python" -m venv $(VENV)
