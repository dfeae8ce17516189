# `make` alone lists the targets. Everything runs in the project's own .venv.

PYTHON ?=
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
DEVELOP := $(VENV)/.develop
# Packages come by uv, where there is one, and otherwise by pip; both check every hash. Bytecode is
# made by the first import, for the modules that are used.
UV := $(shell command -v uv)
INSTALL := $(if $(UV),uv pip install --quiet --python $(BIN)/python,$(BIN)/python -m pip install \
  --quiet --disable-pip-version-check --no-compile)
LOCK := uv pip compile --quiet --universal --python-version 3.11 --generate-hashes \
  --no-annotate --no-header --no-emit-index-url --no-emit-find-links
LOCKED := --require-hashes --no-deps -r
# Two processes, each with complete files of tests, which share their servers and trainings.
SIDE_BY_SIDE := --numprocesses 2 --dist loadfile

.DEFAULT_GOAL := help
.PHONY: help setup train unit test faults e2e check format lock benchmarks quarter clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "  make %-11s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: $(DEVELOP) ## create the whole environment in .venv (again only when a lock has changed)

train: $(READY) ## one run with the current settings: fetch, preprocess, train, evaluate, publish
	@$(BIN)/python flows/train.py $(ARGS)

unit: $(DEVELOP) ## run the unit tests (1 min)
	@$(BIN)/python -m pytest $(SIDE_BY_SIDE) tests/unit $(ARGS)

test: $(DEVELOP) ## run the unit and the integration tests (24 min)
	@$(BIN)/python -m pytest $(SIDE_BY_SIDE) $(ARGS)

faults: $(DEVELOP) ## interrupt every publication at every step, on three stores (15 min)
	@$(BIN)/python -m pytest tests/faults $(ARGS)

e2e: $(DEVELOP) ## run the end-to-end tests on the real stack, in a browser, in the image (22 min)
	@$(BIN)/python -m pytest $(SIDE_BY_SIDE) tests/e2e $(ARGS)

check: $(DEVELOP) ## check style, format and types
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

format: $(DEVELOP) ## format the code
	@$(BIN)/ruff check --fix-only --quiet .
	@$(BIN)/ruff format .

benchmarks: $(DEVELOP) ## measure the epoch (4 min) and the seeds (30 min), and store the tables
	{ $(BIN)/python benchmarks/epoch.py; $(BIN)/python benchmarks/epoch.py --without-determinism; } \
	  > $(VENV)/epoch.md && mv $(VENV)/epoch.md benchmarks/results/
	$(BIN)/python benchmarks/seeds.py > $(VENV)/seeds.md && mv $(VENV)/seeds.md benchmarks/results/

quarter: $(DEVELOP) ## play ninety nights on the real stack, and store the table (16 min)
	PYTHONPATH=.:deployments $(BIN)/python benchmarks/quarter.py > $(VENV)/quarter.md \
	  && mv $(VENV)/quarter.md benchmarks/results/

lock: ## update the hash-locked requirements from pyproject.toml (needs uv)
	$(LOCK) --upgrade pyproject.toml -o requirements.txt
	$(LOCK) --upgrade pyproject.toml --group dev -c requirements.txt -o requirements-dev.txt
	sed -n 's/^tensorflow==\([^ ]*\).*/tensorflow-cpu==\1/p' requirements.txt \
	  | $(LOCK) --no-deps - -o requirements-cpu.txt
	echo pip | $(LOCK) --upgrade - -o requirements-pip.txt

clean: ## remove the environment and the tools' leftovers
	rm -rf $(VENV) build *.egg-info .pytest_cache .mypy_cache .ruff_cache

# Uses the first supported Python it finds; PYTHON=... names another.
$(READY): requirements.txt requirements-pip.txt
	@set -e; for python in $(or $(PYTHON),python3 python3.13 python3.12 python3.11 python); do \
	  if $$python -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' \
	    2>/dev/null; then found=$$python; break; fi; \
	done; \
	if [ -z "$$found" ]; then \
	  echo "make: Python 3.11, 3.12 or 3.13 is needed, and none was found;" \
	    "install one, or name it with PYTHON=..." >&2; exit 1; fi; \
	if ! $$found -c 'import ensurepip, venv' 2>/dev/null; then \
	  echo "make: $$found has no venv; install it (Debian, Ubuntu: apt install python3-venv)" \
	    >&2; exit 1; fi; \
	echo "Creating the environment in $(VENV) with $$($$found --version) ..." >&2; \
	rm -rf $(VENV); $$found -m venv $(VENV)
	@# A recent pip, because one of 2023 takes twice as long.
	@$(if $(UV),,$(INSTALL) $(LOCKED) requirements-pip.txt)
	@$(INSTALL) $(LOCKED) requirements.txt
	@# Without setuptools' warning of what an editable installation is.
	@PYTHONWARNINGS=ignore $(INSTALL) --no-deps --no-build-isolation -e .
	@touch $@

$(DEVELOP): $(READY) requirements-dev.txt
	@echo "Adding the packages for development ..." >&2
	@$(INSTALL) $(LOCKED) requirements-dev.txt
	@$(BIN)/python -m pip check --quiet --disable-pip-version-check
	@touch $@
