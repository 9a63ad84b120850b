# `make demo` and `make test` need Python 3.11 or newer and make, nothing else.
PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip install --quiet --constraint constraints.txt
DEMO := runs/demo

.PHONY: demo test docs check format clean

.venv/bin/python:
	$(PYTHON) -m venv .venv

.venv/core: pyproject.toml constraints.txt | .venv/bin/python
	$(PIP) --editable .
	touch $@

.venv/dev: pyproject.toml constraints.txt | .venv/bin/python
	$(PIP) --editable ".[dev]"
	touch $@ .venv/core

# Chromium serves the browser tests only. Where it cannot be installed they are skipped and say so.
.venv/chromium: | .venv/bin/python
	@command -v chromium chromium-browser google-chrome >/dev/null 2>&1 \
	  || { [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1 \
	       && apt-get update -qq && apt-get install -y -qq --no-install-recommends chromium; } \
	  || echo "No Chromium here and no way to install it: the browser tests will be skipped."
	touch $@

demo: .venv/core
	$(BIN)/fairclip compare --quick --out $(DEMO) --overwrite

# A thread for each of the two processes: more of them wait for each other most of the time.
test: .venv/dev .venv/chromium
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2

# Executes the notebooks that have changed. Nothing is fetched: no fonts, no scripts, no inventories.
docs: .venv/dev
	$(BIN)/python -m sphinx --fail-on-warning --keep-going docs docs/_build/html

check: .venv/dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: .venv/dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf .venv build dist *.egg-info docs/_build docs/notebooks docs/responsible_use.md docs/study/pages
