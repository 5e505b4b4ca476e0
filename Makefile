# Needs Python 3.11 or newer (with its venv module), make and git; everything else comes into .venv/.
#   PYTHON=...       the Python to build .venv with; otherwise the first fitting one of the list below
#   TORCH_INDEX=...  one more package index for the install, such as PyTorch's own for CPU-only builds (see README.md)
PYTHON ?= python3.11 python3.12 python3
TORCH_INDEX ?=

VENV := .venv
BIN := $(VENV)/bin
# torch and torchvision are resolved in one pip command, so that the pair fits.
INSTALL = $(BIN)/python -m pip install --disable-pip-version-check $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX)) --editable

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.NOTPARALLEL:
.PHONY: help setup run test test-gpu lint format docs clean

help: ## print this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-8s %s\n", $$1, $$2 }' Makefile

setup: $(VENV)/.stamp-dev ## install fedkd and everything that development needs

run: $(VENV)/.stamp-run ## run the default experiment; prints a table and the run folder
	$(BIN)/fedkd run

test: $(VENV)/.stamp-dev ## run all tests, on two processes
	@OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 --dist loadgroup || { \
	  code=$$?; [ $$code -ne 5 ] || echo 'make test: pytest found no test to run (exit 5)' >&2; exit $$code; }

test-gpu: $(VENV)/.stamp-dev ## run the tests that need a GPU; where there is none they are skipped, and that is no failure
	@OMP_NUM_THREADS=1 $(BIN)/pytest -m gpu

lint: $(VENV)/.stamp-dev ## check style, types and the direction of imports
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

format: $(VENV)/.stamp-dev ## rewrite the code in the project's format
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

docs: $(VENV)/.stamp-dev ## rewrite the tables of docs/ from the measured figures
	$(BIN)/python docs/build_tables.py

clean: ## remove caches and build products; keeps .venv, runs and data
	rm -rf dist .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
	find fedkd tests -name __pycache__ -type d -prune -exec rm -rf {} +

# A stamp says: installed since pyproject.toml last changed. So a second call installs nothing.
$(VENV)/.stamp-run: pyproject.toml $(VENV)/pyvenv.cfg
	$(INSTALL) '.[simulation,viz]'
	@touch $@

$(VENV)/.stamp-dev: pyproject.toml $(VENV)/pyvenv.cfg
	$(INSTALL) '.[dev]'
	@touch $@ $(VENV)/.stamp-run

$(VENV)/pyvenv.cfg:
	@for python in $(PYTHON); do \
	  "$$python" -c 'import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || continue; \
	  echo "$$python -m venv $(VENV)"; exec "$$python" -m venv --clear $(VENV); \
	done; \
	{ echo 'No Python 3.11 or newer with a working venv module was found; tried: $(PYTHON).'; \
	  echo 'On Debian or Ubuntu: apt-get install python3 python3-venv'; \
	  echo 'To use another Python: make PYTHON=/path/to/python3.12 setup'; } >&2; exit 1
