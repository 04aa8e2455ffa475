# Needs Python >= 3.11, make and git. Everything is installed into .venv; nothing else is touched.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
DEMO ?= demo-output

.PHONY: help setup demo test lint clean

help:
	@echo "make demo    set up, make a scene, train, map it, score it: everything lands in $(DEMO)/"
	@echo "make test    set up, lint, type-check, run the tests"
	@echo "make setup   only set up"
	@echo "make clean   remove the environment, caches and the demo"

setup: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -c 'import sys; sys.exit("geoseg needs Python >= 3.11, this is " + sys.version) if sys.version_info < (3, 11) else None'
	$(BIN)/python -m pip install --disable-pip-version-check --quiet -c constraints.txt -e ".[dev]"
	touch $(STAMP)

demo: $(STAMP)
	$(BIN)/geoseg demo $(DEMO)

test: $(STAMP) lint
	OMP_WAIT_POLICY=PASSIVE $(BIN)/python -m pytest

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

clean:
	rm -rf $(VENV) $(DEMO) .pytest_cache .mypy_cache .ruff_cache build dist
	find geoseg tests benchmarks -name __pycache__ -prune -exec rm -rf {} +
