# Everything a newcomer or a maintainer runs. `make demo` and `make test` need Python 3.11+ only.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: setup demo up down test check bench trust services lock wheel clean help

help:  ## this list
	@grep -E '^[a-z]+:.*##' Makefile | sed 's/:.*## /\t/' | expand -t 12

setup: $(STAMP)  ## make .venv and install the pinned lock (with ultralytics, AGPL-3.0, for training)

$(STAMP): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit("citybrain needs Python 3.11 or 3.12") if not (3, 11) <= sys.version_info[:2] < (3, 13) else None'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@test -x $(BIN)/uv || $(BIN)/python -m pip install -q --disable-pip-version-check uv
	@echo "Installing the pinned lock, with ultralytics (AGPL-3.0; used to train vehicle-detector only)."
	@# Compiled now: a sandbox sees the libraries read-only, and would compile them for every upload.
	@VIRTUAL_ENV=$(CURDIR)/$(VENV) $(BIN)/uv pip install -q --require-hashes --compile-bytecode -r requirements.lock
	@VIRTUAL_ENV=$(CURDIR)/$(VENV) $(BIN)/uv pip install -q --no-deps -e .
	@touch $(STAMP)

demo: $(STAMP)  ## the whole life of five starter algorithms, then a console to look at
	$(BIN)/citybrain demo

up: $(STAMP)  ## start the platform in the foreground
	$(BIN)/citybrain up

down: $(STAMP)  ## stop it
	$(BIN)/citybrain down

check: $(STAMP)  ## format, lint, types, import direction, spelling, house tests
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache >/dev/null || $(BIN)/lint-imports
	$(BIN)/codespell citybrain tests docs examples benchmarks README.md CONTRIBUTING.md CHANGELOG.md
	$(BIN)/python -m pytest -q tests/house

test: $(STAMP)  ## all tests at reduced counts
	$(BIN)/python -m pytest -q -n 2 --dist loadscope

services: $(STAMP)  ## the tests against PostgreSQL (CITYBRAIN_TEST_POSTGRES=postgresql+psycopg://…)
	$(BIN)/python -m pytest -q tests/integration/test_database.py

trust: $(STAMP)  ## the full counts; resumable; writes docs/trust.md
	-VIRTUAL_ENV=$(CURDIR)/$(VENV) $(BIN)/uv pip install -q "atheris>=3"  # without it fuzzing is skipped
	$(BIN)/python tests/trust/run.py

bench: $(STAMP)  ## the gateway against its peers, ratios in one run
	$(BIN)/python benchmarks/serving.py

lock:  ## compile requirements.lock again
	$(BIN)/uv pip compile -q pyproject.toml --extra ultralytics --extra dev --generate-hashes \
	  --no-emit-index-url -o requirements.lock --python-version 3.11

wheel: $(STAMP)  ## build the wheel into dist/
	$(BIN)/python -m build --wheel --no-isolation

clean:  ## remove what was built
	rm -rf build dist .mypy_cache .ruff_cache .pytest_cache
