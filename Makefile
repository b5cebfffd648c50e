# Petavoxel: `make demo` and `make test` do all the set-up themselves.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed

export OMP_NUM_THREADS ?= 1

.PHONY: help demo test test-slow check format wheel clean
help:            ## show this list
	@grep -hE '^[a-z-]+: *.*##' $(MAKEFILE_LIST) | sed -E 's/:.*##/\t/'

$(STAMP): pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit("Petavoxel needs Python 3.11 or newer: make PYTHON=python3.11 ...") if sys.version_info < (3, 11) else None'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade pip
	$(BIN)/pip install --quiet --editable '.[dev,hpc]'
	@touch $@

demo: $(STAMP)   ## phantom tiles in, published volume out, with every figure measured
	$(BIN)/petavoxel demo

test: $(STAMP)   ## all tests but those that take minutes (test-slow)
	$(BIN)/pytest -m 'not slow'

test-slow: $(STAMP)  ## the tests that take minutes
	$(BIN)/pytest -m slow

check: $(STAMP)  ## format, lint, types, layers
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(STAMP) ## rewrite the source in the house format
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

wheel: $(STAMP)  ## build dist/petavoxel-*.whl
	$(BIN)/pip wheel --quiet --no-deps --wheel-dir dist .

clean:           ## remove what the targets above made, the environment too
	rm -rf $(VENV) dist demo .pytest_cache .mypy_cache .ruff_cache .import_linter_cache
