# make demo and make test need python3 (3.11 or newer) with venv, git and make; they set up what else is missing.
# VENV=DIR   another place for the environment      PYTHON=python3.12   another interpreter
# DEMO="stem --headless --seconds 30"               TESTS="tests/data -x"
# PROBELOOP_PEERS=DIR   another place than .peers for what make peers makes
SHELL := /bin/bash
PYTHON ?= python3
VENV ?= .venv
DEMO ?= stem
TESTS ?=
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
ROOMS := src plugins drivers simulators gui

.DEFAULT_GOAL := help
.PHONY: help demo test lint format setup peers wheel clean

help: ## say what there is
	@awk -F ' ?## ' '/^[a-z]+:.*## / {sub(/:.*/, "", $$1); printf "make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: $(VENV)/ready-to-run ## simulated microscope, live plug-ins, closed loop: in a window, or headless with a report
	@$(BIN)/probeloop demo $(DEMO)

test: lint ## everything that is checked: format, lint, types, tests
	@$(BIN)/pytest -q $(TESTS)

lint: $(VENV)/ready-to-develop ## format, lint and types alone
	@$(BIN)/ruff format --check --quiet . || { echo "not formatted: run make format"; exit 1; }
	@$(BIN)/ruff check --quiet .
	@$(BIN)/mypy

format: $(VENV)/ready-to-develop ## rewrite the sources in the one format
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --quiet --fix-only .

setup: $(VENV)/ready-to-develop ## only install what the others need

peers: ## environments of their own for the programs that drivers are tested against (once; some minutes)
	@PYTHON=$(PYTHON) .ci/peers

wheel: $(VENV)/ready-to-develop ## build dist/*.whl
	@rm -rf build  # a stale build/ ships deleted files
	@$(PIP) wheel -q --no-deps --no-build-isolation -w dist .
	@rm -rf build

clean: ## remove what the others made
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find $(ROOMS) tests -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/bin/python:
	@command -v $(PYTHON) >/dev/null || { echo "no $(PYTHON). Install Python 3.11 or newer, or name yours: make PYTHON=..."; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "$(PYTHON) is older than 3.11. Name a newer one: make PYTHON=..."; exit 1; }
	@$(PYTHON) -m venv $(VENV) \
	  || { rm -rf $(VENV); echo "no venv in $(PYTHON). On Debian: sudo apt-get install python3-venv"; exit 1; }

$(VENV)/ready-to-run: pyproject.toml constraints.txt | $(VENV)/bin/python
	@.ci/system-libraries window
	@echo "setting up $(VENV) (once; takes a few minutes)"
	@$(PIP) install -q -c constraints.txt setuptools
	@$(PIP) install -q -c constraints.txt --no-build-isolation -e '.[gui,formats]'
	@touch $@

$(VENV)/ready-to-develop: pyproject.toml constraints.txt | $(VENV)/bin/python
	@.ci/system-libraries tests
	@echo "setting up $(VENV) (once; takes a few minutes)"
	@$(PIP) install -q -c constraints.txt setuptools
	@$(PIP) install -q -c constraints.txt --no-build-isolation -e '.[dev]'
	@touch $@ $(VENV)/ready-to-run
