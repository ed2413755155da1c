# The tasks of the project. `make` alone lists them.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
EXPERIMENTS := $(filter-out _% demo custom custom_lm,$(basename $(notdir $(wildcard configs/*.yaml))))
# Seeds of the demo: one seed cannot rank norms
SEEDS ?= 1,2,3
# Extra Hydra overrides for any run: make iwslt14-pn ARGS="seed=2 tracking=none"
ARGS ?=
# Extra options for pip during the setup, for example the address of another package index
PIP_ARGS ?=
# The supported Python versions, as pyproject.toml states them: >=3.10,<3.14
REQUIRES_PYTHON := $(shell sed -nE 's/^requires-python = "(.*)"$$/\1/p' pyproject.toml)

.PHONY: help setup requirements demo bench test-fast test lint format report clean distclean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z0-9%_ -]+:.*## / {printf "  %-22s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@for e in $(EXPERIMENTS); do printf '  %-22s %s\n' "$$e-NORM" "train, score and record $$e with one of these norms:"; done
	@$(BIN)/python -m normplugins norms 2>/dev/null | sed -n 's/^  [a-z]/  &/p' || true
	@test -x $(BIN)/python || echo "    (make setup installs the package, which lists its norms)"

setup: $(READY) ## install everything into .venv; does nothing if it is up to date

# pip's output goes to a log that is printed if pip fails: with --quiet, pip would hide the reason for a conflict.
pip_install = @echo "pip install $(1)"; $(BIN)/python -m pip install --disable-pip-version-check --progress-bar off $(PIP_ARGS) $(1) \
	>$(VENV)/pip.log 2>&1 || { status=$$?; cat $(VENV)/pip.log; exit $$status; }

$(READY): requirements.txt pyproject.toml setup.py $(shell find normplugins -name '*.[ch]')
	@"$(PYTHON)" -c 'import sys; first, end = (tuple(map(int, bound.strip("<>=").split("."))) for bound in "$(REQUIRES_PYTHON)".split(",")); \
	sys.exit(0 if first <= sys.version_info[:2] < end else "Python $(REQUIRES_PYTHON) is needed, but $(PYTHON) is {}.{}: make PYTHON=python3.12 ...".format(*sys.version_info))'
	@command -v c++ >/dev/null || { echo "a C++ compiler is needed to build fairseq and the CPU kernels (Debian: apt install g++)"; exit 1; }
	"$(PYTHON)" -m venv $(VENV)
	$(call pip_install,-r requirements.txt)
	$(call pip_install,--no-deps fairseq==0.12.2)
	$(call pip_install,--no-deps --editable .)
	@touch $@

requirements: ## pin what pyproject.toml needs in requirements.txt; versions that still fit are kept
	scripts/check_requirements.sh --write

demo: setup ## train ln, bn and pn on a generated corpus (SEEDS=1,2,3); prints a table and draws a figure
	$(BIN)/normplugins run demo -m norm=ln,bn,pn seed=$(SEEDS) $(ARGS)
	$(BIN)/normplugins report --local --runs runs/demo

# Targets such as iwslt14-pn, with any registered norm, for all experiments except demo, custom and custom_lm
$(foreach e,$(EXPERIMENTS),$(eval $e-%: setup ; $(BIN)/normplugins run $e norm=$$* $(ARGS)))

report: setup ## print the tables of all published runs and write results/README.md
	$(BIN)/normplugins report

# step and decode have only main cases, and no option --quick
bench: setup ## measure speed against baselines: norms, preparation, training updates, translation; ARGS=--quick: main cases only
	for what in norm prepare; do $(BIN)/python -m benchmarks.$$what $(ARGS); done
	for what in step decode; do $(BIN)/python -m benchmarks.$$what $(filter-out --quick,$(ARGS)); done

# The models of the tests are so small that threads would only wait for each other.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses=auto --maxprocesses=8 --dist=loadfile --no-loadscope-reorder

test-fast: setup ## run the tests that take less than a second each
	$(PYTEST) -m "not slow and not gpu and not slurm" $(ARGS)

test: setup ## run all tests
	$(PYTEST) $(ARGS)

lint: setup ## run ruff, mypy and the import contracts; check requirements.txt against the package registry
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo
	scripts/check_requirements.sh

format: setup ## format the code and apply ruff's fixes
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean: ## remove caches; keeps corpora, runs and results
	rm -rf .mypy_cache .pytest_cache .ruff_cache .hypothesis build *.egg-info
	find normplugins tests -name __pycache__ -prune -exec rm -rf {} +

distclean: clean ## also remove the virtual environment
	rm -rf $(VENV)
