# Python 3.11+ and make are enough: every target sets up what it needs, once, in .venv.

# The first Python that is new enough; `make PYTHON=/path/to/python test` picks another.
PYTHON ?= $(shell for name in python3 python3.13 python3.12 python3.11 python; do \
	$$name -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$name && break; done)

VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
WITNESS := .venv-witness
LOCK_OPTIONS := --universal --python-version 3.11 --generate-hashes --no-annotate --no-emit-index-url \
	--no-emit-find-links --quiet --custom-compile-command "make lock"

.DEFAULT_GOAL := help
.PHONY: help setup demo test torture cover check lint types format docs bench build lock audit clean

help:  ## this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(READY)  ## make .venv with everything that the other targets need

demo: $(READY)  ## plan, apply and plan again against the Director emulator
	$(BIN)/dsync demo

test: $(READY) $(WITNESS)/.ready  ## run all tests, in parallel
	$(BIN)/python -m pytest

torture: $(READY)  ## kills, power cuts, faults, races: a bad year in an hour (OPTIONS=--quick: a tenth)
	$(BIN)/python tests/torture/run.py $(OPTIONS)

cover: $(READY) $(WITNESS)/.ready  ## run all tests and show lines and branches that none of them passes
	$(BIN)/python -m pytest --cov --cov-report=term

check: lint types test  ## what has to be green before a push: lint, types, test

lint: $(READY)  ## ruff: rules and format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(READY)  ## mypy --strict over src
	$(BIN)/mypy

format: $(READY)  ## let ruff mend what it can
	$(BIN)/ruff check --fix-only .
	$(BIN)/ruff format .

docs: $(READY)  ## run the README's blocks, check the links and the generated tables
	$(BIN)/python -m pytest tests/test_docs.py

bench: $(READY)  ## measure against hand-written SQL and diffsync (OPTIONS=--quick or --full)
	$(BIN)/python benchmarks/run.py $(OPTIONS)

build: $(READY)  ## sdist and wheel into dist/
	$(BIN)/python -m build

lock: $(READY)  ## renew the lock files from pyproject.toml
	$(BIN)/uv pip compile pyproject.toml $(LOCK_OPTIONS) --upgrade --output-file requirements.lock
	$(BIN)/uv pip compile pyproject.toml $(LOCK_OPTIONS) --upgrade --group dev \
		--constraint requirements.lock --output-file requirements-dev.lock
	$(BIN)/uv pip compile $(LOCK_OPTIONS) --upgrade --group pyproject.toml:witness \
		--output-file requirements-witness.lock
	@! grep -nE '://|index-url|find-links' requirements*.lock

audit: $(READY)  ## known weaknesses in what we install (asks the network), and in our code
	$(BIN)/pip-audit --requirement requirements.lock --disable-pip --require-hashes
	$(BIN)/bandit --quiet --recursive --configfile pyproject.toml \
		--severity-level medium --confidence-level medium src

clean:  ## remove what was made, .venv too
	rm -rf $(VENV) $(WITNESS) build dist benchmarks/data .coverage .coverage.* coverage.xml htmlcov
	rm -rf .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find src tests benchmarks examples -name __pycache__ -type d -prune -exec rm -rf {} + 2>/dev/null || true

# Made again when a lock or pyproject.toml changes; a half-made .venv has no stamp and is begun anew.
$(READY): requirements-dev.lock pyproject.toml
	@test -n "$(PYTHON)" || { \
		echo "No Python 3.11 or newer found: install one, or name it: make PYTHON=/path/to/python3.11 $(MAKECMDGOALS)" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "$(PYTHON) is older than 3.11: name a newer one: make PYTHON=/path/to/python3.11 $(MAKECMDGOALS)" >&2; exit 1; }
	rm -f $@
	$(PYTHON) -m venv --clear $(VENV) || { \
		echo "$(PYTHON) cannot make a virtual environment: on Debian and Ubuntu install python3-venv." >&2; exit 1; }
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements-dev.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

# Other people's clients, for the tests that let them speak with our emulators. Where they cannot be
# installed, those tests are skipped.
$(WITNESS)/.ready: requirements-witness.lock $(READY)
	rm -rf $(WITNESS)
	@$(BIN)/python -m venv $(WITNESS) && $(WITNESS)/bin/python -m pip install --quiet --no-compile \
		--disable-pip-version-check --require-hashes -r requirements-witness.lock && touch $@ || { \
		rm -rf $(WITNESS); echo "pytd cannot be installed here: its tests are skipped" >&2; }
