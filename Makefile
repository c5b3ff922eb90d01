# Two commands do everything on a fresh machine: `make demo` and `make test`. Both begin with `make setup`.
# Needed beforehand: Python 3.11 or later with venv, make, git.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.ready
CLOUD ?= headwater
FOR ?=
HOURS ?= 0.25
PYTEST_FLAGS ?=

.PHONY: setup demo test check format torture bench clean

setup: $(STAMP)
	@sh tools/install-servers.sh

$(STAMP): requirements.lock pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	touch $(STAMP)

demo: $(STAMP)
	@$(BIN)/headwater demo --cloud $(CLOUD) $(if $(FOR),--for $(FOR))

check: $(STAMP)
	$(BIN)/ruff format --check --quiet .
	$(BIN)/ruff check --quiet .
	$(BIN)/mypy gateway connectors firmware-sim/firmware_sim

test: setup check
	$(BIN)/python -m pytest -n 2 --dist loadfile $(PYTEST_FLAGS)

torture: setup
	HEADWATER_TORTURE_HOURS=$(HOURS) $(BIN)/python -m pytest tests/crash -q -s

bench: setup
	@for script in bench/bench_*.py; do echo "== $$script"; $(BIN)/python $$script || exit 1; done

format: $(STAMP)
	$(BIN)/ruff check --quiet --fix .
	$(BIN)/ruff format --quiet .

clean:
	rm -rf $(VENV) .cache .mypy_cache .ruff_cache .pytest_cache .hypothesis build dist
