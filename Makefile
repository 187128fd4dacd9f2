# Sets up .venv and runs what a reader wants to see first. `make help` lists the targets.
.POSIX:

PYTHON ?= python3
VENV = .venv
BIN = $(VENV)/bin
PIP = $(BIN)/python -m pip install --quiet --constraint constraints.txt

# Stamps: a step is repeated only when what it depends on has changed.
MADE = $(VENV)/.made
INSTALLED = $(VENV)/.installed
TEST = $(VENV)/.installed-test
CHECK = $(VENV)/.installed-check

help:
	@echo 'make demo    set up .venv and tune the bundled base on the bundled data (minutes, CPU, offline)'
	@echo 'make test    every test'
	@echo 'make check   format, lint, types, import rule, spelling, generated pages'
	@echo 'make format  format the code and write the generated pages anew'
	@echo 'make clean   remove .venv and caches; runs/ stays'
	@echo 'PYTHON=...   the Python to set up with (3.11 to 3.13), now: $(PYTHON)'

demo: $(INSTALLED)
	$(BIN)/luthier run

test: $(TEST)
	$(BIN)/python -m pytest --numprocesses auto --dist loadfile

check: $(CHECK)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/codespell
	$(BIN)/python tools/make_reference.py --check
	$(BIN)/python tools/make_capabilities.py --check

format: $(CHECK)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .
	$(BIN)/python tools/make_reference.py
	$(BIN)/python tools/make_capabilities.py

clean:
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(MADE):
	@command -v $(PYTHON) > /dev/null || { \
	  echo 'Luthier needs Python 3.11, 3.12 or 3.13, and "$(PYTHON)" is not there. Try: make PYTHON=python3.12' >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' || { \
	  echo "Luthier needs Python 3.11, 3.12 or 3.13; $(PYTHON) is $$($(PYTHON) --version 2> /dev/null || echo one that does not run). Try: make PYTHON=python3.12" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	@# dependency groups need pip 25.1; the one that comes with Python 3.11 is older
	$(BIN)/python -m pip install --quiet --upgrade 'pip>=25.1'
	@touch $@

$(INSTALLED): $(MADE) pyproject.toml constraints.txt
	$(PIP) --editable .
	@touch $@

$(TEST): $(INSTALLED)
	$(PIP) --group test
	@touch $@

$(CHECK): $(INSTALLED)
	$(PIP) --group check
	@touch $@

.PHONY: help demo test check format clean
