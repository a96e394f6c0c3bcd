# `make help` lists what there is. Every target sets up .venv by itself, and again only after
# pyproject.toml, setup.py or constraints.txt has changed.
PROFILE ?= laptop
ARGS ?=
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV ?= .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
# One thread each: torch programs side by side would wait for each other's threads.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n logical --maxprocesses 4 --dist worksteal

.DEFAULT_GOAL := help
.PHONY: help reproduce check test lint lab clean

help:  ## this list
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## */\t/' | expand -t 12

reproduce: $(READY)  ## all figures and tables (PROFILE=smoke for a quick try; ARGS="--from 03", see icreward reproduce -h)
	$(BIN)/icreward reproduce --profile $(PROFILE) $(ARGS)

check: lint  ## lint and the fast tests: three minutes on two cores
	$(PYTEST) -m "not slow and not e2e"

test: lint  ## lint, all tests, and every notebook under the smoke profile: twenty minutes on two cores
	$(PYTEST)
	ICREWARD_PROFILE=smoke $(BIN)/python -m pytest -x --nbval-lax --nbval-current-env --nbval-cell-timeout=600 notebooks

lint: $(READY)  ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/mypy

lab: $(READY)  ## the notebooks in JupyterLab
	$(BIN)/jupyter lab --LabApp.default_url=/lab/tree/notebooks

clean:  ## delete cached stages and other by-products; results, figures and .venv stay
	rm -rf .cache .hypothesis .mypy_cache .pytest_cache .ruff_cache build *.egg-info
	rm -rf results/smoke results/*-changed figures/smoke figures/*-changed
	find . -path './$(VENV)' -prune -o -name __pycache__ -type d -print0 | xargs -0 rm -rf
	find notebooks -name .ipynb_checkpoints -type d -prune -exec rm -rf {} + 2>/dev/null || true

$(READY): pyproject.toml constraints.txt setup.py
	@$(PYTHON) -c 'import sys; sys.exit(None if sys.version_info >= (3, 11) else "Python 3.11 or newer is needed: make PYTHON=/path/to/python3.11")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[all]'
	@touch $@
