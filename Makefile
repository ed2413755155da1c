# Every job of the project by name. `make` alone prints them.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
NORMS := ln bn bn_released pnv pn pn_alg2 rms scale group instance weight none
EXPERIMENTS := iwslt14 wmt14 multi30k ptb wikitext2 wikitext103
# Seeds of the demo: one alone orders nothing
SEEDS ?= 1,2,3
# Extra Hydra overrides for any run: make iwslt14-pn ARGS="seed=2 tracking=none"
ARGS ?=
# Extra options for pip while setting up, for example another index of packages
PIP_ARGS ?=

.PHONY: help setup demo bench test lint format report clean distclean

help: ## print this list
	@awk -F ':.*## ' '/^[a-z0-9%_ -]+:.*## / {printf "  %-22s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@for e in $(EXPERIMENTS); do printf '  %-22s %s\n' "$$e-NORM" "train, score and record $$e with NORM: $(NORMS)"; done

setup: $(READY) ## install everything into .venv (a second call installs nothing)

# pip's whole output is shown where it fails: with --quiet it would keep the reason of a conflict to itself.
pip_install = @echo "pip install $(1)"; $(BIN)/python -m pip install --disable-pip-version-check --progress-bar off $(PIP_ARGS) $(1) \
	>$(VENV)/pip.log 2>&1 || { status=$$?; cat $(VENV)/pip.log; exit $$status; }

$(READY): requirements.txt pyproject.toml setup.py $(wildcard normplugins/*/*.[ch] normplugins/*/*/*.[ch])
	@"$(PYTHON)" -c 'import sys; v = sys.version_info; sys.exit(0 if (3, 10) <= v < (3, 14) else f"Python 3.10-3.13 is needed, and $(PYTHON) is {v.major}.{v.minor}: make PYTHON=python3.12 ...")'
	@command -v c++ >/dev/null || { echo "a C++ compiler is needed to build fairseq and this project's kernels (Debian: apt install g++)"; exit 1; }
	"$(PYTHON)" -m venv $(VENV)
	$(call pip_install,-r requirements.txt)
	$(call pip_install,--no-deps fairseq==0.12.2)
	$(call pip_install,--no-deps --editable .)
	@touch $@

demo: setup ## ln, bn and pn on a generated corpus, several seeds (SEEDS=1,2,3): table and picture, in minutes on a CPU
	$(BIN)/normplugins run demo -m norm=ln,bn,pn seed=$(SEEDS) $(ARGS)
	$(BIN)/normplugins report

$(foreach e,$(EXPERIMENTS),$(foreach n,$(NORMS),$(eval .PHONY: $e-$n)$(eval $e-$n: setup ; $(BIN)/normplugins run $e norm=$n $(ARGS))))

report: setup ## print the tables of all recorded runs and write results/README.md
	$(BIN)/normplugins report

bench: setup ## speed beside the baselines: norms, a training update, translating, preparing; ARGS=--quick: main cases only
	for what in norm step decode prepare; do $(BIN)/python -m benchmarks.$$what $(ARGS); done

test: setup ## run the tests, a file on each core at a time
	$(BIN)/python -m pytest --numprocesses=auto --maxprocesses=8 --dist=loadfile $(ARGS)

lint: setup ## ruff on everything, mypy --strict on the norms, requirements.txt against the package registry
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo
	scripts/check_requirements.sh

format: setup ## let ruff rewrite the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean: ## remove caches; corpora, runs and results stay
	rm -rf .mypy_cache .pytest_cache .ruff_cache .hypothesis build *.egg-info
	find normplugins tests -name __pycache__ -prune -exec rm -rf {} +

distclean: clean ## remove the virtual environment too
	rm -rf $(VENV)
