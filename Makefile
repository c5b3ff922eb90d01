# Two commands do everything on a fresh machine: `make demo` and `make test`. Each does its own set-up first.
# Needed beforehand: Python 3.11 or later with venv, make, git.
#
#   make demo [FOR=30s] [CLOUD=pulsar]     CLOUD=pulsar: Apache Pulsar as the cloud; needs Java and Maven
#   make test [PYTEST_FLAGS="-k mqtt"]     begins with make check
#   make torture [HOURS=8]                 crash states for as long as you like
#   make bench                             one table for each script
#   make lock                              after a change of the dependencies in pyproject.toml

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.ready
CLOUD ?= headwater
FOR ?=
HOURS ?= 0.25
PYTEST_FLAGS ?=
# Nothing is written outside this folder.
export PIP_CACHE_DIR ?= $(CURDIR)/.cache/pip
PIP := $(BIN)/pip --quiet --disable-pip-version-check

.PHONY: setup demo test check format torture bench lock clean

setup: $(STAMP)
	@sh tools/install-servers.sh

$(STAMP): requirements.lock pyproject.toml
	@echo "setting up $(VENV) (once)"
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Headwater needs Python 3.11 or later; make PYTHON=… names one")'
	@$(PYTHON) -m venv $(VENV)
	@$(PIP) install --require-hashes -r requirements.lock
	@$(PIP) install --no-deps --no-build-isolation --editable .
	@touch $(STAMP)

demo: setup
	@$(if $(filter pulsar,$(CLOUD)),$(BIN)/python -m tests.support.pulsar )$(BIN)/headwater demo $(if $(FOR),--for $(FOR))

check: $(STAMP)
	$(BIN)/ruff format --check --quiet .
	$(BIN)/ruff check --quiet .
	$(BIN)/mypy gateway connectors firmware-sim/firmware_sim

test: setup check
	$(BIN)/python -m pytest -n 2 --dist loadfile $(PYTEST_FLAGS)

torture: setup
	$(BIN)/python tools/torture.py $(HOURS)

bench: setup
	@for script in bench/bench_*.py; do echo "== $$script"; $(BIN)/python -m bench.$$(basename $$script .py) || exit 1; done

lock:
	$(PYTHON) -m venv .cache/uv
	.cache/uv/bin/pip install --quiet --disable-pip-version-check uv==0.13.9
	.cache/uv/bin/uv --cache-dir .cache/uv-cache pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header --no-annotate \
		--extra dev -o requirements.lock pyproject.toml

format: $(STAMP)
	$(BIN)/ruff check --quiet --fix .
	$(BIN)/ruff format --quiet .

clean:
	rm -rf $(VENV) .cache .mypy_cache .ruff_cache .pytest_cache .hypothesis build dist
